"""Another agent's policy, packed so that it can be built again anywhere.

Packed it is an SB3 zip of the policy alone. Unpacking it unpickles what SB3's own ``load`` would unpickle of the
agent's zip: the classes of the policy and its keywords. It is done where an agent is being trained or was just loaded
by SB3, never where rlsd only reads its own entries.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.vec_env.patch_gym import _convert_space
from torch import Tensor, nn

from rlsd.actors import algorithm_name, examined
from rlsd.actors.base import plain_name
from rlsd.io.archives import unfold
from rlsd.io.statistics_file import read_statistics
from rlsd.observations import Normalization
from rlsd.plain import read_json
from rlsd.teachers.frozen_policy import FrozenPolicy

#: All of an agent that its policy is built from. ``use_sde`` is not there for every algorithm.
_NEEDED = ("policy_class", "policy_kwargs", "observation_space", "action_space")
_CPU = torch.device("cpu")


class PackedPolicy:
    """A packed policy.

    :param name: what messages call it; it ends with a checksum of the weights.
    :param packed: an SB3 zip with the policy's weights and what it is built from.
    :param normalization: the ``VecNormalize`` statistics it sees through.
    """

    def __init__(self, name: str, packed: bytes, normalization: Normalization | None) -> None:
        self.name, self.packed, self.normalization = name, packed, normalization

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedPolicy) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def of(cls, agent: BaseAlgorithm) -> PackedPolicy:
        """Pack the policy of a live agent as it is now."""
        data = {key: getattr(agent, key) for key in _NEEDED} | {"use_sde": getattr(agent, "use_sde", False)}
        weights = {plain_name(name): tensor.detach().cpu() for name, tensor in agent.policy.state_dict().items()}
        return cls._pack(algorithm_name(agent), data, weights, _statistics(agent.get_vec_normalize_env()))

    @classmethod
    def read(cls, path: str, vecnormalize: str = "") -> PackedPolicy:
        """Read the policy of a saved agent, whatever its algorithm.

        :param path: an SB3 zip; ``.zip`` may be left out.
        :param vecnormalize: the pickled ``VecNormalize`` it was trained in; empty for the one found beside it, if any.
        :raises ValueError: when a file is missing, damaged, or of another kind.
        """
        file = Path(path) if Path(path).is_file() else Path(f"{path}.zip")
        if not file.is_file():
            raise ValueError(f"teacher.path: there is no file {path!r}")
        statistics = Path(vecnormalize) if vecnormalize else _beside(file)
        if statistics is not None and not statistics.is_file():
            raise ValueError(f"teacher.vecnormalize: there is no file {vecnormalize!r}")
        try:
            data, weights = _unpack(file)
        except Exception as error:  # whatever a damaged file makes SB3's readers raise
            raise ValueError(f"teacher.path: {file} is damaged or no agent of SB3: {_in_short(error)}") from error
        return cls._pack(file.name, data, weights, None if statistics is None else _read_statistics(statistics))

    @classmethod
    def _pack(
        cls, name: str, data: dict[str, Any], weights: dict[str, Tensor], normalization: Normalization | None
    ) -> PackedPolicy:
        packed = io.BytesIO()
        save_to_zip_file(packed, data, {"policy": weights})
        digest = hashlib.sha256()
        for key, tensor in sorted(weights.items()):
            digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
        return cls(f"{name} {digest.hexdigest()[:16]}", packed.getvalue(), normalization)

    def unpack(self, device: torch.device) -> tuple[FrozenPolicy, Any]:
        """Build the policy, frozen, and return it with what it was built from: ``observation_space`` and so on.

        :raises ValueError: when it is damaged, or of a kind that rlsd does not know.
        """
        try:
            data, weights = _unpack(io.BytesIO(self.packed))
            policy = _built(data, weights)
            actor = examined(cast(Any, SimpleNamespace(policy=policy)))
            frozen = FrozenPolicy(actor)
            frozen.policy = actor.frozen(policy).to(device)
        except Exception as error:  # policies are built by anybody's code
            raise ValueError(f"the teacher {self.name} cannot be built: {_in_short(error)}") from error
        if self.normalization is not None:
            frozen.normalization = Normalization.from_tensors(self.normalization.tensors(), device)
        squashed = bool(getattr(policy, "squash_output", False))
        return frozen, SimpleNamespace(**data, squash_output=squashed)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors by name."""
        out = {"zip": torch.from_numpy(np.frombuffer(self.packed, dtype=np.uint8).copy())}
        if self.normalization is not None:
            out |= {f"normalization/{name}": tensor for name, tensor in self.normalization.tensors().items()}
        return out

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, Tensor]) -> PackedPolicy:
        """Undo :meth:`tensors`."""
        rest = {n.removeprefix("normalization/"): t for n, t in tensors.items() if n.startswith("normalization/")}
        normalization = Normalization.from_tensors(rest, _CPU) if rest else None
        return cls(name, tensors["zip"].numpy().tobytes(), normalization)


def _unpack(file: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the arguments that build a policy, and its weights. Only the pickles needed for that are read."""
    with zipfile.ZipFile(file) as archive:
        others = set(read_json(unfold(archive, "data"))) - {*_NEEDED, "use_sde"}
    if isinstance(file, io.IOBase):
        file.seek(0)
    found, params, _ = load_from_zip_file(file, device="cpu", custom_objects=dict.fromkeys(others))
    assert found is not None
    data = {key: found[key] for key in _NEEDED} | {"use_sde": bool(found.get("use_sde", False))}
    for key in ("observation_space", "action_space"):
        data[key] = _convert_space(data[key])
    weights: Any = params["policy"]
    return data, weights


def _built(data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a policy as its algorithm would, without leaving a trace on torch's generator."""
    cls = data["policy_class"]
    takes = {name for base in cls.__mro__ for name in inspect.signature(base.__init__).parameters}
    kwargs = copy.copy(data["policy_kwargs"])
    kwargs.pop("device", None)
    if "use_sde" in takes:
        kwargs.setdefault("use_sde", data["use_sde"])
    schedule = [lambda _: 0.0] if "lr_schedule" in takes else []  # ARS has none
    with torch.random.fork_rng(devices=[]):
        policy: nn.Module = cls(data["observation_space"], data["action_space"], *schedule, **kwargs)
    policy.load_state_dict(weights)
    return policy


def _beside(file: Path) -> Path | None:
    """Return the statistics that rl_zoo3 or ``rlsd train`` wrote for an agent, None when there are none."""
    places = [file.with_name("vecnormalize.pkl"), file.parent / file.stem / "vecnormalize.pkl"]
    if file.stem == "best_model":
        places += [
            *sorted(file.parent.glob("*/best_vecnormalize.pkl")),
            *sorted(file.parent.glob("*/vecnormalize.pkl")),
        ]
    return next((place for place in places if place.is_file()), None)


def _read_statistics(file: Path) -> Normalization | None:
    try:
        found = read_statistics(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"teacher.vecnormalize: {file} is damaged: {_in_short(error)}") from error
    return _statistics(found) if found.norm_obs else None


def _statistics(env: Any) -> Normalization | None:
    return Normalization.of(cast(Any, SimpleNamespace(get_vec_normalize_env=lambda: env, device=_CPU)))


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
