"""One agent that does what several do, each in a task of its own."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor, nn

from rlsd.actors import Actor, algorithm_name, examined
from rlsd.actors.on_policy import RecurrentActorCritic
from rlsd.actors.random_search import search_around
from rlsd.config import checked_integer, checked_number
from rlsd.divergences import KL
from rlsd.observations import Normalization, Observations, split_context, with_context
from rlsd.rng import own_generator
from rlsd.states import StateStore
from rlsd.students.collection import DaggerCollector
from rlsd.students.compress import new_student, place_of, states_of
from rlsd.students.imitation import imitate
from rlsd.students.imitation_loss import Demonstrator, ImitationLoss

#: Sets the random stream apart from every other that is made from the same seed ("mrge" in ASCII).
_STREAM = 0x6D726765
#: What a teacher sees of the student's observation: a key or keys of a Dict, or what a function makes of a batch.
View = str | Sequence[str] | Callable[[Any], Any] | None


def merge(
    agents: Sequence[BaseAlgorithm],
    student: BaseAlgorithm | Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    observations: Sequence[View] | None = None,
    envs: Sequence[Any] | None = None,
    states: Any = 20_000,
    steps: int = 20_000,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    value_weight: float = 0.5,
    rounds: int = 5,
    seed: int = 0,
) -> Any:
    """Teach one agent what several do that were trained apart, each in states of its own task, and return it.

    The loss is the mean of each teacher's own, see :func:`rlsd.compress`, over a minibatch of its task (policy
    distillation, Rusu et al. 2016). The student can tell the tasks apart only by what it observes. The teachers stay as
    they are::

        both = rlsd.merge([walks, jumps], {"net_arch": [128, 128]})

    :param agents: the teachers, distilled or plain, of one way of acting and one action space; no RecurrentPPO.
    :param student: an SB3 agent, whose weights change in place; or what differs in ``policy_kwargs`` from the first
        teacher's, by default nothing, for a new plain agent of its algorithm and hyperparameters that has no
        environment and sees raw observations.
    :param weights: of each teacher's loss, at least 0. All alike by default.
    :param observations: what each teacher sees of the student's observation: None for all of it, a key or a list of
        keys of a Dict, or a function of a batch, an array or a tensor, such as ``lambda seen: seen[:, :4]``.
    :param envs: where each teacher acts; its observations are the student's. By default copies of the teachers' own.
        A teacher's ``VecNormalize`` is taken from the teacher.
    :param states: how many states to gather in each environment, the first by the teacher, the rest by the student
        (DAgger). Or a list of each teacher's raw observations as the student sees them, ``(n, *shape)``.
    :param steps: gradient steps in all, each on a minibatch of every task. Usual range 5,000 to 100,000.
    :param learning_rate: of Adam, falling to 0. Usual range 3e-4 to 3e-3.
    :param batch_size: states of each task at one gradient step. Usual range 64 to 1024.
    :param value_weight: weight of the critics' part; 0 leaves the student's critic as it is.
    :param rounds: in how many turns states are gathered; in the first the teachers act. Usual range 2 to 10.
    :param seed: of the new weights and of all that is drawn; the global generators are left as they were.
    :raises TypeError: when one of them is no agent that can be merged.
    :raises ValueError: when a value is wrong, agents do not fit together, or an environment is missing.
    """
    teachers = _checked(agents)
    counts = {"steps": steps, "batch_size": batch_size, "rounds": rounds}
    steps, batch_size, rounds = (checked_integer(name, value, low=1) for name, value in counts.items())
    checked_number("learning_rate", learning_rate, low_open=True)
    checked_number("value_weight", value_weight)
    shares = _shares(weights, len(teachers))
    views = _one_each("observations", observations, len(teachers))
    places = _one_each("envs", envs, len(teachers))
    generator = own_generator(seed, _STREAM)
    if isinstance(student, BaseAlgorithm):
        learner = student
    else:
        if any(view is not None for view in views):
            raise ValueError("observations say what teachers see of the student's: give the student as an SB3 agent")
        learner = new_student(teachers[0], dict(student or {}), seed, None, generator)
    actors = [_fitting(number, agent, learner) for number, agent in enumerate(teachers)]
    tutors = [_Onlooker(*one, learner) for one in zip(teachers, actors, views, strict=True)]
    comparison = _Mean([ImitationLoss(tutor, KL(), value_weight, generator) for tutor in tutors], shares)

    gathered = isinstance(states, numbers.Real)
    own_states = [states] * len(teachers) if gathered else _one_each("states", states, len(teachers))
    stores = [states_of(learner, actor, own, seed)[0] for actor, own in zip(actors, own_states, strict=True)]
    arguments = (learning_rate, batch_size, generator)
    if gathered:
        a_turn, in_between = -(-states // rounds), steps // 2 // max(rounds - 1, 1)
        found = [_place(number, *one, learner) for number, one in enumerate(zip(teachers, places, strict=True))]
        walks = [DaggerCollector(*one) for one in zip(found, actors, stores, strict=True)]
        for walk, agent, view in zip(walks, teachers, views, strict=True):
            walk.go(_Seeing(agent, view, learner), a_turn, generator)
        for _ in range(rounds - 1):
            imitate(learner.policy, comparison, stores, max(in_between, 1), *arguments)
            search_around(learner)
            for walk in walks:
                walk.go(_Seeing(learner, None, learner), a_turn, generator)
        for place in found:
            place.reset()
    imitate(learner.policy, comparison, stores, steps - (steps // 2 if gathered and rounds > 1 else 0), *arguments)
    search_around(learner)
    return learner


class _Onlooker(Demonstrator):
    """A teacher that sees its own part of what the student sees."""

    def __init__(self, agent: BaseAlgorithm, actor: Actor, view: View, student: BaseAlgorithm) -> None:
        super().__init__(agent, actor)
        self._view, self._of_student = view, Normalization.of(student)

    def seen(self, states: Observations) -> Observations:
        return states if self._of_student is None else self._of_student(states)

    def _shown(self, states: Observations) -> Observations:
        observed, context = split_context(states)
        viewed = _viewed(observed, self._view)
        return super()._shown(with_context(viewed, context) if context else viewed)


class _Seeing:
    """An agent that acts on the student's raw observations."""

    def __init__(self, agent: BaseAlgorithm, view: View, student: BaseAlgorithm) -> None:
        self._agent, self._view = agent, view
        self.observation_space, self.action_space = student.observation_space, student.action_space

    def predict(self, observation: Any, /, *, deterministic: bool = False, **settings: Any) -> tuple[np.ndarray, Any]:
        seen, normalizer = _viewed(observation, self._view), self._agent.get_vec_normalize_env()
        if normalizer is not None:
            seen = normalizer.normalize_obs(seen)
        return self._agent.predict(seen, deterministic=deterministic, **settings)


class _Mean:
    """The mean of several teachers' losses, each on states of its own."""

    def __init__(self, losses: list[ImitationLoss], shares: list[float]) -> None:
        self._losses, self._shares = losses, shares

    def calibrate(self, stores: list[StateStore], /) -> None:
        for loss, store in zip(self._losses, stores, strict=True):
            loss.calibrate(store)

    def batch(self, stores: list[StateStore], size: int, /) -> list[Observations]:
        return [loss.batch(store, size) for loss, store in zip(self._losses, stores, strict=True)]

    def parts(self, policy: nn.Module, raw: list[Observations], /) -> tuple[Tensor | None, Tensor | None]:
        columns = zip(*(loss.parts(policy, own) for loss, own in zip(self._losses, raw, strict=True)), strict=True)
        first, second = (self._weighted(column) for column in columns)
        return first, second

    def _weighted(self, terms: tuple[Tensor | None, ...]) -> Tensor | None:
        found = [share * term for share, term in zip(self._shares, terms, strict=True) if term is not None]
        return torch.stack(found).sum() if found else None


def _viewed(observations: Any, view: View) -> Any:
    if view is None:
        return observations
    if callable(view):
        return view(observations)
    return observations[view] if isinstance(view, str) else {key: observations[key] for key in view}


def _checked(agents: Any) -> list[BaseAlgorithm]:
    if not isinstance(agents, (list, tuple)) or not agents:
        raise TypeError(f"merge takes a list of SB3 agents, got {agents!r}")
    for number, agent in enumerate(agents):
        if not isinstance(agent, BaseAlgorithm):
            raise TypeError(f"agents[{number}] must be an SB3 agent, got {agent!r}: load one by its algorithm's load")
    return list(agents)


def _fitting(number: int, agent: BaseAlgorithm, student: BaseAlgorithm) -> Actor:
    """Return the adapter of a teacher that the student can learn from.

    :raises TypeError: when it is a RecurrentPPO.
    :raises ValueError: when the two act otherwise, or are on different devices.
    """
    actor, own = examined(agent), examined(student)
    if isinstance(actor, RecurrentActorCritic):
        raise TypeError(f"agents[{number}] is a RecurrentPPO, which cannot be merged: a student remembers other things")
    if type(actor) is not type(own) or agent.action_space != student.action_space:
        theirs, ours = (f"{algorithm_name(one)} in {one.action_space}" for one in (agent, student))
        raise ValueError(f"agents[{number}] acts otherwise than the student: {theirs} and {ours}")
    if agent.device != student.device:
        raise ValueError(
            f"agents[{number}] is on {agent.device} and the student on {student.device}: load with device="
        )
    return actor


def _place(number: int, agent: BaseAlgorithm, env: Any, student: BaseAlgorithm) -> VecEnv:
    """Return where a teacher acts, whose observations are raw.

    :raises ValueError: when there is no such place, or the student sees something else.
    """
    place, reason = place_of(agent, env)
    if place is None:
        raise ValueError(f"agents[{number}] needs an environment to act in, but {reason}: pass envs=[...], or states")
    while isinstance(place, VecNormalize):
        place = place.venv
    around = place
    while isinstance(around, VecEnvWrapper):
        while isinstance(around.venv, VecNormalize):
            around.venv = around.venv.venv
        around = around.venv
    if place.observation_space != student.observation_space:
        raise ValueError(
            f"the environment of agents[{number}] shows {place.observation_space} and the student sees "
            f"{student.observation_space}: give envs=[...] that show the same, and observations=[...] for the teachers"
        )
    return place


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    if values is None:
        return [None] * count
    if not isinstance(values, (list, tuple)) or len(values) != count:
        found = f"{len(values)}" if isinstance(values, (list, tuple)) else repr(values)
        raise ValueError(f"{name} must be a list with one for each of {count} agents, got {found}")
    return list(values)


def _shares(weights: Any, count: int) -> list[float]:
    """Return what each teacher's loss counts for; their sum is 1."""
    given = [1.0 if value is None else value for value in _one_each("weights", weights, count)]
    for number, value in enumerate(given):
        checked_number(f"weights[{number}]", value)
    if not sum(given) > 0:
        raise ValueError(f"weights must not all be 0, got {weights!r}")
    return [float(value) / sum(given) for value in given]
