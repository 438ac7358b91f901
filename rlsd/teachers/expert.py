"""A function or a module that says what to do: a controller, a planner, another library's policy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.nn import functional as F

from rlsd.actors import Actor
from rlsd.actors.comparing import imagined
from rlsd.actors.on_policy import FORBIDDEN
from rlsd.config import number
from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian, Point, QValues
from rlsd.observations import Observations, as_items, from_items, split_context, with_context
from rlsd.plain import SavedState, shown
from rlsd.teachers.base import Teacher, TeacherConfig
from rlsd.teachers.outside import checked_view, seen_by, seen_space

#: Observations that a function is shown when the agent is built.
_SHOWN = 4
#: Beyond, a tanh cannot be undone in 32 bits.
_INSIDE = 0.999


class ExpertTeacher(Teacher):
    """A function, asked about raw states. See :class:`Expert`."""

    from_elsewhere = True

    def __init__(self, actor: Actor, answer: Expert) -> None:
        super().__init__(actor)
        self.answer = answer
        self._bounds: tuple[Tensor, Tensor] | None = None  # of actions that are scaled to -1..1

    def begin(self, agent: BaseAlgorithm) -> None:
        """Ask the function about some observations, and refuse what cannot teach this agent.

        :raises ValueError: then.
        """
        if self.wants.value:
            raise ValueError(f"{self} gives no values of states: set divergence.value_weight to 0")
        seen_space(self.answer.observations, agent.observation_space)
        self._look_at(agent)
        states = imagined(agent.observation_space, _SHOWN, np.random.default_rng(0), agent.device)
        context = self.actor.imagined_context(agent.policy, _SHOWN)
        try:
            rows = self.ask(from_items(with_context(states, context)))
        except ValueError:
            raise
        except Exception as error:  # of anybody's code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"{self} fails on {_SHOWN} observations at once ({reason})") from error
        if not torch.isfinite(rows).all():
            raise ValueError(f"{self} answers with numbers that are not finite: {shown(rows[0].tolist())}")

    def _look_at(self, agent: BaseAlgorithm) -> None:
        if agent.policy.squash_output:
            space: Any = agent.action_space
            low, high = (torch.as_tensor(bound.reshape(-1), device=agent.device) for bound in (space.low, space.high))
            self._bounds = low, high

    def __str__(self) -> str:
        function = self.answer.function
        return f"the teacher {getattr(function, '__qualname__', type(function).__qualname__)}"

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Begin to teach, before the first update."""
        if self.ready:
            return False
        self.version, self.refreshed_at = 1, self.clock.steps(agent)
        return True

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        plain, context = split_context(observations)
        some: Tensor = next(iter(as_items(plain).values()))
        rows = self._parameters(self._asked(observations).to(some.device), len(some))
        if "@mask" in context:
            rows = torch.where(context["@mask"] > 0.5, rows, FORBIDDEN)
        return self.actor.family.normalized(rows)

    def _asked(self, states: Observations) -> Tensor:
        """Return the function's answer: a module is shown tensors, another function arrays."""
        function: Callable[[Any], Any] = self.answer.function
        seen = seen_by(self.answer.observations, split_context(states)[0])
        if isinstance(function, nn.Module):
            with torch.no_grad():
                return torch.as_tensor(function(seen))
        arrays = {key: value.numpy(force=True) for key, value in as_items(seen).items()}
        given = arrays if isinstance(seen, Mapping) else next(iter(arrays.values()))
        return torch.as_tensor(np.asarray(function(given)))

    def _parameters(self, answer: Tensor, n: int) -> Tensor:
        """Return parameters ``(n, family.size)``: the answer itself, or those of distributions around actions."""
        family, whole = self.actor.family, not answer.is_floating_point()
        flat = answer.reshape(n, -1) if answer.shape[:1] == (n,) else answer
        if isinstance(family, QValues) and whole:
            raise ValueError(f"{self} gives actions, and a Q-learner compares values: let it return one of each action")
        if whole and flat.shape == (n, _choices(family)):
            return _around_choices(family, flat.long(), self.answer.certainty)
        if isinstance(family, Gaussian) and flat.shape == (n, family.dim):
            mean = flat.float() if self._bounds is None else self._scaled(flat.float(), _INSIDE).atanh()
            return torch.cat([mean, torch.full_like(mean, math.log(self.answer.noise))], dim=-1)
        if whole or flat.shape != (n, family.size):
            wanted = f"the parameters ({n}, {family.size}) of a {type(family).__name__}, or {n} actions"
            raise ValueError(f"{self} must return {wanted}, got {answer.dtype} of shape {tuple(answer.shape)}")
        return self._scaled(flat.float(), 1.0) if isinstance(family, Point) else flat.float()

    def _scaled(self, actions: Tensor, most: float) -> Tensor:
        """Return actions on SB3's scale of -1 to 1."""
        assert self._bounds is not None, "the agent does not scale its actions"
        low, high = self._bounds
        return (2.0 * (actions - low) / (high - low) - 1.0).clamp(-most, most)

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        self._look_at(agent)


def _choices(family: Family) -> int:
    """Return how many whole numbers an action of a family is, 0 where it is none."""
    if isinstance(family, Categorical):
        return len(family.sizes)
    return family.size if isinstance(family, Bernoulli) else 0


def _around_choices(family: Family, chosen: Tensor, certainty: float) -> Tensor:
    """Return parameters by which each choice has a probability of ``certainty``, and what is left is shared out."""
    if isinstance(family, Bernoulli):
        return torch.where(chosen > 0, 1.0, -1.0) * math.log(certainty / (1.0 - certainty))
    assert isinstance(family, Categorical)
    hot = [F.one_hot(chosen[:, i], n) for i, n in enumerate(family.sizes)]
    rest = [(1.0 - certainty) / max(n - 1, 1) for n in family.sizes]
    return torch.cat([torch.where(one > 0, certainty, left).log() for one, left in zip(hot, rest, strict=True)], dim=-1)


def _function(key: str, value: Any) -> Any:
    if isinstance(value, Mapping) and "function" in value:
        raise ValueError(
            f"{key} was {value['function']}, which no file can hold: pass distill=... with it again when loading"
        )
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"teacher 'expert' needs a function or a module: rlsd.Expert(function), got {shown(value)}")
    return copy.deepcopy(value).requires_grad_(False).eval() if isinstance(value, nn.Module) else value


@dataclass(frozen=True)
class Expert(TeacherConfig, name="expert"):
    """A function that says what to do in a batch of raw observations: ``rlsd.Expert(function)``.

    A module of torch, which is copied at once, is shown tensors ``(n, *shape)``, any other function arrays; of a Dict
    each by its key. It returns the parameters of the student's action distributions, ``(n, size)``, or ``n`` actions:
    whole numbers for discrete ones, else in the environment's own units. It must not change: each state is asked about
    once. A file has only its name, so it is handed over again when loading, ``load(..., distill=...)``.

    :param function: as above.
    :param observations: what it sees, as for :class:`Frozen`.
    :param certainty: the probability of a discrete action that it gives; the others share the rest. Raising it leaves
        the student less to chance. Usual range 0.8 to 0.99.
    :param noise: the standard deviation around a continuous action that it gives, before a tanh where there is one.
        Usual range 0.05 to 0.5. ``divergence.std_weight`` 0 compares means alone.
    :raises ValueError: when it is no function; when the agent is built, that it fails, or gives a NaN.
    """

    function: Any = field(default=None, metadata={"check": _function})
    observations: Any = field(default=None, kw_only=True, metadata={"check": checked_view})
    certainty: float = number(0.95, low=0.0, high=0.999999, low_open=True, kw_only=True)
    noise: float = number(0.1, low=0.0, low_open=True, kw_only=True)

    def build(self, actor: Actor) -> ExpertTeacher:  # noqa: D102
        return ExpertTeacher(actor, self)
