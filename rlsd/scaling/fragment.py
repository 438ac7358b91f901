"""What goes to the workers before a rollout, and what comes back from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rlsd.observations import from_items

Items = dict[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What a worker needs for one fragment: the same for all of them.

    :param rollout: its number, which the random numbers are drawn by.
    :param steps: vector steps to take.
    :param weights: the acting policy's tensors, in the order of the policy that the workers were given.
    :param views: what an observation goes through before the policy sees it, the innermost first.
    :param warmup: of the steps, how many of the first are uniformly random.
    :param exploration: the probability of a random action, of algorithms that have one.
    """

    rollout: int
    steps: int
    weights: list[np.ndarray]
    views: list[Any]
    warmup: int = 0
    exploration: float = 0.0


@dataclass
class Fragment:
    """What some environments did in one rollout: arrays ``(steps, n_envs, *shape)``.

    :param observations: as the environments gave them, by key, ``(steps + 1, n_envs, *shape)``: what was seen before
        the first step, and after each.
    :param actions: as the policy drew them.
    :param stored: the actions as a replay buffer keeps them.
    :param values: of the states, and ``log_probs`` of the actions, where the policy gives them.
    :param masks: of the allowed actions, where there are any.
    :param infos: ``(step, environment, info)`` of each info that holds something.
    :param fresh: ``(n_envs,)``, whose episodes begin with the fragment, since its worker was lost.
    :param seconds: the time that it took.
    """

    observations: Items
    actions: np.ndarray
    stored: np.ndarray | None
    values: np.ndarray | None
    log_probs: np.ndarray | None
    masks: np.ndarray | None
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[tuple[int, int, dict[str, Any]]]
    fresh: np.ndarray
    seconds: float

    @property
    def steps(self) -> int:
        """Vector steps in it."""
        return len(self.rewards)

    def step_infos(self) -> list[list[dict[str, Any]]]:
        """Return the infos of each step, one dict for each environment."""
        steps, n_envs = self.rewards.shape
        infos: list[list[dict[str, Any]]] = [[{} for _ in range(n_envs)] for _ in range(steps)]
        for step, number, info in self.infos:
            infos[step][number] = info
        return infos

    def nbytes(self) -> int:
        """Return the bytes of its arrays."""
        arrays = [getattr(self, field.name) for field in fields(self)]
        return sum(a.nbytes for a in [*arrays, *self.observations.values()] if isinstance(a, np.ndarray))


def joined(fragments: Sequence[Fragment]) -> Fragment:
    """Return the fragments of all workers as one, in the order of their environments."""

    def beside(name: str) -> np.ndarray | None:
        arrays = [getattr(fragment, name) for fragment in fragments]
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    infos, first = [], 0
    for fragment in fragments:
        infos += [(step, first + number, info) for step, number, info in fragment.infos]
        first += fragment.rewards.shape[1]
    keys = fragments[0].observations
    columns: dict[str, Any] = {
        name: beside(name) for name in ("actions", "stored", "values", "log_probs", "masks", "rewards", "dones")
    }
    return Fragment(
        observations={key: np.concatenate([f.observations[key] for f in fragments], axis=1) for key in keys},
        infos=infos,
        fresh=np.concatenate([fragment.fresh for fragment in fragments]),
        seconds=max(fragment.seconds for fragment in fragments),
        **columns,
    )


def observations_of(fragment: Fragment, step: int) -> Any:
    """Return what the environments showed after so many steps of a fragment."""
    return from_items({key: array[step] for key, array in fragment.observations.items()})


def some_of(raw: Any, some: slice) -> Any:
    """Return the observations of some environments."""
    return {key: array[some] for key, array in raw.items()} if isinstance(raw, dict) else raw[some]


def beside(raws: Sequence[Any]) -> Any:
    """Return the observations of several workers as one batch."""
    if isinstance(raws[0], dict):
        return {key: np.concatenate([raw[key] for raw in raws]) for key in raws[0]}
    return np.concatenate(raws)
