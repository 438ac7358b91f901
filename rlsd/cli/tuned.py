"""Which hyperparameters a run gets: the tuned ones of its environment, changed by what the command line says.

They are kept as plain YAML values (``learning_rate: lin_0.001``), as they stand in the run's ``config.yml``, and
become objects only when the agent is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlsd.cli.checks import OF_THE_NOISE, OF_THE_RUN, SCHEDULES, lin_start
from rlsd.cli.values import numbers_of

#: The entry of all Atari games.
ATARI = "atari"
TABLES = Path(__file__).parent / "hyperparams"

#: The policies that are small unless ``net_arch`` says otherwise.
_SMALL = ("MlpPolicy", "LinearPolicy", "MlpLstmPolicy")
#: Layers from here on are worth more than one thread, and an accelerator.
_WIDE = 1024
#: What rl_zoo3 takes for most environments.
_NOISE_STD = 0.1


@dataclass(frozen=True)
class Hyperparams:
    """The hyperparameters of one run.

    :param values: plain values by name, as in ``config.yml``.
    :param source: where they come from, for people: ``"tuned for CartPole-v1"``.
    """

    values: dict[str, Any]
    source: str

    @property
    def n_envs(self) -> int:
        """Copies of the environment that run in parallel."""
        return int(self.values["n_envs"])

    @property
    def n_timesteps(self) -> int:
        """Environment steps to train for, all copies together."""
        return int(self.values["n_timesteps"])

    @property
    def policy(self) -> str:
        """Name of the SB3 policy."""
        return str(self.values["policy"])

    @property
    def normalize(self) -> dict[str, Any] | None:
        """Arguments for ``VecNormalize``, or ``None`` when the environment is not normalised."""
        wanted = self.values.get("normalize", False)
        if wanted is False or wanted is None:
            return None
        # Returns are normalised with the discount the agent learns with.
        discount = {"gamma": self.values["gamma"]} if "gamma" in self.values else {}
        return {**discount, **(wanted if isinstance(wanted, dict) else {})}

    @property
    def small(self) -> bool:
        """Whether the networks are so small that threads and accelerators cost more than they give."""
        architecture = (self.values.get("policy_kwargs") or {}).get("net_arch")
        return self.policy in _SMALL and max(_widths(architecture), default=0) < _WIDE

    def agent_kwargs(self, action_space: Any = None) -> dict[str, Any]:
        """Return the arguments for the algorithm's constructor, with schedules, noise and classes made.

        :param action_space: of the environment; noise on the actions needs its shape.
        """
        ours = (*OF_THE_RUN, *OF_THE_NOISE, "policy")
        kwargs = {key: value for key, value in self.values.items() if key not in ours}
        for key in SCHEDULES:
            if key in kwargs:
                kwargs[key] = _schedule(kwargs[key])
        if isinstance(kwargs.get("train_freq"), list):
            kwargs["train_freq"] = tuple(kwargs["train_freq"])
        if kwargs.get("policy_kwargs"):
            kwargs["policy_kwargs"] = _policy_kwargs(kwargs["policy_kwargs"])
        if any(key in self.values for key in OF_THE_NOISE):
            std = self.values.get("noise_std", _NOISE_STD)
            kwargs["action_noise"] = _noise(self.values.get("noise_type", "normal"), std, action_space)
        return kwargs


def look_up(algo: str, env_id: str, observation_space: Any, changes: Mapping[str, Any]) -> Hyperparams:
    """Find the tuned hyperparameters for ``env_id`` and apply ``changes``.

    :param algo: name of the algorithm, as in ``--algo``.
    :param env_id: Gymnasium id. An entry for another version of the same environment serves too.
    :param observation_space: decides the policy class where none is named.
    :param changes: what the command line says, by name.
    """
    table = _table(algo)
    key = _entry(table, env_id)
    values = {"policy": _policy_for(observation_space, algo), "n_envs": 1, **numbers_of(table[key]), **changes}
    if env_id.startswith("MinAtar/") and values["policy"] == "MlpPolicy":
        values.setdefault("policy_kwargs", {"features_extractor_class": "GridCnn"})
    return Hyperparams(values, f"tuned for {key}" if key != "default" else f"{algo.upper()} defaults")


@cache
def _table(algo: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((TABLES / f"{algo}.yml").read_text(encoding="utf-8"))
    return found


def _entry(table: Mapping[str, Any], env_id: str) -> str:
    if env_id in table:
        return env_id
    if env_id.startswith("ALE/") and ATARI in table:
        return ATARI
    name = env_id.rpartition("-v")[0]
    return next((key for key in table if name and key.rpartition("-v")[0] == name), "default")


def _policy_for(observation_space: Any, algo: str) -> str:
    """Return the policy class for what is observed: ``MlpPolicy``, ``CnnPolicy`` or ``MultiInputPolicy``."""
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    kind = "Mlp"
    if isinstance(observation_space, spaces.Dict):
        kind = "MultiInput"
    elif is_image_space(observation_space):
        first = is_image_space_channels_first(observation_space)
        height_width = observation_space.shape[1:] if first else observation_space.shape[:2]
        # SB3's CNN needs at least 36 pixels each way.
        kind = "Cnn" if min(height_width) >= 36 else "Mlp"
    return f"{kind}LstmPolicy" if algo == "ppo_lstm" else f"{kind}Policy"


def _widths(architecture: Any) -> Iterator[int]:
    """Give the widths of all layers in a ``net_arch``."""
    if isinstance(architecture, int | float):
        yield int(architecture)
    elif isinstance(architecture, dict | list):
        for part in architecture.values() if isinstance(architecture, dict) else architecture:
            yield from _widths(part)


def _schedule(value: Any) -> Any:
    """Return SB3's own schedule class for ``lin_NUMBER``: it unpickles where rlsd is missing."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    from stable_baselines3.common.utils import LinearSchedule

    return LinearSchedule(float(lin_start(value)), 0.0, 1.0)


def _policy_kwargs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy's arguments with the names of activation and features extractor replaced by their classes."""
    classes: dict[str, Any] = {}
    if "activation_fn" in values:
        import torch

        classes["activation_fn"] = getattr(torch.nn, str(values["activation_fn"]).removeprefix("nn."))
    if "features_extractor_class" in values:
        import rlsd_envs

        classes["features_extractor_class"] = getattr(rlsd_envs, str(values["features_extractor_class"]))
    return {**values, **classes}


def _noise(kind: str | None, std: float | None, action_space: Any) -> Any:
    """Return SB3's noise for actions in [-1, 1], None for none."""
    if kind in (None, "none") or not std:
        return None
    import numpy as np
    from stable_baselines3.common import noise

    cls = noise.NormalActionNoise if kind == "normal" else noise.OrnsteinUhlenbeckActionNoise
    return cls(np.zeros(action_space.shape), np.full(action_space.shape, float(std)))
