"""Which episode each state belongs to: a number that goes with it from the source to the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlsd.actors import algorithm_name
from rlsd.observations import Beside, as_array, as_items, with_context
from rlsd.plain import SavedState, State
from rlsd.sources import NewStates, ReplaySource, RolloutSource, Source

#: The key of the episode's number among those of a state. 0 is an episode whose beginning nobody saw.
EPISODE = Beside("@episode")


class EpisodeSource(Source):
    """A source that says which episode each state belongs to. Numbers rise in the order in which episodes begin.

    :param source: the states themselves: of a rollout or of a replay buffer.
    :raises TypeError: when they are of neither, or the buffer does not tell where episodes begin.
    """

    def __init__(self, source: Source, agent: Any) -> None:
        on_policy = isinstance(source, RolloutSource)
        name = "episode_starts" if on_policy else "dones"
        buffer = getattr(agent, "rollout_buffer" if on_policy else "replay_buffer", None)
        if not isinstance(source, (RolloutSource, ReplaySource)) or not hasattr(buffer, name):
            whose = algorithm_name(agent) if buffer is None else f"a {type(buffer).__name__} without {name!r}"
            raise TypeError(
                f"states 'episodes' must know where episodes begin, and {whose} does not tell: use teacher "
                "'selective' with states 'reservoir'"
            )
        self._source = source
        self._next = 1
        self._current = np.zeros(0, np.int64)  # of each environment

    def recorder(self, agent: Any) -> Any:  # noqa: D102
        return self._source.recorder(agent)

    def new(self, agent: Any) -> Iterator[NewStates]:  # noqa: D102
        following = self._source.state().get("taken")  # the row after the one that was handed over last
        for states, rows in self._source.new(agent):
            if rows is None:
                starts = as_array(agent.rollout_buffer.episode_starts).astype(bool)
            else:
                starts, following = self._starts(agent.replay_buffer, rows, following), int(rows[-1]) + 1
            yield NewStates(with_context(states, {EPISODE: self._numbers(starts)}), rows)

    def _starts(self, buffer: Any, rows: np.ndarray, following: int | None) -> np.ndarray:
        """Return which of some rows of a replay buffer begin an episode, ``(n, n_envs)``."""
        before = np.concatenate([[rows[0] - 1], rows[:-1]])
        starts = as_array(buffer.dones[before]).astype(bool)
        following_ones = getattr(buffer, "next_observations", None)
        if following_ones is not None and not getattr(buffer, "optimize_memory_usage", False):
            # An agent that was given another environment left an episode in its middle.
            then = as_items(following_ones)
            for key, array in as_items(buffer.observations).items():
                here, there = as_array(array[rows]), as_array(then[key][before])
                same = (here == there) | ((here != here) & (there != there))
                starts |= ~same.reshape(*starts.shape, -1).all(-1)
        if following is None or rows[0] != following % buffer.buffer_size:
            # Another buffer: it begins with an episode unless it went round.
            self._current = np.zeros(starts.shape[1:], np.int64)
            starts[0] = rows[0] == 0 and not buffer.full
        return starts

    def _numbers(self, starts: np.ndarray) -> np.ndarray:
        """Number the episodes that states belong to, ``(n * n_envs,)``.

        :param starts: whether each begins one, ``(n, n_envs)``.
        """
        if self._current.shape != starts.shape[1:]:
            self._current = np.zeros(starts.shape[1:], np.int64)
        begun = np.cumsum(starts.ravel()).reshape(starts.shape)
        numbers = np.where(starts, self._next - 1 + begun, 0)
        numbers[0] = np.where(starts[0], numbers[0], self._current)
        # They rise: the latest that began in an environment has the largest number so far.
        numbers = np.maximum.accumulate(numbers, axis=0)
        self._next += int(starts.sum())
        self._current = numbers[-1].copy()
        return numbers.ravel()

    def state(self) -> State:  # noqa: D102
        return self._source.state() | {"next_episode": self._next, "episodes": self._current.tolist()}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self._source.load(state)
        self._next, self._current = int(state["next_episode"]), np.array(state["episodes"], np.int64)
