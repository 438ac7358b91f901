"""The doors: a class to build agents from, and functions to distil agents that exist and to undo it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from rlsd import described
from rlsd.acceleration import Acceleration, SpeedLike, accelerator_for
from rlsd.algorithms import algorithm_of
from rlsd.collecting import collector_in
from rlsd.distiller import Distiller
from rlsd.distillers import Distillers, distiller_for
from rlsd.hooks import at_boundary, joined
from rlsd.io import checkpoint
from rlsd.presets import Distill, resolve
from rlsd.weight_average import WeightAverage

AgentT = TypeVar("AgentT", bound=BaseAlgorithm)

_OURS = (
    *("distiller", "_distill_config", "_resumed", "_resumed_noise", "_resumed_log"),
    *("accelerator", "_acceleration", "_loading", "weight_average"),
)
_CLASSES: dict[type[BaseAlgorithm], type[Any]] = {}


def SelfDistilled(base: type[BaseAlgorithm]) -> type[Any]:  # noqa: N802 - it stands where a class stands
    """Return the subclass of an SB3 algorithm that distils the agent into itself while it trains.

    The same base always gives the same class. It is built, used, saved and loaded as its base is, with four more
    arguments, ``distill``, ``speed``, ``rollout_device`` and ``workers``::

        agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", distill="snapshot")
        agent.learn(100_000)
        agent.save("agent")  # a plain SB3 zip: PPO.load("agent") works where rlsd is missing

    ``distill`` is a :class:`DistillConfig`, a recipe's name, ``True`` (the default) for the default recipe, a list of
    such for several at once, or ``None`` for an agent that trains exactly as its base does, bit for bit;
    ``strength=0.3`` and the like change it, as for :func:`recipe`. ``agent.distiller`` then shows teacher, states and
    metrics; of several ``agent.distiller.members`` has each by its name. ``speed`` and ``rollout_device`` are those of
    :func:`rlsd.accelerate`, and are not saved; by default what changes no bit is on. ``workers`` collect the rollouts:
    see :class:`rlsd.RayWorkers`.

    Where the networks are made anew, by ``_setup_model()`` or another ``agent.policy``, distillation starts over.

    A subclass of yours of the class that comes back is distilled as it is, and ``SelfDistilled`` returns it unchanged.

    :param base: an algorithm of SB3 or sb3-contrib, or a subclass of one.
    :raises TypeError: when ``base`` is no SB3 algorithm; on building, when it is not known how the agent acts.
    :raises ValueError: on building, when ``distill``, ``speed`` or ``rollout_device`` is wrong.
    """
    if not (isinstance(base, type) and issubclass(base, BaseAlgorithm)):
        raise TypeError(f"SelfDistilled takes an SB3 algorithm class such as PPO, got {base!r}")
    if is_wrapped(base):
        return base
    if base not in _CLASSES:
        _CLASSES[base] = _make_class(base)
    return _CLASSES[base]


def distill(agent: AgentT, distill: Distill = True, **changes: Any) -> AgentT:
    """Switch self-distillation on for an agent that exists, in place, and return the agent.

    An agent that is distilled already starts over with the new answers, and a warning says what it loses by that.
    Works between and inside ``learn`` calls.

    :param agent: an SB3 agent, trained or not.
    :param distill: a :class:`DistillConfig`, a recipe's name, a list of such for several at once, or ``True`` for the
        default recipe.
    :param changes: to it, as for :func:`recipe`: ``strength=0.3``; of several ``**{"guard.strength": 0.3}``.
    :raises TypeError: when it is not known how the agent acts.
    :raises ValueError: when ``distill`` is wrong.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"distill takes an SB3 agent, got {agent!r}")
    config = resolve(distill, type(agent), changes)
    if config is None:
        raise ValueError("distill must be a recipe's name, a DistillConfig or True, got None: see undistill")
    with _as_trained(agent):
        distiller = distiller_for(config, agent)  # before anything changes: it may refuse
        distiller.begin(agent)
    described.say_what_ends(getattr(agent, "distiller", None), config)
    agent.__class__ = SelfDistilled(type(agent))
    agent._distill_config = config  # type: ignore[attr-defined]
    agent.distiller = distiller  # type: ignore[attr-defined]
    return agent


def undistill(agent: AgentT) -> AgentT:
    """Switch self-distillation, acceleration and averaging off, in place: the agent is of its original class again.

    When that is a subclass of what :func:`SelfDistilled` made, it stays so, and trains as the algorithm below does.
    """
    if is_wrapped(type(agent)):
        accelerator: Acceleration | None = agent.accelerator  # type: ignore[attr-defined]
        if accelerator is not None:
            accelerator.release(agent)
        agent.__class__ = unwrapped(type(agent))
        for name in _OURS:
            agent.__dict__.pop(name, None)
        if is_wrapped(type(agent)):
            agent.distiller = agent._distill_config = None  # type: ignore[attr-defined]
    return agent


def is_wrapped(cls: type) -> bool:
    """Tell whether a class was made by :func:`SelfDistilled`, or is a subclass of one that was."""
    return any(base in _CLASSES.values() for base in cls.__mro__)


def unwrapped(cls: type[Any]) -> type[Any]:
    """Return the class from which :func:`SelfDistilled` makes ``cls``: a subclass of what it made is that itself."""
    return cls.__mro__[1] if cls in _CLASSES.values() else cls


def plain(cls: type[Any]) -> type[Any]:
    """Return the algorithm below what :func:`SelfDistilled` made of it; a class with nothing of ours as it is."""
    return next((base.__mro__[1] for base in cls.__mro__ if base in _CLASSES.values()), cls)


def _make_class(base: type[BaseAlgorithm]) -> type[Any]:
    class Distilled(base):  # type: ignore[misc, valid-type]
        distiller: Distiller | Distillers | None
        accelerator: Acceleration | None = None
        weight_average: WeightAverage | None = None

        def __init__(
            self,
            *args: Any,
            distill: Distill = True,
            speed: str | SpeedLike | None = "exact",
            rollout_device: str | torch.device | None = None,
            workers: Any = None,
            **kwargs: Any,
        ) -> None:
            if workers is not None:
                args, kwargs = workers.placed(args, kwargs)
            self._distill_config = resolve(distill, base, described.changes(base, kwargs))
            self._acceleration = accelerator_for(speed, rollout_device)
            self.distiller = None
            super().__init__(*args, **kwargs)

        def _setup_model(self) -> None:
            """Build the networks; once more, distillation starts over with the new ones, and the speed stays."""
            with _as_trained(self):
                super()._setup_model()
            if self.__dict__.pop("_loading", False):
                self.distiller = _distiller(self)  # begins when it is known whether the file holds one
            else:
                _start_over(self)
            if "_acceleration" in self.__dict__:
                self.accelerator = self.__dict__.pop("_acceleration")
            if self.accelerator is not None:
                self.accelerator.check(self)
            collector = collector_in(self.env)
            if collector is not None:
                collector.check_agent(self)

        @property
        def keeper(self) -> BaseAlgorithm | None:
            """A plain SB3 agent that does what this one did on the tasks it left, None where there is none."""
            members = [] if self.distiller is None else self.distiller.members.values()
            taught = [member.auxiliary.agent(self) for member in members if member.auxiliary is not None]
            return next((agent for agent in taught if agent is not None), None)

        def learn(self, *args: Any, **kwargs: Any) -> Any:
            with nullcontext() if self.accelerator is None else self.accelerator.learning(self):
                return super().learn(*args, **kwargs)

        def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
            distiller, seen = self.distiller, self._last_obs
            if distiller is not None:
                distiller.sync(self)
            settings = super()._setup_learn(*args, **kwargs)
            if distiller is not None:
                distiller.clock.rebase(self)
                if self._last_obs is not seen:
                    distiller.ended.begin(self)
            if "_resumed_noise" in self.__dict__:
                self.action_noise = self.__dict__.pop("_resumed_noise")
            for name, recorded in self.__dict__.pop("_resumed_log", {}).items():
                getattr(self.logger, name).update(recorded)
            return settings

        def _boundary(self, callback: BaseCallback) -> None:
            """Called before a rollout, of which nothing has happened yet."""
            at_boundary(self, callback)
            _keep_up(self)

        def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
            self._boundary(callback)
            recorders = [] if self.distiller is None else self.distiller.recorders(self)
            if recorders:
                callback = joined(self, recorders, callback)
            with ExitStack() as stack:
                if self.accelerator is not None:
                    stack.enter_context(self.accelerator.collecting(self))
                collector = collector_in(env)
                if collector is not None:
                    env = stack.enter_context(collector.collecting(self))
                for member in () if self.distiller is None else self.distiller.members.values():
                    stack.enter_context(member.acting.collecting(self))
                return super().collect_rollouts(env, callback, *args, **kwargs)

        def train(self, *args: Any, **kwargs: Any) -> None:
            _keep_up(self)
            with nullcontext() if self.distiller is None else self.distiller.armed(self):
                self._update(*args, **kwargs)
            if self.distiller is not None:
                self.distiller.after(self, functools.partial(self._update, *args, **kwargs))
            if self.weight_average is not None:
                self.weight_average.enter()

        def _update(self, *args: Any, **kwargs: Any) -> None:
            if self.accelerator is None:
                super().train(*args, **kwargs)
            else:
                self.accelerator.update(self, functools.partial(super().train, *args, **kwargs))

        def dump_logs(self, *args: Any, **kwargs: Any) -> None:
            if self.distiller is not None:
                self.distiller.log(self)
            super().dump_logs(*args, **kwargs)

        def set_parameters(self, *args: Any, **kwargs: Any) -> None:
            """Set them as SB3 does; what averages the agent's weights begins anew with these."""
            super().set_parameters(*args, **kwargs)
            if self.distiller is not None:
                self.distiller.restart(self)
            if self.weight_average is not None:
                self.weight_average.restart()

        def _excluded_save_params(self) -> list[str]:
            return [*super()._excluded_save_params(), *_OURS]

        def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
            """Save as SB3 does, with the distillation's state beside, atomically."""
            _keep_up(self)
            if self.distiller is not None:
                self.distiller.sync(self)
            plain_save = super().save
            checkpoint.save(self, path, self.distiller, lambda target: plain_save(target, exclude, include))

        @classmethod
        def load(cls, path: Any, env: Any = None, device: Any = "auto", *args: Any, **kwargs: Any) -> Any:
            """Load as SB3 does, with the state of the distillation.

            :param distill: replaces the answers in the file; teacher and states then start over.
            :param speed: and ``rollout_device``, as for building an agent.
            """
            faster = accelerator_for(kwargs.pop("speed", "exact"), kwargs.pop("rollout_device", None))
            path = checkpoint.existing(path)
            saved = checkpoint.read(path, base)
            if "distill" in kwargs:
                config = resolve(kwargs.pop("distill"), base)
                same = saved is not None and saved.answers(config)
            else:
                config = resolve(True, base) if saved is None else saved.config()
                same = saved is not None
            # SB3's load puts keywords into the agent before it sets the model up, where the distiller is made.
            kwargs |= {"_distill_config": config, "_acceleration": faster, "_loading": True}
            agent = super().load(path, env, device, *args, **kwargs)
            if saved is not None and same and agent.distiller is not None:
                saved.restore(agent.distiller, agent)
            elif agent.distiller is not None:
                agent.distiller.begin(agent)
            if saved is not None and saved.average is not None:
                agent.weight_average = WeightAverage(agent, base)
                saved.restore_average(agent.weight_average)
            return agent

        def __reduce__(self) -> Any:
            state = self.__dict__ if self.accelerator is None else self.accelerator.state_of(self)
            return _restore, (unwrapped(type(self)),), state

    if hasattr(base, "_sample_action"):
        Distilled._sample_action = _sampling(Distilled)
    for name, method in algorithm_of(base).methods(base, Distilled).items():
        setattr(Distilled, name, method)
    described.describe(Distilled, base)
    # SB3 puts the class's name into its own messages, which users' warning filters know by heart.
    Distilled.__name__, Distilled.__qualname__ = base.__name__, f"SelfDistilled({base.__qualname__})"
    return Distilled


def _sampling(cls: type[Any]) -> Any:
    def _sample_action(self: Any, *args: Any, **kwargs: Any) -> Any:
        """SAC and its like: where others collect, what they have done; where a teacher acts, what it does."""
        collector = collector_in(self.env)
        if collector is not None:
            return collector.drawn(self)
        sampled = super(cls, self)._sample_action(*args, **kwargs)
        for member in () if self.distiller is None else self.distiller.members.values():
            sampled = member.acting.sampled(self, *sampled)
        return sampled

    return _sample_action


def _distiller(agent: Any) -> Distiller | Distillers | None:
    return None if agent._distill_config is None else distiller_for(agent._distill_config, agent)


def _start_over(agent: Any) -> None:
    """Give an agent a distiller that knows nothing yet."""
    with _as_trained(agent):
        agent.distiller = _distiller(agent)
        if agent.distiller is not None:
            agent.distiller.begin(agent)


def _keep_up(agent: Any) -> None:
    """Start over where another policy was put in the place of the one that was distilled."""
    if getattr(agent, "distiller", None) is not None and not agent.distiller.is_of(agent):
        _start_over(agent)


def _as_trained(agent: BaseAlgorithm) -> AbstractContextManager[None]:
    accelerator = getattr(agent, "accelerator", None)
    return nullcontext() if accelerator is None else accelerator.as_trained(agent)


def _restore(base: type[BaseAlgorithm]) -> Any:
    """Make an empty agent of the wrapped class, for unpickling: the class has no importable name."""
    cls: Any = SelfDistilled(base)
    return cls.__new__(cls)
