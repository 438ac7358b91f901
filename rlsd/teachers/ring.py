"""The policies of the last while, on the host: what acted when is known only afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.observations import Normalization
from rlsd.teachers.frozen_policy import named_tensors, split_parts

#: Policies kept at most, and bytes of them; never less than a few, however large they are.
MOST, BYTES, LEAST = 32, 256_000_000, 4


class SnapshotRing:
    """A policy's tensors at some moments, thinned out toward the past where there are too many.

    :param actor: the adapter to the agent's way of acting.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        #: Since when each was in force, rising, and its tensors as those of a :class:`FrozenPolicy`.
        self.kept: list[tuple[int, dict[str, Tensor]]] = []

    def take(self, agent: BaseAlgorithm, since: int) -> None:
        """Keep the agent's policy, which has been in force since a step."""
        module = self._actor.module(agent.policy)
        found = {f"policy/{name}": tensor for name, tensor in named_tensors(module).items()}
        normalization = Normalization.of(agent)
        if normalization is not None:
            found |= {f"normalization/{name}": tensor for name, tensor in normalization.tensors().items()}
        copied = {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}
        self.kept.append((since, copied))
        size = sum(tensor.nbytes for tensor in copied.values())
        while len(self.kept) > max(LEAST, min(MOST, BYTES // max(size, 1))):
            del self.kept[self._least_missed()]

    def _least_missed(self) -> int:
        """Return which to leave out: that of the smallest gap between its neighbours for its age."""
        now = self.kept[-1][0]
        ages = [now - since for since, _ in self.kept]
        gaps = [(ages[i - 1] - ages[i + 1]) / (ages[i] + 1) for i in range(1, len(ages) - 1)]
        return 1 + gaps.index(min(gaps))

    def at(self, step: int) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of the policy that was in force at a step, by part; of the oldest kept if none was."""
        known = [tensors for since, tensors in self.kept if since <= step]
        return split_parts(known[-1] if known else self.kept[0][1])

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {f"{number}/{n}": t for number, (_, kept) in enumerate(self.kept) for n, t in kept.items()}

    def state(self) -> list[int]:
        """Return since when each was in force."""
        return [since for since, _ in self.kept]

    def load(self, tensors: Mapping[str, Tensor], state: list[int]) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned."""
        parts = split_parts(tensors)
        self.kept = [
            (int(since), {name: tensor.to("cpu", copy=True) for name, tensor in parts[str(number)].items()})
            for number, since in enumerate(state)
        ]
