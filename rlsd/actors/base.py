"""What every adapter answers, and the table from a policy's class to its adapter."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any, ClassVar, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.distributions import Family
from rlsd.observations import Observations, split_context

_ACTORS: dict[str, type[Actor]] = {}
_COMPILED = "_orig_mod"  # under which torch.compile keeps the module that it was given
_REGISTERED: set[str] = set()  # of these, the policies for which a user named the adapter


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
    #: How often a policy is asked, with other weights each time, before :meth:`mismatch` is believed to find nothing.
    rounds: ClassVar[int] = 1

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
        """Return the optimizer whose steps train the acting module, None when no optimizer does."""

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
        """Return the features of the module's own extractor on states, ``(batch, n)``: vectors, also of images."""
        observations, _ = split_context(states)
        extractor = getattr(module, "features_extractor", None)
        if extractor is None:
            raise TypeError(f"a {type(module).__name__} has no feature extractor")
        return BaseModel.extract_features(module, cast(Any, observations), extractor)

    def frozen(self, policy: Any) -> nn.Module:
        """Return a copy of the acting module that acts as it does now, shares no storage and asks for no gradient."""
        module: Any = self.module(policy)
        return acting_copy(module, (module, policy))

    def act(self, policy: Any, states: Observations) -> Any:
        """Let a policy act by its own method, as its algorithm does in training, and return what that returns."""
        return policy._predict(split_context(states)[0], deterministic=True)

    def mismatch(self, policy: Any, states: Observations) -> str:
        """Return the method by which a policy acts otherwise than :meth:`parameters` tells, empty for none.

        :param policy: a copy in evaluation mode, that nobody minds.
        """
        return ""

    def imagined_context(self, policy: Any, n: int) -> dict[str, Tensor]:
        """Return an example of :meth:`context` for ``n`` observations."""
        return {}

    def context(self, agent: BaseAlgorithm) -> dict[str, np.ndarray]:
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
    _REGISTERED.add(_name(policy_class))


def actor_for(agent: BaseAlgorithm) -> Actor:
    """Return the adapter for the way the agent acts.

    :raises TypeError: when none is known; the message names the way out.
    """
    cls = _served(agent)
    if cls is None:
        raise TypeError(refusal(agent, "rlsd does not know how this policy acts"))
    try:
        return _ACTORS[_name(cls)](uncompiled(agent.policy))
    except TypeError as error:
        raise TypeError(refusal(agent, str(error))) from error


def is_registered(agent: BaseAlgorithm) -> bool:
    """Tell whether the adapter is one that the user named for the policy, not what serves a class of SB3 below it."""
    cls = _served(agent)
    return cls is not None and _name(cls) in _REGISTERED


def _served(agent: BaseAlgorithm) -> type | None:
    return next((cls for cls in type(uncompiled(agent.policy)).__mro__ if _name(cls) in _ACTORS), None)


def refusal(agent: BaseAlgorithm, reason: str) -> str:
    """Return the error of a policy that cannot be distilled as it is, with the way out."""
    cls = _served(agent)
    adapter, name = Actor if cls is None else _ACTORS[_name(cls)], type(uncompiled(agent.policy)).__name__
    return (
        f"cannot distil a {algorithm_name(agent)} with a {name}: {reason}. Write an adapter, class YourActor"
        f"({adapter.__module__.split('.actors')[0]}.actors.{adapter.__name__}) with parameters(self, module, states) "
        f"-> (batch, self.family.size), and call rlsd.register_actor({name}, YourActor)"
    )


def algorithm_name(agent: BaseAlgorithm) -> str:
    """Return the name of an agent's algorithm, ``"PPO"`` also where it is distilled."""
    return type(agent).__name__


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def uncompiled(module: Any) -> nn.Module:
    """Return the module that ``torch.compile`` was given, and one that was not compiled as it is."""
    while _COMPILED in getattr(module, "_modules", ()):
        module = module._modules[_COMPILED]
    return cast(nn.Module, module)


def plain_name(name: str) -> str:
    """Return the name that a tensor has where nothing is compiled."""
    return name.replace(f"{_COMPILED}.", "")


def acting_copy(module: nn.Module, owners: Iterable[Any]) -> nn.Module:
    """Return a copy of a module that acts as it does now, shares no storage and asks for no gradient.

    Nothing in it is compiled: it is asked about batches of many sizes.

    :param owners: of optimizers, which would double the memory, and of distributions.
    """
    owners = [*owners]
    memo: dict[int, Any] = {id(getattr(owner, "optimizer", None)): None for owner in owners}
    return graphless_copy(module, owners, memo).requires_grad_(False).train(False)


def graphless_copy(module: nn.Module, owners: Iterable[Any], memo: dict[int, Any]) -> nn.Module:
    """Return a copy of a module that shares no storage, of which nothing is compiled.

    :param owners: of distributions, which may hold tensors of a graph, which cannot be copied.
    :param memo: as :func:`copy.deepcopy` takes it, for what is to be copied otherwise. It holds all copies afterwards.
    """
    owners = [*owners]
    for owner in owners:
        dist = getattr(owner, "action_dist", None)
        if dist is not None and not isinstance(dist, nn.Module):  # a module has weights of its own to be copied
            memo[id(dist)] = unused(dist)
    # So may any attribute: a layer's weight under weight_norm, an output that was kept to be looked at.
    for part in [*module.modules(), *owners]:
        memo |= {id(tensor): tensor.detach().clone() for tensor in _held(part) if not tensor.is_leaf}
    compiled = [part for part in module.modules() if uncompiled(part) is not part]
    for part in reversed(compiled):  # the innermost first
        memo[id(part)] = copy.deepcopy(uncompiled(part), memo)
    copied: nn.Module = copy.deepcopy(module, memo)
    for part in copied.modules():
        for name, value in vars(part).items():
            method = getattr(value, "_torchdynamo_orig_callable", None)
            if isinstance(method, MethodType) and id(method.__self__) in memo:
                vars(part)[name] = MethodType(method.__func__, memo[id(method.__self__)])
    return copied


def _held(thing: Any) -> Iterator[Tensor]:
    """Give the tensors among a thing's attributes, also those in a list, a tuple, a dict or a distribution."""
    for value in vars(thing).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for one in several:
            if isinstance(one, Tensor):
                yield one
            elif isinstance(one, (torch.distributions.Distribution, Distribution)):
                yield from _held(one)


def unused(dist: Any) -> Any:
    """Return a copy of an SB3 distribution object through which nothing was computed yet: its settings alone.

    Of a class of the user's what has no graph may be a setting, and stays.
    """
    clean, theirs = copy.copy(dist), type(dist).__module__ != Distribution.__module__
    for key, value in vars(dist).items():
        parts = value if isinstance(value, list) else [value]  # several choices are a list of distributions
        if any(_was_computed(part, theirs) for part in parts):
            setattr(clean, key, None)
    return clean


def _was_computed(value: Any, theirs: bool) -> bool:
    if isinstance(value, Tensor):
        return not theirs or not value.is_leaf
    if not isinstance(value, torch.distributions.Distribution):
        return False
    return not theirs or any(not tensor.is_leaf for tensor in _held(value))
