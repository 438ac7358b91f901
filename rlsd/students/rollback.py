"""A student that took over is on probation: when it earns less than what it replaced did, that comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor
from torch.optim import Optimizer

from rlsd.actors.random_search import search_around
from rlsd.optimizers import load_state, state_tensors
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes, SmoothedReturn, mean_and_error
from rlsd.teachers.frozen_policy import copy_into, named_tensors


class RollbackGuard:
    """Judges a student by the training return of its first episodes, against its predecessor's last.

    :param episodes: how many of the student's episodes are counted. As many as there are environments are left out
        first: they were begun by its predecessor.
    :param tolerance: by how much the student may fall short, as a share of the range of smoothed returns seen so far,
        beyond what two standard errors of the difference explain.
    :param ended: the agent's episodes.
    """

    def __init__(self, episodes: int, tolerance: float, ended: Episodes) -> None:
        self.episodes, self.tolerance, self._ended = episodes, tolerance, ended
        self.lowest: float | None = None
        self.highest: float | None = None
        #: The predecessor, and what it earned; nothing while nobody is on probation.
        self.old: dict[str, Tensor] = {}
        self.before: SmoothedReturn | None = None
        self.returns: list[float] = []
        self._skip = 0
        self._counted = 0  # of the episodes that have ended

    @property
    def on(self) -> bool:
        """Whether a student is on probation."""
        return self.before is not None

    def begin(self, agent: BaseAlgorithm) -> None:
        """Keep the agent as it is, to be replaced now. Where it cannot be judged, nobody will be on probation."""
        before = self._ended.smoothed(agent)
        if before is None:
            return
        self.before = before
        self.old = {key: tensor.detach().clone() for key, tensor in _everything(agent).items()}
        self.returns, self._skip = [], agent.n_envs
        self._counted = self._ended.count

    def watch(self, agent: BaseAlgorithm) -> bool | None:
        """Record how the agent does; return whether a student passed its probation, None before that is clear."""
        present = self._ended.smoothed(agent)
        if present is not None:
            self.lowest = present.mean if self.lowest is None else min(self.lowest, present.mean)
            self.highest = present.mean if self.highest is None else max(self.highest, present.mean)
        if self.before is None:
            return None
        new = self._ended.since(agent, self._counted)
        self._counted = self._ended.count
        skipped = min(self._skip, len(new))
        self._skip -= skipped
        self.returns += new[skipped:]
        if len(self.returns) < self.episodes:
            return None
        return self._good_enough(self.before)

    def _good_enough(self, before: SmoothedReturn) -> bool:
        mean, own = mean_and_error(self.returns)
        error = math.hypot(own, before.error)
        assert self.lowest is not None and self.highest is not None
        span = max(self.highest, before.mean) - min(self.lowest, before.mean)
        return before.mean - mean - 2.0 * error <= self.tolerance * span

    def bring_back(self, agent: BaseAlgorithm) -> None:
        """Make the agent what it was before the student took over: weights, optimizers and variables."""
        parts: dict[str, dict[str, Tensor]] = {"policy": {}, "variables": {}}
        parts |= {f"optimizer {name}": {} for name in _optimizers(agent)}
        for key, tensor in self.old.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        copy_into(agent.policy, parts["policy"])
        for name, tensor in parts["variables"].items():
            recursive_getattr(agent, name).data.copy_(tensor)
        for name, optimizer in _optimizers(agent).items():
            load_state(optimizer, parts[f"optimizer {name}"])
        search_around(agent)

    def end(self) -> None:
        """Let go of the predecessor."""
        self.before, self.old, self.returns = None, {}, []

    def tensors(self) -> dict[str, Tensor]:
        """Return the predecessor's tensors by name."""
        return dict(self.old)

    def state(self) -> State:
        """Return the rest as plain data."""
        return {
            "lowest": self.lowest,
            "highest": self.highest,
            "before": None if self.before is None else list(self.before),
            "returns": list(self.returns),
            "skip": self._skip,
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned."""
        self.lowest, self.highest = state["lowest"], state["highest"]
        self.before = None if state["before"] is None else SmoothedReturn(*map(float, state["before"]))
        self.returns, self._skip = [float(value) for value in state["returns"]], int(state["skip"])
        self.old = {key: tensor.to(agent.device) for key, tensor in tensors.items()}
        # Saved between two rollouts: every episode that has ended by now was counted.
        self._counted = self._ended.count


def _optimizers(agent: BaseAlgorithm) -> dict[str, Optimizer]:
    names = [name for name in agent._get_torch_save_params()[0] if name.endswith("optimizer")]
    return {name: recursive_getattr(agent, name) for name in names}


def _everything(agent: BaseAlgorithm) -> dict[str, Tensor]:
    """Return all that training has made of an agent: weights, what optimizers remember, variables."""
    out = {f"policy/{name}": tensor for name, tensor in named_tensors(agent.policy).items()}
    for name in agent._get_torch_save_params()[1]:
        variable = recursive_getattr(agent, name)
        if isinstance(variable, Tensor):
            out[f"variables/{name}"] = variable
    for name, optimizer in _optimizers(agent).items():
        out |= {f"optimizer {name}/{key}": tensor for key, tensor in state_tensors(optimizer).items()}
    return out
