"""Distilling offline: an agent that exists is taught by others, or by a data set, without training on rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import callbacks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlsd.actors import Actor, examined
from rlsd.actors.on_policy import RecurrentActorCritic
from rlsd.behaviour import drawn, in_units
from rlsd.config import Answer, checked_integer, checked_number
from rlsd.divergences import Divergence
from rlsd.observations import Normalization, Observations, as_items, from_items, split_context, with_context
from rlsd.plain import shown
from rlsd.rng import own_generator
from rlsd.states import StateStore
from rlsd.students.collection import DaggerCollector, raw_of, shaped
from rlsd.students.compress import learning, place_of, states_of
from rlsd.students.course import Course, Taught
from rlsd.students.imitation_loss import Demonstrator, ImitationLoss
from rlsd.teachers import Expert, ExpertTeacher, Several, Teacher, as_teacher

#: Sets the random stream apart from every other that is made from the same seed ("into" in ASCII).
_STREAM = 0x696E746F
#: Under which name actions of a data set are stored beside their states.
_ACTION = "@action"


def distill_into(
    student: BaseAlgorithm,
    teachers: Any = None,
    states: Any = None,
    steps: int = 20_000,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    divergence: Any = "kl",
    value_weight: float = 0.5,
    rounds: int = 5,
    patience: int = 0,
    episodes: int = 0,
    progress_bar: bool = False,
    seed: int = 0,
    env: Any = None,
) -> Taught:
    """Teach an agent what others do, in place, by imitation alone; no reward is looked at.

    The student keeps its hyperparameters and counters, and trains on as it would have. Without gathering and episodes,
    no environment takes a step::

        rlsd.distill_into(student, teacher, states=20_000, episodes=20)
        rlsd.distill_into(student, states=(observations, actions))  # behaviour cloning

    :param student: any SB3 agent but a RecurrentPPO, which must act to know its memory.
    :param teachers: another agent, a path of one, a function (:class:`Expert`), a list of these or an answer such as
        :class:`Frozen` or :class:`Several`. None where ``states`` has actions.
    :param states: as for :func:`compress`; or a data set of observations and actions: a pair of arrays, ``imitation``'s
        transitions or trajectories, a ``minari`` data set or its episodes.
    :param steps: gradient steps at most. Usual range 1,000 to 100,000.
    :param learning_rate: of Adam, falling to 0. Usual range 3e-4 to 3e-3.
    :param batch_size: states at one gradient step. Usual range 64 to 1024.
    :param divergence: as in :class:`DistillConfig`.
    :param value_weight: weight of the critic's part, where the teacher is an agent of the student's kind with the same
        observations; else its critic stays as it is.
    :param rounds: in how many turns states are gathered; in the first the teacher acts. Usual range 2 to 10.
    :param patience: ends learning after so many measurements in vain, of twenty, on held-out states; 0 never does.
    :param episodes: that the student plays in the end, greedily, for :attr:`Taught.mean_return`.
    :param progress_bar: whether to show one, by ``tqdm``.
    :param seed: of all that is drawn; the global generators are left as they were.
    :param env: where to gather and to play; by default a copy of the student's environment.
    :return: how it went.
    :raises TypeError: when such an agent cannot be taught offline.
    :raises ValueError: when a value is wrong, the teacher does not fit, or an environment is missing.
    """
    if not isinstance(student, BaseAlgorithm):
        raise TypeError(f"distill_into takes an SB3 agent as the student, got {student!r}")
    wanted = {"steps": steps, "batch_size": batch_size, "rounds": rounds}
    steps, batch_size, rounds = (checked_integer(name, value, low=1) for name, value in wanted.items())
    patience, episodes = checked_integer("patience", patience), checked_integer("episodes", episodes)
    checked_number("learning_rate", learning_rate, low_open=True)
    checked_number("value_weight", value_weight)
    measure = Answer.parse("divergence", divergence)
    assert isinstance(measure, Divergence)
    actor = examined(student)
    if isinstance(actor, RecurrentActorCritic):
        raise TypeError(
            "a RecurrentPPO cannot be taught offline: it must act to know its memory. Distil it as it trains"
        )
    measure.check(student, actor)
    pairs = _pairs(states)
    if (pairs is None) == (teachers is None):
        raise ValueError(
            "distill_into needs a teacher, or states with actions and no teacher: pass teachers=agent, or "
            f"states=(observations, actions), got teachers={shown(teachers)}"
        )
    generator = own_generator(seed, _STREAM)
    tutor, source = _tutor(student, actor, teachers, pairs)
    place, reason = (None, "") if pairs is not None and not episodes else place_of(student, env)
    if pairs is not None:
        store, missing = states_of(student, actor, pairs[0], seed, _beside(student, pairs))[0], 0
    else:
        store, missing = states_of(source, actor, states, seed)
    if (missing or episodes) and place is None:
        raise ValueError(f"states must be gathered in the student's environment, but {reason}: pass env=... or states")
    walk = DaggerCollector(place, actor, store) if missing and place is not None else None
    with _bar(steps) if progress_bar else nullcontext() as bar:
        comparison = ImitationLoss(tutor, measure, value_weight, generator)
        course = Course(student, comparison, store, generator, steps, learning_rate, batch_size, rounds, patience, bar)
        course.run(walk, _Acting(tutor, student, place), missing)
    played = None
    if episodes and place is not None:
        played = float(np.mean(evaluate_policy(student, place, n_eval_episodes=episodes, warn=False)[0]))
    learning(place, True)
    return course.report(played)


class _Tutor(Demonstrator):
    """Shows a student what a teacher does, each by its own statistics.

    :param student: who is taught.
    :param agent: whose critic is imitated: the student itself where the teacher is none of its kind.
    :param actor: the adapter to the student's way of acting.
    :param teacher: None for the agent.
    """

    def __init__(self, student: BaseAlgorithm, agent: BaseAlgorithm, actor: Actor, teacher: Teacher | None) -> None:
        super().__init__(agent, actor, teacher)
        self._of_student = Normalization.of(student)

    def seen(self, states: Observations) -> Observations:
        plain, context = split_context(states)
        normalized = plain if self._of_student is None else self._of_student(plain)
        context.pop(_ACTION, None)
        return with_context(normalized, context) if context else normalized

    def look_at(self, store: StateStore) -> None:
        if self._teacher is not None:
            self._teacher.prepare(store)

    def expectations(self, states: Observations, actions: Tensor | None) -> Tensor | None:
        return None if self._teacher is not None else super().expectations(states, actions)


class _Acting:
    """The teacher, acting where the student is to act."""

    def __init__(self, tutor: Demonstrator, student: Any, place: VecEnv | None) -> None:
        self._tutor, self._student, self._place = tutor, student, place
        self.observation_space, self.action_space = student.observation_space, student.action_space

    def predict(self, observation: Any, /, *, deterministic: bool = False, **settings: Any) -> tuple[Any, Any]:
        arrays = shaped(
            {key: np.asarray(value) for key, value in as_items(raw_of(self._place, observation)).items()}, self
        )
        states: Any = {key: torch.as_tensor(array, device=self._student.device) for key, array in arrays.items()}
        if "action_masks" in settings:
            mask = settings["action_masks"].reshape(len(settings["action_masks"]), -1)
            states = with_context(states, {"@mask": torch.as_tensor(mask, device=self._student.device)})
        family = self._tutor.actor.family
        return in_units(self._student, family, drawn(family, self._tutor.targets(from_items(states)))), None


class _Recorded(ExpertTeacher):
    """A data set: the action beside each state."""

    def __str__(self) -> str:
        return "the data set"

    def _asked(self, states: Observations) -> Tensor:
        return split_context(states)[1][_ACTION]


def _tutor(student: Any, actor: Actor, teachers: Any, pairs: Any) -> tuple[_Tutor, BaseAlgorithm]:
    """Return the teacher, and the agent that may have states of its own."""
    if pairs is not None:
        recorded = _Recorded(actor, Expert(_pairs))
        recorded.load(student, {}, {"version": 1, "refreshed_at": 0})
        return _Tutor(student, student, actor, recorded), student
    if isinstance(teachers, BaseAlgorithm) and _alike(student, teachers):
        return _Tutor(student, teachers, actor, None), teachers
    answer = as_teacher(teachers)
    if isinstance(answer, Several) and (answer.advised or None in answer.teachers):
        raise ValueError("offline every state needs a teacher: give Several one for each task, and no advised")
    teacher = answer.build(actor)
    teacher.begin(student)
    teacher.refresh(student)
    return _Tutor(student, student, actor, teacher), student


def _alike(student: BaseAlgorithm, agent: BaseAlgorithm) -> bool:
    both = [(one.observation_space, one.action_space) for one in (student, agent)]
    return type(student.policy) is type(agent.policy) and both[0] == both[1]


def _pairs(states: Any) -> tuple[Any, Any] | None:
    """Return the observations and actions of a data set, None where there are no actions.

    :raises ValueError: when they are not as many.
    """
    parts = states.iterate_episodes() if hasattr(states, "iterate_episodes") else states
    parts = [parts] if hasattr(parts, "acts") or hasattr(parts, "actions") else parts
    if isinstance(parts, (str, Mapping, np.ndarray)) or not isinstance(parts, Iterable):
        return None
    parts = [*parts]
    if parts and all(hasattr(one, "acts") or hasattr(one, "actions") for one in parts):
        # Trajectories have one observation more than actions.
        found = [(one.obs, one.acts) if hasattr(one, "acts") else (one.observations, one.actions) for one in parts]
        actions = np.concatenate([np.asarray(acts) for _, acts in found])
        items = [{k: np.asarray(v)[: len(acts)] for k, v in as_items(seen).items()} for seen, acts in found]
        return {key: np.concatenate([one[key] for one in items]) for key in items[0]}, actions
    if not isinstance(states, tuple) or len(parts) != 2:
        return None
    return parts[0], np.asarray(parts[1])


def _beside(student: BaseAlgorithm, pairs: tuple[Any, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is stored beside the states of a data set.

    :raises ValueError: when actions are none, or not as many.
    """
    counts = {len(np.asarray(value)) for value in as_items(pairs[0]).values()}
    if pairs[1].dtype.kind not in "biuf" or counts != {len(pairs[1])}:
        found = f"{pairs[1].dtype} of shape {pairs[1].shape}"
        raise ValueError(f"states must hold as many observations as actions, got {sorted(counts)} and {found}")
    continuous = isinstance(student.action_space, spaces.Box)
    return {_ACTION: pairs[1].astype(np.float32 if continuous else np.int64)}


def _bar(steps: int) -> Any:
    tqdm: Any = getattr(callbacks, "tqdm", None)  # None where SB3's extra is not installed
    if tqdm is None:
        raise ValueError("progress_bar needs tqdm and rich: pip install 'stable-baselines3[extra]'")
    return tqdm(total=steps)
