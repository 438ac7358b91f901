"""Which hyperparameters a run gets: the tuned ones of its environment, changed by what the command line says.

They are kept as plain YAML values (``learning_rate: lin_0.001``), as they stand in the run's ``config.yml``, and
become objects only when the agent is built.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlsd.cli.errors import UserError, nearest
from rlsd.cli.values import numbers_of, parse_value

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

TABLES = Path(__file__).parent / "hyperparams"

#: Constructor arguments with a flag of their own, or which no plain value can express.
_NOT_HYPERPARAMETERS = {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
_NOT_PLAIN = {"rollout_buffer_class", "rollout_buffer_kwargs"}
#: Ours, which go to the run and not to the constructor.
_OF_THE_RUN = ("n_envs", "n_timesteps", "normalize")
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
_ACTIVATIONS = ("Tanh", "ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Mish", "Softplus")
_POLICY_KWARGS = (
    *("net_arch", "activation_fn", "log_std_init", "ortho_init", "full_std", "use_expln", "squash_output"),
    *("share_features_extractor", "normalize_images", "optimizer_kwargs"),
)
_NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")

_COUNTS = ("n_envs", "n_timesteps", "n_steps", "batch_size", "n_epochs")
_RANGES = {
    **dict.fromkeys(("learning_rate", "clip_range", "clip_range_vf", "max_grad_norm", "target_kl"), (0.0, math.inf)),
    **dict.fromkeys(("ent_coef", "vf_coef", "rms_prop_eps"), (0.0, math.inf)),
    **dict.fromkeys(("gamma", "gae_lambda"), (0.0, 1.0)),
}


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

    def agent_kwargs(self) -> dict[str, Any]:
        """Return the arguments for the algorithm's constructor, with schedules and classes made."""
        kwargs = {key: value for key, value in self.values.items() if key not in (*_OF_THE_RUN, "policy")}
        for key in _SCHEDULES:
            if key in kwargs:
                kwargs[key] = _schedule(key, kwargs[key])
        if kwargs.get("policy_kwargs"):
            kwargs["policy_kwargs"] = _policy_kwargs(kwargs["policy_kwargs"])
        return kwargs


def look_up(algo: str, env_id: str, observation_space: Any, changes: Mapping[str, Any]) -> Hyperparams:
    """Find the tuned hyperparameters for ``env_id`` and apply ``changes``.

    :param algo: name of the algorithm, as in ``--algo``.
    :param env_id: Gymnasium id. An entry for another version of the same environment serves too.
    :param observation_space: decides the policy class where none is named.
    :param changes: what the command line says, by name.
    """
    table = yaml.safe_load((TABLES / f"{algo}.yml").read_text(encoding="utf-8"))
    key = _entry(table, env_id)
    values = {"policy": _policy_for(observation_space), **numbers_of(table[key]), **changes}
    return Hyperparams(values, f"tuned for {key}" if key != "default" else f"{algo.upper()} defaults")


def check(values: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """Return ``values`` with whole numbers as such, or say which name or value is wrong.

    :raises UserError: for a name the algorithm does not take, or a value out of its range.
    """
    arguments = set(inspect.signature(algorithm.__init__).parameters) - _NOT_HYPERPARAMETERS - _NOT_PLAIN
    known = arguments | set(_OF_THE_RUN)
    for key in values:
        if key not in known:
            hint = nearest(key, known) or f"known: {', '.join(sorted(known))}"
            raise UserError(f"unknown hyperparameter {key!r} for {algorithm.__name__}; {hint}")
    checked = {key: _checked(key, value) for key, value in values.items()}
    if checked.get("policy_kwargs"):
        _policy_kwargs(checked["policy_kwargs"])
    _check_normalize(checked.get("normalize", False))
    return checked


def _entry(table: Mapping[str, Any], env_id: str) -> str:
    if env_id in table:
        return env_id
    name = env_id.rpartition("-v")[0]
    return next((key for key in table if name and key.rpartition("-v")[0] == name), "default")


def _policy_for(observation_space: Any) -> str:
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    if is_image_space(observation_space):
        # SB3's CNN needs at least 36 pixels each way.
        height_width = (
            observation_space.shape[1:]
            if is_image_space_channels_first(observation_space)
            else (observation_space.shape[:2])
        )
        return "CnnPolicy" if min(height_width) >= 36 else "MlpPolicy"
    return "MlpPolicy"


def _checked(key: str, value: Any) -> Any:
    if key in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
            raise UserError(f"{key} must be a whole number >= 1, got {value!r}")
        return int(value)
    if key in _RANGES and value is not None:
        low, high = _RANGES[key]
        number = _lin_start(value) if key in _SCHEDULES else value
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            wanted = f"in [{low:g}, {high:g}]" if high < math.inf else f">= {low:g}"
            also = " or lin_NUMBER" if key in _SCHEDULES else ""
            raise UserError(f"{key} must be a number {wanted}{also}, got {value!r}")
    return value


def _lin_start(value: Any) -> Any:
    """Return the number that ``lin_NUMBER`` starts from, and any other value as it is."""
    return parse_value(value.removeprefix("lin_")) if isinstance(value, str) and value.startswith("lin_") else value


def _schedule(key: str, value: Any) -> Any:
    """Return SB3's own schedule class for ``lin_NUMBER``: it unpickles where rlsd is missing."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    from stable_baselines3.common.utils import LinearSchedule

    return LinearSchedule(float(_lin_start(value)), 0.0, 1.0)


def _policy_kwargs(values: Any) -> dict[str, Any]:
    """Return the policy's arguments with the activation's name replaced by its class."""
    if not isinstance(values, dict):
        raise UserError(f"policy_kwargs must be a mapping such as {{net_arch: [64, 64]}}, got {values!r}")
    for key in values:
        if key not in _POLICY_KWARGS:
            hint = nearest(str(key), _POLICY_KWARGS) or f"known: {', '.join(_POLICY_KWARGS)}"
            raise UserError(f"unknown policy_kwargs {key!r}; {hint}")
    if "activation_fn" not in values:
        return dict(values)
    name = str(values["activation_fn"]).removeprefix("nn.")
    if name not in _ACTIVATIONS:
        raise UserError(f"unknown activation_fn {values['activation_fn']!r}; known: {', '.join(_ACTIVATIONS)}")
    import torch

    return {**values, "activation_fn": getattr(torch.nn, name)}


def _check_normalize(wanted: Any) -> None:
    if wanted is not None and not isinstance(wanted, bool | dict):
        raise UserError(f"normalize must be true, false or a mapping of {', '.join(_NORMALIZE)}, got {wanted!r}")
    for key in wanted if isinstance(wanted, dict) else ():
        if key not in _NORMALIZE:
            raise UserError(f"unknown key {key!r} in normalize; known: {', '.join(_NORMALIZE)}")
