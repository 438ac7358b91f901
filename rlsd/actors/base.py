"""What every adapter answers, and the table from a policy's class to its adapter."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.distributions import Family
from rlsd.observations import Observations, split_context

_ACTORS: dict[str, type[Actor]] = {}


class Actor(ABC):
    """An adapter to one way of acting.

    An adapter keeps no reference to an agent or to its networks: it is handed the live policy, or the module that acts
    (live or frozen), each time. So nothing can be bound to an agent that was since loaded anew.

    :param policy: the agent's policy, from which the family of its action distribution is read.
    """

    family: Family
    #: Whether the module also gives the values of states, see :meth:`values`.
    has_values: ClassVar[bool] = False
    #: Policy classes served, as ``module.Class``: by name, since their package may not be installed.
    policies: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("policies", ()):
            _ACTORS[name] = cls

    @abstractmethod
    def __init__(self, policy: nn.Module) -> None: ...

    @abstractmethod
    def module(self, policy: Any) -> nn.Module:
        """Return the part of the policy that acts."""

    @abstractmethod
    def optimizer(self, policy: Any) -> Optimizer | None:
        """Return the optimizer whose steps train what acts, None when no optimizer does."""

    @abstractmethod
    def parameters(self, module: Any, states: Observations) -> Tensor:
        """Return the action distributions' parameters, ``(batch, family.size)``, for states as a policy sees them.

        Must draw no random number and leave no trace on the module.
        """

    def values(self, module: Any, states: Observations) -> Tensor:
        """Return the critic's values of states, ``(batch,)``, for actors that have one.

        :raises TypeError: when the algorithm has no state values.
        """
        raise TypeError(f"a {type(self).__name__} gives no values of states")

    def features(self, module: Any, states: Observations) -> Tensor:
        """Return what the module's own feature extractor makes of states, ``(batch, n)``: vectors, also of images."""
        observations, _ = split_context(states)
        extractor = getattr(module, "features_extractor", None)
        if extractor is None:
            raise TypeError(f"a {type(module).__name__} has no feature extractor")
        return BaseModel.extract_features(module, cast(Any, observations), extractor)

    def frozen(self, policy: Any) -> nn.Module:
        """Return a copy of what acts that acts as it does now, shares no storage and asks for no gradient."""
        module: Any = self.module(policy)
        return acting_copy(module, (module, policy))

    def context(self, agent: Any) -> dict[str, np.ndarray]:
        """Return what, besides the observations, decided the actions of the finished rollout.

        :return: arrays ``(n_steps * n_envs, *shape)`` under keys that begin with ``"@"``, stored with the states.
        """
        return {}


def register_actor(policy_class: type[nn.Module], adapter: type[Actor]) -> None:
    """Teach rlsd how a policy of your own acts; its subclasses act alike.

    :param policy_class: a subclass of SB3's ``BasePolicy``.
    :param adapter: a subclass of :class:`Actor`, often of one of those in :mod:`rlsd.actors`.
    :raises TypeError: when they are not such classes.
    """
    if not (isinstance(policy_class, type) and issubclass(policy_class, nn.Module)):
        raise TypeError(f"register_actor takes a policy class, got {policy_class!r}")
    if not (isinstance(adapter, type) and issubclass(adapter, Actor)):
        raise TypeError(f"register_actor takes an adapter, a subclass of rlsd.actors.Actor, got {adapter!r}")
    _ACTORS[_name(policy_class)] = adapter


def actor_for(agent: BaseAlgorithm) -> Actor:
    """Return the adapter for the way the agent acts.

    :raises TypeError: when none is known; the message names the way out.
    """
    policy = agent.policy
    for cls in type(policy).__mro__:
        if _name(cls) in _ACTORS:
            return _ACTORS[_name(cls)](policy)
    raise TypeError(
        f"cannot distil a {algorithm_name(agent)} with a {type(policy).__name__}: rlsd does not know how this policy "
        "acts. Write a subclass of rlsd.actors.Actor for it and call rlsd.register_actor"
        f"({type(policy).__name__}, YourActor)"
    )


def algorithm_name(agent: Any) -> str:
    """Return the name of an agent's algorithm, ``"PPO"`` also where it is distilled."""
    return type(agent).__name__


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def acting_copy(module: nn.Module, owners: Iterable[Any]) -> nn.Module:
    """Return a copy of a module that acts as it does now, shares no storage and asks for no gradient.

    :param owners: of optimizers, which would double the memory, and of distributions, which may hold tensors of a
        graph, which cannot be copied.
    """
    memo: dict[int, Any] = {}
    for owner in owners:
        for name in ("optimizer", "action_dist"):
            value = getattr(owner, name, None)
            memo[id(value)] = unused(value) if name == "action_dist" and value is not None else None
    # So may any attribute: a layer's weight under weight_norm, an output that was kept to be looked at.
    for part in module.modules():
        memo |= {id(tensor): tensor.detach().clone() for tensor in _held(part) if not tensor.is_leaf}
    copied: nn.Module = copy.deepcopy(module, memo)
    return copied.requires_grad_(False).train(False)


def _held(module: nn.Module) -> Iterator[Tensor]:
    """Return the tensors among a module's attributes, also those in a list, a tuple or a dict such as its buffers."""
    for value in vars(module).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        yield from (one for one in several if isinstance(one, Tensor))


def unused(dist: Any) -> Any:
    """Return a copy of an SB3 distribution object through which nothing was computed yet: its settings alone."""
    clean = copy.copy(dist)
    for key, value in vars(dist).items():
        parts = value if isinstance(value, list) else [value]  # several choices are a list of distributions
        if any(isinstance(part, (Tensor, torch.distributions.Distribution)) for part in parts):
            setattr(clean, key, None)
    return clean
