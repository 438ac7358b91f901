"""A sample over all states of the agent's life, by episode, in which no task is crowded out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.episodes import EPISODE
from rlsd.memory import check_states
from rlsd.observations import Observations, from_items
from rlsd.plain import SavedState, State
from rlsd.states.reservoir import Reservoir, ReservoirStore


class EpisodeStore(ReservoirStore):
    """A uniform sample of all states ever offered; of the states of each task, once there are several."""

    episodic = True

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(capacity, batch_size, seed, device)
        #: The number of the episode of each state, on the host, where slots are drawn.
        self.episodes = np.zeros(capacity, np.int64)
        #: At which task each state was met, as far as it is known.
        self.tasks = np.zeros(capacity, np.int64)
        self._task = 0
        self._offered = [0]  # states of each task

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:  # noqa: D102
        slots = super().add(observations)
        if len(slots):
            self.episodes[slots] = self._arrays[EPISODE][torch.from_numpy(slots).to(self.device)].cpu().numpy()
            self.tasks[slots] = self._task
        return slots

    def divide(self, episode: int, task: int) -> None:
        """Called when from an episode on the agent was at another task.

        :param episode: its number.
        :param task: which; tasks are numbered from 0.
        """
        mine = self.slots()[self.episodes[: self.count] >= episode]
        self.tasks[mine] = task
        self._task = task
        self._offered += [0] * (task + 1 - len(self._offered))
        self._offered[task] = max(self._offered[task], len(mine))

    def place(self, n: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        if len(self._offered) == 1 or self.count < self.capacity:
            self._offered[self._task] += n
            return super().place(n)
        self.seen += n
        tasks = self.tasks
        mine = np.flatnonzero(tasks == self._task)
        share = self.capacity // len(self._offered)
        # Those that fill the task's share push out states of tasks that have more than theirs.
        entering = min(n, max(share - len(mine), 0))
        rich = np.flatnonzero(np.bincount(tasks, minlength=len(self._offered)) > share)
        others = np.flatnonzero(np.isin(tasks, rich) & (tasks != self._task))
        slots = self._generator.choice(others, min(entering, len(others)), replace=False)
        self._offered[self._task] += len(slots)
        # The others push out some of their own, as in a reservoir of the share's size.
        rest = n - len(slots)
        numbers = self._offered[self._task] + np.arange(rest)
        drawn = self._generator.integers(0, numbers + 1)
        self._offered[self._task] += rest
        pool = np.concatenate([mine, slots])
        chosen = np.flatnonzero(drawn < len(pool))
        _, from_end = np.unique(drawn[chosen][::-1], return_index=True)
        chosen = chosen[len(chosen) - 1 - from_end]
        taken = pool[drawn[chosen]]
        stays = ~np.isin(slots, taken)
        kept = np.concatenate([np.flatnonzero(stays), len(slots) + chosen])
        return kept, np.concatenate([slots[stays], taken])

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:  # noqa: D102
        return from_items({key: array[index] for key, array in self._arrays.items() if key != EPISODE})

    def state(self) -> State:  # noqa: D102
        return super().state() | {"task": self._task, "offered": self._offered}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return super().tensors() | {"@task": torch.from_numpy(self.tasks[: self.count])}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:  # noqa: D102
        stored = dict(tensors)
        tasks = stored.pop("@task", torch.zeros(0, dtype=torch.int64))
        anew = super().load(stored, state)
        self._task, self._offered = int(state["task"]), [int(n) for n in state["offered"]]
        self.tasks[: self.count] = tasks.numpy()
        if self.count:
            self.episodes[: self.count] = self._arrays[EPISODE][: self.count].cpu().numpy()
        return anew


@dataclass(frozen=True)
class Episodes(Reservoir, name="episodes"):
    """A uniform sample over all states of the agent's life, which knows of which episode each is.

    Once the teacher tells that the task has changed, each task has an equal share of the states.

    :param capacity: states kept. Raising it covers more of the past and takes ``capacity`` times a state's bytes.
        Usual range 5,000 to 200,000.
    :param batch_size: states compared at one gradient step. Raising it makes the pull smoother and costs time.
        Usual range 64 to 512.
    :raises ValueError: when the capacity is smaller than the batch.
    """

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> EpisodeStore:  # noqa: D102
        check_states(self.capacity, agent.observation_space, agent.device, beside=16)
        return EpisodeStore(self.capacity, self.batch_size, seed, agent.device)
