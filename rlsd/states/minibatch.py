"""The states of the minibatch that the agent's own loss is computed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from rlsd.actors import algorithm_name
from rlsd.observations import Normalization, Observations, as_items, finite_rows, from_items
from rlsd.plain import SavedState
from rlsd.states.base import States, StateStore
from rlsd.states.replay_buffer import ReplayBufferStore

_UNSEEN = (
    "states 'minibatch': this update did not take its minibatch from the agent's buffer as SB3 does, so it was not "
    "seen: use states 'recent'"
)


@contextmanager
def _listening(owner: Any, name: str, heard: Callable[[tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Hear of every call of a method, on the instance and only inside."""
    had_own, original = name in owner.__dict__, getattr(owner, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        heard(args, result)
        return result

    owner.__dict__[name] = method
    try:
        yield
    finally:
        del owner.__dict__[name]
        if had_own:
            owner.__dict__[name] = original


class RolloutMinibatchStore(StateStore):
    """The states of the latest rollout, drawn as the agent's own update draws them.

    Its capacity is the rollout buffer's, and follows it when one of another size takes its place.
    Slot ``step * n_envs + env`` is a state of the rollout; SB3 counts the other way round, ``env * n_steps + step``.
    """

    ahead = False

    def __init__(
        self, n_steps: int, n_envs: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device
    ) -> None:
        super().__init__(n_steps * n_envs, batch_size, seed, device)
        self.n_steps, self.n_envs = n_steps, n_envs
        self._held = np.arange(0)  # slots with a finite state in them
        self._current: np.ndarray | None = None
        self._updating = False
        self._prepared = False  # whether the rollout's targets were asked for

    def sync(self, agent: Any) -> np.ndarray:
        """Make room for a rollout."""
        buffer = agent.rollout_buffer
        if (buffer.buffer_size, buffer.n_envs) != (self.n_steps, self.n_envs):
            self.n_steps, self.n_envs, self._arrays = buffer.buffer_size, buffer.n_envs, {}
            self.capacity = buffer.buffer_size * buffer.n_envs
        self.count, self._held, self._current, self._prepared = 0, np.arange(0), None, False
        return self._held

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """Take a whole rollout, which comes in one piece."""
        if not self._arrays:
            self._allocate(observations)
        finite = finite_rows(observations)
        n = len(next(iter(observations.values())))
        self._held = np.arange(n) if finite is None else np.flatnonzero(finite)
        self.rejected += n - len(self._held)
        self.count = len(self._held)
        self._write(observations, self._held, self._held)
        return self._held

    @contextmanager
    def watching(self, agent: Any) -> Iterator[None]:  # noqa: D102
        with _listening(agent.rollout_buffer, "_get_samples", self._sampled):
            self._updating = True
            try:
                yield
            finally:
                self._current, self._updating = None, False

    def _sampled(self, args: tuple[Any, ...], result: Any) -> None:
        env, step = np.divmod(np.asarray(args[0]), self.n_steps)
        slots = step * self.n_envs + env
        self._current = slots if self.count == self.capacity else slots[np.isin(slots, self._held)]

    def slots(self) -> np.ndarray:  # noqa: D102
        return self._held

    def draw(self, batches: int) -> np.ndarray:
        """Return the slots of the agent's present minibatch, ``(1, n)``; between updates, of random ones."""
        if self._current is None and self._updating:
            raise RuntimeError(_UNSEEN)
        if self._current is not None and len(self._current):
            return self._current[None]
        drawn: np.ndarray = self._held[super().draw(batches)]
        return drawn

    def after_draw(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return that none changed, and the first time that all will be drawn: their targets are made in one pass."""
        first, self._prepared = not self._prepared, True
        return slots[:0], self._held if first else slots

    def tensors(self) -> dict[str, Tensor]:
        """Return which slots are held. The coming rollout takes their states' place before any is drawn."""
        return {"held": torch.from_numpy(self._held)}

    def examples(self) -> dict[str, Tensor]:  # noqa: D102
        return {}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:
        """Take up the counters, and which slots were held where a rollout still has as many."""
        held, count = tensors["held"].numpy(), int(state["count"])
        if held.shape != (count,) or held.min(initial=0) < 0:
            found = f"{tuple(held.shape)} slots from {held.min(initial=0)} on"
            raise ValueError(f"the saved states do not fit: {count} said, {found} found")
        super().load({}, {**state, "count": 0})
        anew = bool(held.max(initial=0) >= self.capacity)
        self._held, self._current = held[:0] if anew else held, None
        self.count = len(self._held)
        return anew


class ReplayMinibatchStore(ReplayBufferStore):
    """The states that an off-policy agent has just sampled; before the first of an update, some of its buffer's."""

    ahead = False

    def __init__(self, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(batch_size, batch_size, seed, device)
        self._current: dict[str, Tensor] | None = None
        self._updating = False
        self._rows = np.arange(0)  # of the buffer, that stand for the slots where nothing was sampled

    def sync(self, agent: Any) -> np.ndarray:
        """Let some of the buffer's states stand for the coming minibatches."""
        self._current = None
        filled = self._view(agent)
        self.count = min(filled, self.capacity)
        self._rows = np.linspace(0, filled - 1, self.count).astype(np.int64)
        return np.arange(self.count)

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """Keep none: each update samples its own."""
        return np.arange(0)

    @contextmanager
    def watching(self, agent: Any) -> Iterator[None]:  # noqa: D102
        normalization = Normalization.of(agent)

        def sampled(args: tuple[Any, ...], result: Any) -> None:
            items = as_items(result.observations)
            some = {key: tensor[: self.capacity] for key, tensor in items.items()}
            self._current = {key: t.float() if t.is_floating_point() else t for key, t in some.items()}
            if normalization is not None:
                for key, (mean, std) in normalization.statistics.items():
                    self._current[key] = self._current[key] * std + mean

        with _listening(agent.replay_buffer, "sample", sampled):
            self._updating = True
            try:
                yield
            finally:
                self._current, self._updating = None, False

    def draw(self, batches: int) -> np.ndarray:
        """Return the slots of the agent's present minibatch, ``(1, n)``; between updates, of random ones."""
        if self._current is None and self._updating:
            raise RuntimeError(_UNSEEN)
        if self._current is None:
            return super().draw(batches)
        return np.arange(len(next(iter(self._current.values()))))[None]

    def after_draw(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all of them twice: another minibatch lies there now."""
        return slots[0], slots

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:  # noqa: D102
        if self._current is None:
            rows = self._rows[slots]
            return super().gather(rows, torch.from_numpy(rows))
        return from_items({key: tensor[index] for key, tensor in self._current.items()})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_current": None}


@dataclass(frozen=True)
class Minibatch(States, name="minibatch"):
    """The very states of the agent's own minibatch: the pull and the agent's loss meet on the same states.

    Nothing is remembered: what the agent no longer visits is not held. This is what proximal terms of PPO do, and what
    CLEAR and PPO-EWMA add to a minibatch. Targets of a rollout are made in one pass before an update, those of an
    off-policy agent at each gradient step, since each samples anew. An off-policy agent's minibatch comes normalised
    under ``VecNormalize`` and is mapped back, exactly but for rounding and for what was clipped.
    """

    def build(self, seed: np.random.SeedSequence, agent: Any) -> StateStore:  # noqa: D102
        if isinstance(agent, OnPolicyAlgorithm):
            buffer = agent.rollout_buffer
            batch_size = getattr(agent, "batch_size", None) or buffer.buffer_size * buffer.n_envs
            return RolloutMinibatchStore(buffer.buffer_size, buffer.n_envs, batch_size, seed, agent.device)
        if isinstance(agent, OffPolicyAlgorithm):
            return ReplayMinibatchStore(agent.batch_size, seed, agent.device)
        raise TypeError(
            f"states 'minibatch' needs an agent that learns from minibatches, and a {algorithm_name(agent)} does not: "
            "use 'recent'"
        )
