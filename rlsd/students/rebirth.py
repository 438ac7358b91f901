"""Rebirth: now and then a student with new weights learns what the agent does, and takes its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from rlsd.actors import RandomSearchActor, algorithm_name
from rlsd.actors.on_policy import RecurrentActorCritic
from rlsd.actors.random_search import search_around
from rlsd.config import choice, integer, number
from rlsd.optimizers import forget, load_state, optimizers_of, state_tensors
from rlsd.plain import SavedState, State
from rlsd.rng import own_generator
from rlsd.strength import Strength
from rlsd.students.imitation import imitate
from rlsd.students.imitation_loss import Demonstrator, ImitationLoss
from rlsd.students.initialization import KINDS, new_student
from rlsd.students.parallel import ParallelStudent
from rlsd.students.rollback import RollbackGuard
from rlsd.teachers.frozen_policy import copy_into, named_tensors
from rlsd.timing import AuxiliaryTraining, Distillation, Timing

#: Sets the students' random stream apart from every other that is made from the agent's seed ("born" in ASCII).
_STREAM = 0x626F726E


class PolicyReset(AuxiliaryTraining):
    """The rebirths of one agent.

    :param answer: when, how, and on what conditions.
    :param distiller: the agent's, for its teacher, states, divergence and strength.
    :param agent: the agent.
    :raises TypeError: when the agent cannot be reborn, or not in this mode.
    """

    def __init__(self, answer: Reborn, distiller: Distillation, agent: BaseAlgorithm) -> None:
        _check(answer, distiller, agent)
        self.answer, self._distiller = answer, distiller
        self._generator = own_generator(agent.seed, _STREAM)
        self.probation = RollbackGuard(answer.episodes, answer.tolerance, distiller.ended)
        #: The student that learns beside the agent, None when there is none.
        self.companion: ParallelStudent | None = None
        #: The agent's environment steps when the latest rebirth began.
        self.began: int = distiller.clock.steps(agent)
        self.rebirths, self.refused, self.returned = 0, 0, 0
        self._gap = 0.0
        self._scale = 1.0  # of the values that a companion learns

    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:  # noqa: D102
        if self._distiller.coefficient.strength.off:
            return
        self._judge(agent)
        now = self._distiller.clock.steps(agent)
        if self.companion is not None:
            self._accompany(agent, update, self.companion)
        elif not self.probation.on and self._distiller.states.count and now - self.began >= self.answer.every:
            self.began = now
            if self.answer.mode == "parallel":
                self.companion = ParallelStudent(self._student(agent))
                comparison = self._comparison(agent)
                comparison.calibrate(self._distiller.states)
                self._scale = comparison.scale
            else:
                self.rebirth(agent)

    def rebirth(self, agent: BaseAlgorithm) -> bool:
        """Teach a student what the agent does now; tell whether it came near enough, and has taken the agent's place.

        Called when one is due; by yourself, whenever you like between two calls of ``learn()``.
        """
        before = self.rebirths
        self._settle(agent, self._student(agent), None)
        return self.rebirths > before

    def _student(self, agent: BaseAlgorithm) -> BasePolicy:
        answer = self.answer
        return new_student(agent, self._generator, answer.kind, answer.shrink, answer.perturb)

    def _judge(self, agent: BaseAlgorithm) -> None:
        """Bring the predecessor back when the student on probation has failed."""
        passed = self.probation.watch(agent)
        if passed is None:
            return
        if not passed:
            self.probation.bring_back(agent)
            self._restart(agent)
            self.returned += 1
        self.probation.end()

    def _accompany(self, agent: BaseAlgorithm, update: Callable[[], None], companion: ParallelStudent) -> None:
        answer, strength = self.answer, self._distiller.coefficient
        comparison = self._comparison(agent)
        done = (self._distiller.clock.steps(agent) - self.began) / answer.over
        comparison.scale = self._scale
        companion.learn(
            agent,
            update,
            comparison,
            self._distiller.states,
            answer.batch_size,
            max(1.0 - done, 0.0) * strength.value,
            strength.strength.bound,
            self._generator,
        )
        if done >= 1.0:
            self.companion = None
            self._settle(agent, companion.policy, comparison.gap(companion.policy, self._distiller.states))

    def _settle(self, agent: BaseAlgorithm, student: BasePolicy, gap: float | None) -> None:
        """Teach the student until it does what the agent does, and let it take over; else give it up."""
        answer, store = self.answer, self._distiller.states
        comparison = self._comparison(agent)
        learned = False
        for _ in range(answer.attempts):
            if gap is not None and gap <= answer.kl_bound:
                break
            imitate(student, comparison, store, answer.steps, answer.learning_rate, answer.batch_size, self._generator)
            gap, learned = comparison.gap(student, store), True
        assert gap is not None
        self._gap = gap
        if not gap <= answer.kl_bound:  # also when it is not a number
            self.refused += 1
            return
        self.rebirths += 1
        self.probation.begin(agent)
        take_over(agent, student, with_optimizers=not learned)
        self._restart(agent)

    def _restart(self, agent: BaseAlgorithm) -> None:
        """Let all averages of the agent's weights begin anew: they were exchanged."""
        (getattr(agent, "distiller", None) or self._distiller).restart(agent)
        if getattr(agent, "weight_average", None) is not None:
            agent.weight_average.restart()  # type: ignore[attr-defined]

    def _comparison(self, agent: BaseAlgorithm) -> ImitationLoss:
        tutor = Demonstrator(agent, self._distiller.actor, self._distiller.teacher)
        return ImitationLoss(tutor, self._distiller.divergence, self.answer.value_weight, self._generator)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "rebirths": float(self.rebirths),
            "rebirths_refused": float(self.refused),
            "rebirths_returned": float(self.returned),
            "rebirth_kl": self._gap,
        }

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = {f"old/{name}": tensor for name, tensor in self.probation.tensors().items()}
        if self.companion is not None:
            out |= {f"student/{name}": tensor for name, tensor in self.companion.tensors().items()}
        return out

    def state(self) -> State:  # noqa: D102
        return {
            "began": self.began,
            "counts": [self.rebirths, self.refused, self.returned],
            "gap": self._gap,
            "scale": self._scale,
            "probation": self.probation.state(),
            "student": None if self.companion is None else self.companion.state(),
            "generator": self._generator.bit_generator.state,
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        parts: dict[str, dict[str, Tensor]] = {"old": {}, "student": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.probation.load(agent, parts["old"], state["probation"])
        if state["student"] is not None:
            self.companion = ParallelStudent(new_student(agent, self._generator))
            self.companion.load(parts["student"], state["student"])
        self.began = int(state["began"])
        if "steps" in state:  # saved when rebirths counted from 0, where the agent's steps were ``seen``
            self.began += int(state["seen"]) - int(state["steps"])
        self.rebirths, self.refused, self.returned = map(int, state["counts"])
        self._gap, self._scale = float(state["gap"]), float(state["scale"])
        self._generator.bit_generator.state = state["generator"]


def take_over(agent: BaseAlgorithm, student: BasePolicy, with_optimizers: bool) -> None:
    """Put a student's weights into the agent's own networks, so that all that refers to these stays valid.

    :param with_optimizers: whether the student's optimizers, which trained it, come with it; else the agent's start
        over. The learning rate stays the agent's.
    """
    copy_into(agent.policy, named_tensors(student))
    theirs = optimizers_of(student)
    for name, optimizer in optimizers_of(agent.policy).items():
        forget(optimizer)
        if with_optimizers:
            load_state(optimizer, state_tensors(theirs[name]))
    search_around(agent)


def _check(answer: Reborn, distiller: Distillation, agent: BaseAlgorithm) -> None:
    name = algorithm_name(agent)
    actor = distiller.actor
    if not distiller.states.ahead:
        raise TypeError("a student needs more states than those of the present minibatch: use states 'reservoir'")
    if isinstance(actor, RecurrentActorCritic):
        raise TypeError(
            f"a student needs the values of stored states, and the memory of {name}'s critic is not stored with them: "
            "use timing 'phase' or 'every_step'"
        )
    if isinstance(actor, RandomSearchActor) and answer.mode == "parallel":
        raise TypeError(f"{name} has no update that a student could run beside it: use timing.mode 'sequential'")
    ratio = hasattr(agent, "clip_range") or isinstance(agent, OffPolicyAlgorithm)
    if answer.mode == "parallel" and not ratio:
        raise TypeError(
            f"{name}'s update only suits the policy that acted, and a student beside it did not: "
            "use timing.mode 'sequential', or PPO"
        )
    _check_strength(answer, distiller.coefficient.strength)
    if distiller.divergence.value_weight:
        raise TypeError(
            "divergence.value_weight has no part in timing 'reborn', whose students learn values by "
            f"timing.value_weight = {answer.value_weight:g}: set that, and divergence.value_weight to 0"
        )


def _check_strength(answer: Reborn, strength: Strength) -> None:
    """Refuse what would change nothing: the agent's own updates get no penalty that could be weighed or followed."""
    if strength.build() is not None:
        raise TypeError(
            f"strength {strength.name!r} follows the penalty on the agent's own updates, and timing 'reborn' lays none "
            "on them: use 'constant', in parallel also 'schedule', or timing 'every_step'"
        )
    for gate in strength.gates:
        if gate.per_state:
            raise TypeError(
                f"gate {gate.name!r} decides which states count in a penalty on the agent's own updates, and timing "
                "'reborn' lays none on them: leave the gate out, or use timing 'phase' or 'every_step'"
            )
        if answer.mode == "sequential":
            raise TypeError(
                f"gate {gate.name!r} has nothing to weigh where a student learns at once until it is near enough: "
                "leave the gate out, or use timing.mode 'parallel'"
            )


@dataclass(frozen=True)
class Reborn(Timing, name="reborn"):
    """Now and then a student with new weights is taught what the agent does, and takes its place.

    A network that learned long on data that kept changing learns and generalises worse than one that starts from fresh
    weights (Igl et al. 2021, ITER; Nikishin et al. 2022). The student sees stored states and learns
    ``D + value_weight * (V_T - V_S)^2`` from the agent, or from another teacher than a snapshot where one is
    configured: policies by the configured divergence, state values and Q-values by their squared error. It takes over
    only when its mean ``KL(teacher || student)`` on held-out states is at most ``kl_bound``. Target networks are then
    made equal to what they follow, and optimizers start over.

    The agent it replaces is kept while the student is on probation: when its next ``episodes`` episodes earn less than
    the agent's last 20 did, by more than ``tolerance`` of the range of returns seen so far beyond two standard errors,
    the agent comes back as it was, and what was learned in between is lost. Until as many episodes have ended nothing
    is decided, and no other student begins; where fewer than 20 had ended before, the student stays unjudged. Where
    ``stats_window_size`` is less than 20, as many count, but 5 at least.

    The agent's own gradient steps get no penalty, and strength 0 switches all of it off. Refused are strengths
    that follow the penalty, ``divergence.value_weight``, and gates: in parallel only those that decide state by state.
    Not for RecurrentPPO; in parallel for PPO, MaskablePPO and off-policy algorithms.

    :param every: environment steps from the beginning of one rebirth to the next. Usual range 50,000 to 2,000,000.
    :param mode: ``"sequential"`` teaches the student at once, between two updates. ``"parallel"`` (ITER) lets it learn
        beside the agent for ``over`` steps: after each update of the agent's the same update runs on the student, on
        the same data, with ``a * strength`` times the loss above, where ``a`` falls from 1 to 0. That doubles the time
        of the updates. Only if it ends further off than ``kl_bound`` it is also taught as in ``"sequential"``.
    :param kind: what the student begins with: ``"fresh"`` weights; the agent's, but for ``"last_layers"`` (Nikishin et
        al. 2022); or ``"shrink_and_perturb"``, ``shrink`` times the agent's plus ``perturb`` times fresh ones (Ash and
        Adams 2020).
    :param steps: gradient steps of imitation at a time. Usual range 1,000 to 20,000.
    :param attempts: how often as many steps are taken at most until ``kl_bound`` is met; then the student is given up.
        Usual range 1 to 10.
    :param learning_rate: of the imitation's Adam, falling to 0 over the steps. Usual range 3e-4 to 3e-3.
    :param batch_size: states at one gradient step. Usual range 64 to 1024.
    :param kl_bound: largest mean KL on held-out states, in nats, at which the student takes over. Lower is safer
        and takes more steps: a greedy Q-learner's order of actions needs more care. Usual range 0.001 to 0.1.
    :param value_weight: weight of the critic's part; 0.5 in ITER. Usual range 0.1 to 1.
    :param over: environment steps that a student learns in parallel. Usual range 10,000 to 500,000.
    :param episodes: of the probation. More judge better, and later. Usual range 10 to 100.
    :param tolerance: see above. Usual range 0 to 0.2.
    :param shrink: see ``kind``. Usual range 0.2 to 0.9.
    :param perturb: see ``kind``. Usual range 0.01 to 0.8.
    :raises ValueError: when the parallel phase is longer than ``every``.
    """

    deposits: ClassVar[bool] = False

    every: int = integer(100_000, low=1)
    mode: str = choice("sequential", ("sequential", "parallel"))
    kind: str = choice("fresh", KINDS)
    steps: int = integer(4000, low=1)
    attempts: int = integer(5, low=1)
    learning_rate: float = number(1e-3, low=0.0, low_open=True)
    batch_size: int = integer(256, low=1)
    kl_bound: float = number(0.005, low=0.0, low_open=True)
    value_weight: float = number(0.5, low=0.0)
    over: int = integer(50_000, low=1)
    episodes: int = integer(20, low=2)
    tolerance: float = number(0.05, low=0.0, high=1.0)
    shrink: float = number(0.4, low=0.0, high=1.0)
    perturb: float = number(0.1, low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "parallel" and self.over > self.every:
            raise ValueError(f"timing.over must be at most timing.every = {self.every}, got {self.over}")

    def weight(self, step: int) -> int:  # noqa: D102
        return 0

    def build(self, distiller: Distillation, agent: BaseAlgorithm) -> AuxiliaryTraining:  # noqa: D102
        return PolicyReset(self, distiller, agent)
