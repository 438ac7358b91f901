"""Minibatches from several stores at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.config import answers, checked_number, integer
from rlsd.observations import Observations, as_items, from_items
from rlsd.plain import SavedState, State, shown
from rlsd.states.base import States, StateStore, check_batch
from rlsd.states.recent import Recent
from rlsd.states.reservoir import Reservoir


class MixtureStore(StateStore):
    """Several stores seen as one; the slots of one come after those of the one before.

    :param parts: each draws its share of a minibatch, as many as its ``batch_size``.
    """

    def __init__(self, parts: list[StateStore], seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(0, sum(part.batch_size for part in parts), seed, device)
        self.parts = parts
        self.offers = all(part.offers for part in parts)
        self._line_up()

    def _line_up(self) -> None:
        self._starts = np.cumsum([0, *(part.capacity for part in self.parts)])
        self.capacity = int(self._starts[-1])

    def sync(self, agent: BaseAlgorithm) -> np.ndarray:  # noqa: D102
        changed = [part.sync(agent) for part in self.parts]
        self._line_up()
        return self._counted(changed)

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:  # noqa: D102
        return self._counted([part.add(observations, rows) for part in self.parts])

    def _counted(self, slots: list[np.ndarray]) -> np.ndarray:
        """Count the states of all parts, and return slots of each as slots of this."""
        self.count = sum(part.count for part in self.parts)
        self.rejected = max(part.rejected for part in self.parts)
        return np.concatenate([own + start for own, start in zip(slots, self._starts, strict=False)])

    def slots(self) -> np.ndarray:  # noqa: D102
        held = [part.slots() + start for part, start in zip(self.parts, self._starts, strict=False)]
        return np.concatenate(held)

    def draw(self, batches: int) -> np.ndarray:  # noqa: D102
        # A part that is empty draws nothing: the minibatch is smaller by its share.
        filled = [(part, start) for part, start in zip(self.parts, self._starts, strict=False) if part.count]
        return np.concatenate([part.draw(batches) + start for part, start in filled], axis=1)

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:  # noqa: D102
        whose = np.searchsorted(self._starts, slots, side="right") - 1
        found: list[dict[str, Tensor]] = []
        order = []
        for number, part in enumerate(self.parts):
            places = np.flatnonzero(whose == number)
            if len(places):
                own = slots[places] - self._starts[number]
                found.append(as_items(part.gather(own, torch.from_numpy(own).to(self.device))))
                order.append(places)
        if len(found) == 1:
            return from_items(found[0])
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.device)
        return from_items({key: torch.cat([some[key] for some in found])[back] for key in found[0]})

    @property
    def at_hand(self) -> int:  # noqa: D102
        return self.count if all(part.at_hand == part.count for part in self.parts) else 0

    @property
    def nbytes(self) -> int:  # noqa: D102
        return sum(part.nbytes for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"{i}/{key}": t for i, part in enumerate(self.parts) for key, t in part.tensors().items()}

    def examples(self) -> dict[str, Tensor]:  # noqa: D102
        return next((held for part in self.parts if (held := part.examples())), {})

    def state(self) -> State:  # noqa: D102
        return {"parts": [part.state() for part in self.parts]}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:  # noqa: D102
        anew = False
        for i, (part, saved) in enumerate(zip(self.parts, state["parts"], strict=True)):
            own = {name.removeprefix(f"{i}/"): t for name, t in tensors.items() if name.startswith(f"{i}/")}
            anew = part.load(own, saved) or anew
        self.count = sum(part.count for part in self.parts)
        self.rejected = max(part.rejected for part in self.parts)
        return anew


def _shares(key: str, value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"{key} must be a list of numbers > 0, got {shown(value)}")
    return tuple(checked_number(f"{key}[{i}]", share, low_open=True) for i, share in enumerate(value))


@dataclass(frozen=True)
class Mixture(States, name="mixture"):
    """Each minibatch is drawn from several stores by share: half new and half replayed, say, as in CLEAR.

    :param parts: the stores; none stands for ``recent`` and ``reservoir``. Their own ``batch_size`` is not used.
    :param shares: what share of a minibatch comes from each, in any unit; none stands for equal shares. Every part
        gets one state of a minibatch at least. What an empty part would give is left out.
    :param batch_size: states compared at one gradient step, of all parts together. Usual range 64 to 512.
    :raises ValueError: when there are fewer than two parts, as many shares as parts are not given, the batch is smaller
        than the number of parts, or a part cannot be drawn from ahead.
    """

    parts: tuple[States, ...] = answers("states")
    shares: tuple[float, ...] = dataclasses.field(default=(), kw_only=True, metadata={"check": _shares})
    batch_size: int = integer(128, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            object.__setattr__(self, "parts", (Recent(), Reservoir()))
        if len(self.parts) < 2:
            raise ValueError(f"states.parts must be two stores at least, got {len(self.parts)}")
        if self.shares and len(self.shares) != len(self.parts):
            raise ValueError(
                f"states.shares must be {len(self.parts)} numbers, one a part, got {shown([*self.shares])}"
            )
        if self.batch_size < len(self.parts):
            raise ValueError(f"states.batch_size must be at least the {len(self.parts)} parts, got {self.batch_size}")
        for part in self.parts:
            if part.name in ("minibatch", "mixture"):
                raise ValueError(f"states.parts cannot hold {part.name!r}: use 'recent' for the states of the moment")

    def counts(self) -> list[int]:
        """Return how many states of a minibatch come from each part."""
        shares = np.array(self.shares or (1.0,) * len(self.parts))
        exact = shares / shares.sum() * self.batch_size
        counts = np.maximum(np.floor(exact), 1).astype(int)
        while counts.sum() < self.batch_size:
            counts[np.argmax(exact - counts)] += 1
        while counts.sum() > self.batch_size:
            counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
        return [int(count) for count in counts]

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> MixtureStore:  # noqa: D102
        check_batch(self.batch_size, agent)
        stores = [part.build(own, agent) for part, own in zip(self.parts, seed.spawn(len(self.parts)), strict=True)]
        for store, count in zip(stores, self.counts(), strict=True):
            store.batch_size = count
        return MixtureStore(stores, seed, agent.device)
