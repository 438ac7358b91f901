"""A copy of a policy as it was at one moment."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor
from rlsd.actors.base import plain_name
from rlsd.observations import Normalization, Observations


class FrozenPolicy:
    """A copy of the acting module and of the statistics that normalise what it sees, as they were at one moment.

    :param actor: the adapter to the agent's way of acting.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.policy: nn.Module | None = None
        self.normalization: Normalization | None = None

    def take(self, agent: BaseAlgorithm) -> None:
        """Freeze the agent as it is now."""
        if self.policy is None:
            self.policy = self.actor.frozen(agent.policy)
        else:
            copy_into(self.policy, named_tensors(self.actor.module(agent.policy)))
        self.normalization = Normalization.of(agent)

    def targets(self, observations: Observations) -> Tensor:
        """Return its action distributions on raw states: normalised parameters ``(batch, family.size)``."""
        with torch.no_grad():
            return self.actor.family.normalized(self.parameters(observations))

    def parameters(self, observations: Observations) -> Tensor:
        """Return its parameters for raw states as they are, ``(batch, family.size)``, with a graph if one is due."""
        assert self.policy is not None, "nothing was frozen yet"
        return self.actor.parameters(self.policy, self.seen(observations))

    def values(self, observations: Observations) -> Tensor:
        """Return its values of raw states, ``(batch,)``."""
        with torch.no_grad():
            return self.actor.values(self._frozen(), self.seen(observations))

    def features(self, observations: Observations) -> Tensor:
        """Return the features that its extractor finds in raw states, ``(batch, n)``."""
        with torch.no_grad():
            return self.actor.features(self._frozen(), self.seen(observations))

    def _frozen(self) -> nn.Module:
        assert self.policy is not None, "nothing was frozen yet"
        return self.policy

    def seen(self, observations: Observations) -> Observations:
        """Return raw states as it sees them."""
        return observations if self.normalization is None else self.normalization(observations)

    def tensors(self) -> dict[str, Tensor]:
        """Return all its tensors by name."""
        out: dict[str, Tensor] = {}
        if self.policy is not None:
            out.update({f"policy/{name}": tensor for name, tensor in named_tensors(self.policy).items()})
        if self.normalization is not None:
            out.update({f"normalization/{name}": tensor for name, tensor in self.normalization.tensors().items()})
        return out

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`tensors` returned."""
        parts = split_parts(tensors, {"policy", "normalization"})
        if "policy" in parts:
            self.policy = self.actor.frozen(agent.policy)
            copy_into(self.policy, parts["policy"])
        if "normalization" in parts:
            self.normalization = Normalization.from_tensors(parts["normalization"], agent.device)

    def put(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Become another one of the same network, with tensors as :meth:`tensors` gives them, split by part."""
        policy = self._frozen()
        copy_into(policy, parts["policy"])
        if "normalization" in parts:
            device = next(policy.parameters()).device
            self.normalization = Normalization.from_tensors(parts["normalization"], device)

    def again(self, parts: Mapping[str, Mapping[str, Tensor]]) -> FrozenPolicy:
        """Return another one of the same network, with tensors as :meth:`tensors` gives them, split by part."""
        other = FrozenPolicy(self.actor)
        other.policy = copy.deepcopy(self._frozen())
        other.put(parts)
        return other


def split_parts(tensors: Mapping[str, Tensor], known: set[str] | None = None) -> dict[str, dict[str, Tensor]]:
    """Return tensors by the part of their name before the first slash, then by the rest.

    :param known: the parts there may be; None for any.
    :raises ValueError: when there is another.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        if known is not None and part not in known:
            raise ValueError(f"the saved teacher does not fit this policy: nothing is known of its part {part!r}")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers, those that submodules share only once, whether compiled or not."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {plain_name(name): tensor for name, tensor in named}


def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put values into a module's parameters and buffers.

    :raises ValueError: when they are not exactly those that the module has.
    """
    own = named_tensors(module)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"the saved teacher does not fit this policy: {name!r} is on one side only")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"the saved teacher does not fit this policy: {name!r} is {tuple(tensors[name].shape)}, "
                f"{tuple(tensor.shape)} expected"
            )
        tensor.data.copy_(tensors[name])
