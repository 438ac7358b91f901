"""Where states come from: the agent's finished rollout, its replay buffer, or the episodes that judge a candidate."""

from __future__ import annotations

import math
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from rlsd.actors import Actor
from rlsd.memory import observation_bytes
from rlsd.observations import (
    as_array,
    as_items,
    blocks,
    normalizing_env,
    raw_of,
    unknown_wrapper,
    with_context,
    wrappers_around,
)
from rlsd.plain import SavedState, State
from rlsd.recording import RawObservations

#: What every replay buffer has in SB3, by which its states are found.
_OF_REPLAY = ("observations", "actions", "rewards", "buffer_size", "n_envs", "pos", "full")


class NewStates(NamedTuple):
    """Some states that an agent has met.

    :param states: raw, ``(n, *shape)`` by key.
    :param rows: of the agent's replay buffer, in which they lie, ``n_envs`` states each; None where they lie in none.
    """

    states: dict[str, np.ndarray]
    rows: np.ndarray | None = None


class StatesObserver(Protocol):
    """Is shown all states that an agent meets."""

    def observe_states(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> None:
        """Record raw states that the agent has just met, ``(n, *shape)`` by key."""


class Source(ABC):
    """Hands over the states that an agent met since it was last asked."""

    @abstractmethod
    def new(self, agent: BaseAlgorithm) -> Iterator[NewStates]:
        """Give the new states, some at a time."""

    def recorder(self, agent: BaseAlgorithm) -> BaseCallback | None:
        """Return the callback that must watch the coming rollout, None when the agent's buffer holds all we need."""
        return None

    def state(self) -> State:
        """Return where the source stands, as plain data."""
        return {}

    def load(self, state: SavedState) -> None:  # noqa: B027 - most sources have nothing to remember
        """Load what :meth:`state` returned."""


def context_bytes(agent: BaseAlgorithm, actor: Actor) -> int:
    """Return the bytes of what is stored beside each observation: a mask, a recurrent memory."""
    if not isinstance(agent, OnPolicyAlgorithm):
        return 0
    try:
        context = actor.context(agent)
    except (AttributeError, KeyError, TypeError):  # an adapter of the user's own, that needs a rollout for it
        return 0
    return sum(array[:1].nbytes for array in context.values())


def source_for(agent: Any, actor: Actor) -> Source:
    """Return the source that suits an algorithm.

    :raises TypeError: when its buffer is one of the user's own in which no states can be found.
    """
    wrapper = None if agent.env is None else unknown_wrapper(agent.env)
    if wrapper is not None:
        warnings.warn(
            f"a {type(wrapper).__name__} around VecNormalize changes what the policy sees in a way that is not known: "
            "states are kept as the policy saw them, by the statistics of the time. Put VecNormalize outermost to have "
            "them shown through those of today",
            stacklevel=2,
        )
    if isinstance(agent, OnPolicyAlgorithm):
        _check_buffer(agent, agent.rollout_buffer, "rollout_buffer_class", ("observations", "buffer_size", "n_envs"))
        return RolloutSource(actor)
    if isinstance(agent, OffPolicyAlgorithm):
        _check_buffer(agent, agent.replay_buffer, "replay_buffer_class", _OF_REPLAY)
        return ReplaySource()
    return EvaluationSource()


class NoSource(Source):
    """Gives none: another distillation of the agent shares its states."""

    def new(self, agent: Any) -> Iterator[NewStates]:  # noqa: D102
        return iter(())


class RolloutSource(Source):
    """The rollout that an on-policy agent has just finished, with the masks or memories it acted under.

    Must be asked before ``train()``, which flattens the buffer's arrays in another order.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._recorder: RawObservations | None = None

    def recorder(self, agent: BaseAlgorithm) -> BaseCallback | None:  # noqa: D102
        self._recorder = None
        if normalizing_env(agent) is not None:
            assert agent.env is not None
            self._recorder = RawObservations(agent.env)
        return self._recorder

    def new(self, agent: Any) -> Iterator[NewStates]:  # noqa: D102
        raw: dict[str, Any] | None
        if normalizing_env(agent) is None:
            raw = as_items(agent.rollout_buffer.observations)
        else:
            raw = None if self._recorder is None else self._recorder.take()
        if raw is None:
            warnings.warn(
                "this rollout's states were not recorded: with VecNormalize, raw observations are kept "
                "from the first rollout that begins after distillation was switched on",
                stacklevel=2,
            )
            return
        states, context = _flattened(raw, agent), self._actor.context(agent)
        yield NewStates(with_context(states, context) if context else states)


class ReplaySource(Source):
    """What an off-policy agent's replay buffer received; it holds raw observations."""

    def __init__(self) -> None:
        self._taken: int | None = None  # the buffer's position up to which it was handed over
        self._mark = 0  # of the last row that was
        self._row_bytes: int | None = None

    def rows(self, agent: Any) -> np.ndarray:
        """Return the buffer's rows, each of ``n_envs`` states, that are new, and count them as handed over."""
        buffer = agent.replay_buffer
        first, mark = self._taken, self._mark
        # Of the row handed over last: it is another one once the buffer was exchanged, or went round in between.
        same = first is not None and first < buffer.buffer_size and _mark(buffer, first - 1) == mark
        self._taken, self._mark = buffer.pos, _mark(buffer, buffer.pos - 1)
        # One that went back without being full was reset: behind its position lie zeros, or what was handed over.
        if first is None or not same or (first > buffer.pos and not buffer.full):
            return np.arange(buffer.size())
        if first <= buffer.pos:
            return np.arange(first, buffer.pos)
        return np.concatenate([np.arange(first, buffer.buffer_size), np.arange(buffer.pos)])

    def new(self, agent: Any) -> Iterator[NewStates]:  # noqa: D102
        items, rows = as_items(agent.replay_buffer.observations), self.rows(agent)
        if self._row_bytes is None:
            self._row_bytes = agent.replay_buffer.n_envs * observation_bytes(agent.observation_space)
        # A full replay buffer of images would not fit in memory twice.
        for some in blocks(len(rows), self._row_bytes):
            yield NewStates(_flattened({key: array[rows[some]] for key, array in items.items()}, agent), rows[some])

    def state(self) -> State:  # noqa: D102
        return {"taken": self._taken, "mark": self._mark}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self._taken = None if state["taken"] is None else int(state["taken"])
        self._mark = int(state["mark"])


def _check_buffer(agent: BaseAlgorithm, buffer: Any, setting: str, names: tuple[str, ...]) -> None:
    """Raise when states cannot be read from a buffer as from SB3's: row by row, each of one state an environment.

    :raises TypeError: then.
    """
    missing = [name for name in names if not hasattr(buffer, name)]
    found = f"it has no {missing[0]!r}" if missing else ""
    if not found:
        shapes = as_items(get_obs_shape(agent.observation_space))
        try:
            replays = isinstance(agent, OffPolicyAlgorithm)
            first = np.arange(1) if replays else slice(1)  # as they will be asked for
            rows = {key: as_array(array[first]) for key, array in as_items(buffer.observations).items()}
            if replays:
                _mark(buffer, 0)
            each = 1 if getattr(buffer, "generator_ready", False) else buffer.n_envs  # an update flattened it
            fits = rows.keys() == shapes.keys() and all(
                row.dtype.kind in "biuf" and row.size == each * math.prod(shapes[key]) for key, row in rows.items()
            )
            found = "" if fits else f"a row of its observations is { ({str(k): row.shape for k, row in rows.items()}) }"
        except Exception as error:  # whatever a container of somebody's own raises
            found = f"its rows cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    if found:
        raise TypeError(
            f"cannot take states from a {type(buffer).__name__}: {found}. Let {setting} keep arrays or tensors "
            "(buffer_size, n_envs, *shape) under the names of SB3's buffer, or set distill=None"
        )


def _mark(buffer: Any, row: int) -> int:
    """Return a checksum by which a row of a replay buffer is known again."""
    arrays = [*as_items(buffer.observations).values(), buffer.actions, buffer.rewards]
    return zlib.crc32(b"".join(as_array(array[row]).tobytes() for array in arrays))


class EvaluationSource(Source):
    """The states that ARS met while it judged its candidates; they are noted one step at a time."""

    def __init__(self) -> None:
        self._steps: list[dict[str, np.ndarray]] = []

    def note(self, agent: BaseAlgorithm, seen: Any, number: int) -> None:
        """Note an observation that a candidate met, raw when the environment normalises.

        :param seen: the observations of all environments.
        :param number: whose is meant: SB3 goes through them one by one.
        """
        env = normalizing_env(agent)
        if env is None or not any(isinstance(w, VecFrameStack) for w in wrappers_around(cast(VecEnv, agent.env))[1]):
            items = as_items(seen if env is None else env.get_original_obs())
        else:  # it has the latest frames alone
            items = {key: raw_of(env, key, value) for key, value in as_items(seen).items()}
        self._steps.append({key: np.array(value[number : number + 1]) for key, value in items.items()})

    def new(self, agent: BaseAlgorithm) -> Iterator[NewStates]:  # noqa: D102
        steps, self._steps = self._steps, []
        for some in blocks(len(steps), observation_bytes(agent.observation_space)):
            chunk = steps[some]
            yield NewStates(_flattened({key: np.concatenate([step[key] for step in chunk]) for key in chunk[0]}, agent))


def _flattened(items: Mapping[str, Any], agent: BaseAlgorithm) -> dict[str, np.ndarray]:
    """Join the leading axes, and give each state the shape that the agent's buffer gives it."""
    shapes = as_items(get_obs_shape(agent.observation_space))
    return {key: as_array(array).reshape(-1, *shapes[key]) for key, array in items.items()}
