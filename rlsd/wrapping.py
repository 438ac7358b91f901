"""Two doors to distillation: a class to build agents from, and a function for agents that exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from rlsd import checkpoint
from rlsd.distiller import Distiller
from rlsd.recipes import Distill, resolve

AgentT = TypeVar("AgentT", bound=BaseAlgorithm)

_OURS = ("distiller", "_distill_config")
_CLASSES: dict[type[BaseAlgorithm], type[Any]] = {}


def SelfDistilled(base: type[BaseAlgorithm]) -> type[Any]:  # noqa: N802 - it stands where a class stands
    """Return the subclass of an SB3 algorithm that distils the agent into itself while it trains.

    The same base always gives the same class. It is built, used, saved and loaded as its base is, with one more
    argument, ``distill``::

        agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", distill="snapshot")
        agent.learn(100_000)
        agent.save("agent")  # a plain SB3 zip: PPO.load("agent") works where rlsd is missing

    ``distill`` is a :class:`DistillConfig`, a recipe's name, ``True`` (the default) for the default recipe, or ``None``
    for an agent that trains exactly as its base does, bit for bit. ``agent.distiller`` then shows teacher, states and
    figures.

    :param base: ``PPO``, ``A2C``, or a subclass of theirs.
    :raises TypeError: when ``base`` is no SB3 algorithm; on building, when it is not known how the agent acts.
    :raises ValueError: on building, when ``distill`` is wrong.
    """
    if not (isinstance(base, type) and issubclass(base, BaseAlgorithm)):
        raise TypeError(f"SelfDistilled takes an SB3 algorithm class such as PPO, got {base!r}")
    if is_wrapped(base):
        return base
    if base not in _CLASSES:
        _CLASSES[base] = _make_class(base)
    return _CLASSES[base]


def distill(agent: AgentT, distill: Distill = True) -> AgentT:
    """Switch self-distillation on for an agent that exists, in place, and return the agent.

    An agent that is distilled already starts over with the new answers. Works between and inside ``learn`` calls.

    :param agent: a PPO or A2C agent, trained or not.
    :param distill: a :class:`DistillConfig`, a recipe's name, or ``True`` for the default recipe.
    :raises TypeError: when it is not known how the agent acts.
    :raises ValueError: when ``distill`` is wrong.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"distill takes an SB3 agent, got {agent!r}")
    config = resolve(distill)
    if config is None:
        raise ValueError("distill must be a recipe's name, a DistillConfig or True, got None: see undistill")
    distiller = Distiller(config, agent)  # before anything changes: it may refuse
    agent.__class__ = SelfDistilled(type(agent))
    agent._distill_config = config  # type: ignore[attr-defined]
    agent.distiller = distiller  # type: ignore[attr-defined]
    return agent


def undistill(agent: AgentT) -> AgentT:
    """Switch self-distillation off, in place: the agent is an instance of its original class again."""
    if is_wrapped(type(agent)):
        agent.__class__ = type(agent).__mro__[1]
        for name in _OURS:
            agent.__dict__.pop(name, None)
    return agent


def is_wrapped(cls: type) -> bool:
    """Tell whether a class was made by :func:`SelfDistilled`."""
    return cls in _CLASSES.values()


def _make_class(base: type[BaseAlgorithm]) -> type[Any]:
    class Distilled(base):  # type: ignore[misc, valid-type]
        """See :func:`SelfDistilled`."""

        distiller: Distiller | None

        def __init__(self, *args: Any, distill: Distill = True, **kwargs: Any) -> None:
            self._distill_config = resolve(distill)
            self.distiller = None
            super().__init__(*args, **kwargs)

        def _setup_model(self) -> None:
            super()._setup_model()
            config = self._distill_config
            self.distiller = None if config is None else Distiller(config, self)

        def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
            announce_boundary(callback)
            recorder = None if self.distiller is None else self.distiller.recorder(self)
            if recorder is not None:
                callback = _joined(self, recorder, callback)
            return super().collect_rollouts(env, callback, *args, **kwargs)

        def train(self, *args: Any, **kwargs: Any) -> None:
            if self.distiller is None:
                super().train(*args, **kwargs)
                return
            with self.distiller.armed(self):
                super().train(*args, **kwargs)

        def _excluded_save_params(self) -> list[str]:
            return [*super()._excluded_save_params(), *_OURS]

        def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
            """Save as SB3 does, with the distillation's state beside, atomically."""
            plain_save = super().save
            checkpoint.save(self, path, self.distiller, lambda target: plain_save(target, exclude, include))

        @classmethod
        def load(cls, path: Any, env: Any = None, device: Any = "auto", **kwargs: Any) -> Any:
            """Load as SB3 does, then take up the distillation where the file left it.

            :param distill: replaces the answers in the file; teacher and states then start over.
            """
            path = checkpoint.existing(path)
            saved = checkpoint.read(path, base)
            if "distill" in kwargs:
                config = resolve(kwargs.pop("distill"))
            else:
                config = resolve(True) if saved is None else saved.config()
            # SB3's load puts keywords into the agent before it sets the model up, where the distiller is made.
            agent = super().load(path, env, device, _distill_config=config, **kwargs)
            if saved is not None and agent.distiller is not None and config == saved.config():
                saved.restore(agent.distiller, agent)
            return agent

        def __reduce__(self) -> Any:
            return _restore, (base,), self.__dict__

    Distilled.__name__ = Distilled.__qualname__ = f"SelfDistilled{base.__name__}"
    return Distilled


def announce_boundary(callback: BaseCallback) -> None:
    """Call ``on_boundary()`` of every callback that has one: nothing of the coming rollout has happened yet.

    ``on_rollout_start`` comes too late for exact checkpoints: with gSDE, noise has been drawn by then.
    """
    hook = getattr(callback, "on_boundary", None)
    if hook is not None:
        hook()
    for child in getattr(callback, "callbacks", ()):
        announce_boundary(child)


def _joined(agent: BaseAlgorithm, first: BaseCallback, then: BaseCallback) -> CallbackList:
    """Let one callback watch a rollout ahead of the user's, without touching the user's."""
    joined = CallbackList([first, then])
    for callback in (joined, first):
        callback.model = agent
        callback.locals, callback.globals = dict(then.locals), then.globals
    return joined


def _restore(base: type[BaseAlgorithm]) -> Any:
    """Make an empty agent of the wrapped class, for unpickling: the class has no importable name."""
    cls: Any = SelfDistilled(base)
    return cls.__new__(cls)
