"""Puts the five answers together, and the gradient where the agent's own update picks it up.

All of SB3's algorithms run ``optimizer.zero_grad(); loss.backward(); [clip]; optimizer.step()``. While ``train()``
runs, and only then, the actor optimizer's ``zero_grad`` also deposits the gradient of ``beta * D`` in ``.grad``:
``backward()`` adds the gradient of the agent's own loss to it, the agent's own clip clips the sum and its own step
applies it. That is the gradient of ``L_RL + beta * D``, and no line of the agent's loop is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlsd.acting_teacher import ActingTeacher
from rlsd.actors import algorithm_name, examined
from rlsd.algorithms import algorithm_of
from rlsd.change import ChangeEvent
from rlsd.clock import StepCounter
from rlsd.config import DistillConfig
from rlsd.critic_first import CriticFirst
from rlsd.divergences import Divergence
from rlsd.episodes import EpisodeSource
from rlsd.memory import check_states
from rlsd.metrics import Activity, Metrics
from rlsd.observations import as_items
from rlsd.penalty import Penalty, PenaltyObserver
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes
from rlsd.sources import NoSource, Source, StatesObserver, context_bytes, source_for
from rlsd.states import States, StateStore
from rlsd.strength import Coefficient, Strength
from rlsd.targets import TargetCache
from rlsd.teachers import TargetSpec, Teacher, TeacherConfig
from rlsd.timing import EveryStep, Timing

#: Sets the distiller's random stream apart from every other that is made from the agent's seed ("rlsd" in ASCII).
_STREAM = 0x726C7364
#: Under which names states are saved: those replayed, with their targets, met lately, and of a phase's rollouts.
_STATES = ("replay/", "teacher/recent/", "lesson/rollouts/")


class Distiller:
    """The self-distillation of one agent: its teacher, its states, its strength and its metrics.

    :param config: the five answers.
    :param agent: the agent to distil. It is looked at, not kept: every method is handed the agent again. Its policy is
        kept, to be known again.
    :param clock: counts the agent's steps; by default one of its own.
    :param ended: counts the agent's episodes; by default one of its own.
    :param beside: other distillations of the agent: one that keeps the same states shares its store.
    :raises TypeError: when it is not known how the agent acts.
    """

    def __init__(
        self,
        config: DistillConfig,
        agent: BaseAlgorithm,
        clock: StepCounter | None = None,
        ended: Episodes | None = None,
        beside: Sequence[Distiller] = (),
    ) -> None:
        assert isinstance(config.teacher, TeacherConfig) and isinstance(config.states, States)
        assert isinstance(config.divergence, Divergence) and isinstance(config.strength, Strength)
        assert isinstance(config.timing, Timing)
        self.config = config
        self._policy = agent.policy
        self.actor = examined(agent)
        #: In how many updates it pulled.
        self.activity = Activity()
        #: The agent's environment steps and its episodes, through all calls of ``learn()``.
        self.clock, self.ended = clock or StepCounter(), ended or Episodes()
        self.teacher = config.teacher.build(self.actor)
        self.teacher.clock, self.teacher.ended = self.clock, self.ended
        self.teacher.wants = wants = _wants(config.divergence, config.strength, self.teacher.weighs)
        if wants.value and not self.actor.has_values:
            raise TypeError(
                f"a value term or value gate needs an algorithm with state values, and a {algorithm_name(agent)} has "
                "none: use PPO, A2C, TRPO or MaskablePPO, or set divergence.value_weight to 0 and leave the gate out"
            )
        if wants.spread and type(self.teacher).spread is Teacher.spread:
            raise TypeError(
                f"gate 'disagreement' needs a teacher of several members, and {config.teacher.name!r} is one: "
                "use teacher 'ensemble', 'peers' or 'cascade', or leave the gate out"
            )
        self.divergence = config.divergence
        config.divergence.check(agent, self.actor)
        config.timing.check(config.strength)
        config.strength.check(agent, self.actor)
        entropy = None if agent.seed is None else [agent.seed, _STREAM]
        #: Whether states are stored: not where nobody would read them.
        self.stores = config.timing.replays or type(self.teacher).prepare is not Teacher.prepare
        lender = next((other for other in beside if self._could_share(other)), None)
        store = lender.states if lender else config.states.build(np.random.SeedSequence(entropy), agent)
        if self.teacher.observes and not store.offers:
            raise TypeError(
                f"teacher {config.teacher.name!r} must see every state that enters, and states {config.states.name!r} "
                "are read where they lie: use states 'reservoir'"
            )
        if self.teacher.episodic and not (store.episodic and (config.timing.deposits or config.timing.by_episode)):
            raise TypeError(
                f"teacher {config.teacher.name!r} must know of which episode each state is: use states 'episodes' and "
                "timing 'every_step' or 'keep'"
            )
        self.source: Source = NoSource() if lender else source_for(agent, self.actor)
        if store.episodic and not lender:
            self.source = EpisodeSource(self.source, agent)
        self.cache = TargetCache(store, self.teacher, shared=lender is not None)
        self._check_memory(agent)
        #: Whether states are written into files.
        self.saves_states = config.states.saved
        self.coefficient = Coefficient(config.strength, self.clock, self.ended)
        self.metrics = Metrics(agent.device)
        self.penalty = Penalty(self.actor, config.divergence, config.timing, self.coefficient, self.cache, self.metrics)
        #: How the penalty enters the agent's updates.
        self.algorithm = algorithm_of(type(agent))(self.penalty)
        self.algorithm.check(agent, config.strength)
        timing = EveryStep() if config.strength.off or not isinstance(config.timing, EveryStep) else config.timing
        self.critic_first = CriticFirst(self.actor, timing, agent)
        self.acting = ActingTeacher(self.teacher, timing, agent)
        #: Functions that are called with every penalty as it is made, before the agent's own loss is differentiated:
        #: ``observer(batch, loss, gradient)``. The minibatch has raw states and targets ``(batch, family.size)``; the
        #: loss is ``beta * D``, a scalar, of ARS's candidates ``(candidates,)``; the gradient is what is injected, by
        #: parameter and clipped, and empty for TRPO's actor and ARS, whose updates the loss itself enters.
        self.on_penalty: list[PenaltyObserver] = self.penalty.observers
        #: The metrics of the latest line of the log, by their TensorBoard keys.
        self.logged: dict[str, float] = {}
        self._age: int | None = None  # of the teacher, at the latest update
        self._told = 0  # changes of the task that callbacks were told of
        #: What runs beside the agent's own updates, None when nothing does.
        self.auxiliary = config.timing.build(self, agent)
        #: Who is shown all states that the agent meets.
        self.observers: list[StatesObserver] = [self.teacher] if self.teacher.observes else []
        if self.auxiliary is not None and self.auxiliary.observes:
            self.observers.append(self.auxiliary)
        self._borrowers: list[Distiller] = []  # those that share the store
        self._renewed: list[np.ndarray] = []  # slots of a shared store that hold a new state
        if lender:
            lender._borrowers.append(self)
            lender.observers += self.observers

    def _could_share(self, other: Distiller) -> bool:
        """Tell whether another distillation keeps the states that this one would keep."""
        same = self.config.states == other.config.states and self.stores and other.stores
        return same and other.states.offers and other.states.ahead and not other.cache.shared

    def _check_memory(self, agent: BaseAlgorithm) -> None:
        """Raise when the states with all that is kept beside them would take more memory than they may."""
        store, beside = self.cache.store, self.cache.target_bytes
        space = agent.observation_space if store.offers and not self.cache.shared else None
        if space is not None:
            beside += context_bytes(agent, self.actor)
        setting = "states.capacity" if hasattr(self.config.states, "capacity") else f"states {self.config.states.name}:"
        check_states(store.capacity, space, agent.device, setting, beside=beside)

    @property
    def members(self) -> dict[str, Distiller]:
        """Itself, by the name of its teacher: as those of :class:`Distillers`, where there are several."""
        return {self.config.teacher.name: self}

    @property
    def figures(self) -> dict[str, float]:
        """Another name of :attr:`logged`."""
        return self.logged

    def begin(self, agent: BaseAlgorithm) -> None:
        """Let the teacher look at an agent whose distillation begins, and is not loaded from a file."""
        self.teacher.begin(agent)

    def restart(self, agent: BaseAlgorithm) -> None:
        """Called when the agent's weights are others than its updates made."""
        self.teacher.restart(agent)

    @property
    def states(self) -> StateStore:
        """The stored states."""
        return self.cache.store

    @property
    def steps(self) -> int:
        """Gradient steps of the actor while there was something to learn from the teacher."""
        return self.penalty.steps

    @property
    def deposits(self) -> int:
        """How many of these steps carried a penalty."""
        return self.penalty.deposits

    def reject(self, count: int | Tensor) -> None:
        """Count states or gradients that were not finite and were left out."""
        self.penalty.dropped += count

    def is_of(self, agent: BaseAlgorithm) -> bool:
        """Tell whether the agent still has the policy that this was made for, compiled or not."""
        return getattr(agent.policy, "_orig_mod", agent.policy) is getattr(self._policy, "_orig_mod", self._policy)

    def recorders(self, agent: BaseAlgorithm) -> list[BaseCallback]:
        """Return the callbacks that must watch the coming rollout."""
        wanted = (self.source.recorder(agent), self.ended.recorder(agent))
        return [recorder for recorder in wanted if recorder is not None]

    def sync(self, agent: BaseAlgorithm) -> None:
        """Bring the steps and episodes up to date; before each update, and before SB3 forgets them."""
        self.clock.steps(agent)
        self.ended.sync(agent)

    @contextmanager
    def armed(self, agent: BaseAlgorithm) -> Iterator[None]:
        """Let the agent's own update, run inside, also distil; whatever happens there, leave nothing behind.

        :raises RuntimeError: when the update throws a penalty away, since it would then silently do nothing.
        """
        before = self.penalty.deposits
        try:
            with self.critic_first.holding(agent) if self.critic_first.updates else nullcontext():
                if self._begin(agent):
                    with self.cache.store.watching(agent), self.algorithm.armed(agent):
                        yield
                    if self.coefficient.control is not None:
                        self.coefficient.control.learn(self.penalty.feedback(agent))
                else:
                    yield
            self.activity.count(self.penalty.deposits > before, self.clock.steps(agent))
        finally:
            self.penalty.end()

    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:
        """Do what is due beside the agent's own updates, after each.

        :param update: runs the agent's own update once more, without a penalty.
        """
        if self.auxiliary is not None:
            with self.metrics.timed():
                self.auxiliary.after(agent, update)

    def _begin(self, agent: BaseAlgorithm) -> bool:
        """Bring states, teacher and strength up to date, and tell whether the coming update is to be penalised."""
        with self.metrics.timed():
            self.sync(agent)
            refreshed = self.cache.refresh(agent, self._collect(agent))
            self._age = self.teacher.age(agent)
            beta = self.coefficient.update(agent, refreshed)
            there_is_more = self.teacher.ready and self.cache.store.count > 0
            if not there_is_more or beta == 0.0 or self.teacher.inactive or not self.penalty.timing.deposits:
                return False
            self.penalty.begin(agent, beta)
            return True

    def untold(self) -> list[ChangeEvent]:
        """Return the changes of the task that were noticed since the latest call."""
        found = self.teacher.changes[self._told :]
        self._told += len(found)
        return found

    def _collect(self, agent: BaseAlgorithm) -> np.ndarray:
        """Let everybody have the states that the agent met, and return the slots that hold a new one."""
        slots = [self.cache.sync(agent)] if self.stores else [np.arange(0)]
        slots, self._renewed = slots + self._renewed, []
        for new in self.source.new(agent):
            for observer in self.observers:
                observer.observe_states(agent, new.states)
            if self.stores:
                slots.append(self.cache.add(new))
                for other in self._borrowers:
                    other._renewed.append(other.cache.renew(slots[-1]))
        return np.concatenate(slots)

    def present_metrics(self) -> dict[str, float]:
        """Return the metrics since the last line of the log, by their TensorBoard keys (see docs/metrics.md)."""
        metrics = {f"distill/{key}": value for key, value in self.metrics.means().items()}
        return metrics | {
            "distill/coef": self.coefficient.value,
            "distill/teacher_age": float(self._age or 0),
            "distill/snapshots": float(self.teacher.version),
            "distill/states": float(self.states.count),
            "distill/skipped_nonfinite": float(self.penalty.dropped) + self.states.rejected,
            "time/distill_fraction": self.metrics.fraction(),
            **{f"distill/{key}": value for key, value in self.teacher.metrics().items()},
            **{f"distill/{key}": value for key, value in (self.auxiliary.metrics() if self.auxiliary else {}).items()},
        }

    present_figures = present_metrics  # its former name

    def log(self, agent: BaseAlgorithm) -> None:
        """Hand the metrics to SB3's logger, which is about to write a line, and begin new ones."""
        for key, value in self.line().items():
            agent.logger.record(key, value)

    def line(self) -> dict[str, float]:
        """Return the metrics for a line of the log, and begin new ones; none before the first update."""
        if self.coefficient.strength.off or self._age is None:
            return {}
        self.logged = self.present_metrics()
        self.metrics.restart()
        return self.logged

    def __repr__(self) -> str:
        return f"{self._said()}\n{self.config!r}"

    def _repr_html_(self) -> str:
        return f"<p>{self._said()}</p>{self.config._repr_html_()}"

    def _said(self) -> str:
        teacher = f"{self.teacher.version:,} snapshots" if self.teacher.ready else "no teacher yet"
        return f"Distiller, {self.activity}; {teacher}, {self.states.count:,} states"

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the distillation's state, by name."""
        out = {f"teacher/{name}": tensor for name, tensor in self.teacher.tensors().items()}
        out |= {f"replay/{name}": tensor for name, tensor in self.cache.tensors().items()}
        out |= {f"lesson/{n}": tensor for n, tensor in (self.auxiliary.tensors() if self.auxiliary else {}).items()}
        return out if self.saves_states else {name: t for name, t in out.items() if not name.startswith(_STATES)}

    def state(self) -> State:
        """Return the rest of the state as plain data."""
        return {
            "clock": self.clock.state(),
            "ended": self.ended.state(),
            "penalty": self.penalty.state(),
            "source": self.source.state(),
            "family": self.actor.family.state(),
            "teacher": self.teacher.state(),
            "replay": self.cache.state(),
            "strength": self.coefficient.state(),
            "lesson": self.auxiliary.state() if self.auxiliary else {},
            # The next line of the log shows them.
            "figures": self.metrics.state(),
            "age": self._age,
            "activity": self.activity.state(),
            "told": self._told,
            "critic_first": self.critic_first.state(),
            "acting": self.acting.state(),
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned.

        :raises ValueError: when it is another configuration's, or does not fit the agent.
        """
        parts: dict[str, dict[str, Tensor]] = {"teacher": {}, "replay": {}, "lesson": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        try:
            self._load_life(agent, state)
            self.teacher.load(agent, parts["teacher"], state["teacher"])
            self.cache.load(parts["replay"], state["replay"])
            self._check_states(agent)
            self.coefficient.load(state["strength"])
            if self.auxiliary is not None:
                self.auxiliary.load(agent, parts["lesson"], state["lesson"])
            self.penalty.load(state["penalty"])
            self.source.load(state["source"])
            self.actor.family.load(state["family"])
            self.metrics.load(state.get("figures", {}))  # files of before have none
            self._age = state.get("age")
            self.activity.load(state.get("activity", {}))
            self._told = int(state.get("told", 0))
            self.critic_first.load(state.get("critic_first", {}))
            self.acting.load(state.get("acting", {}))
        except (KeyError, TypeError, RuntimeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the saved distillation state does not fit this agent: {reason}") from error

    def _load_life(self, agent: BaseAlgorithm, state: SavedState) -> None:
        if "clock" in state:
            self.clock.load(agent, state["clock"])
            self.ended.load(agent, state["ended"])
        else:  # saved when everyone counted for himself, all by SB3's count and its latest episodes
            seen = state["teacher"]["seen"]
            self.clock.load(agent, {"total": seen, "seen": seen})
            self.ended.sync(agent)

    def _check_states(self, agent: BaseAlgorithm) -> None:
        """Raise when the loaded states are none of this agent's."""
        expected = as_items(get_obs_shape(agent.observation_space))
        stored = self.states.examples()
        found = {key: tuple(stored[key].shape[1:]) for key in expected.keys() & stored.keys()}
        if stored and found != expected:
            shapes = {key: tuple(tensor.shape[1:]) for key, tensor in stored.items()}
            raise ValueError(f"the saved states do not fit this agent: {shapes} found, {expected} expected")


def _wants(divergence: Divergence, strength: Strength, weight: bool) -> TargetSpec:
    """Return the targets that the other answers need besides the teacher's action distributions."""
    return TargetSpec(
        value=divergence.value_weight > 0.0 or any(gate.wants_value for gate in strength.gates),
        spread=any(gate.wants_spread for gate in strength.gates),
        product=getattr(divergence, "direction", "forward") == "reverse",
        weight=weight,
    )
