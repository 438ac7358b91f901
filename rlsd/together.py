"""Training several agents in turns, so that they can teach each other."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback

from rlsd.teachers import PeersTeacher
from rlsd.teachers.peers import Kind
from rlsd.wrapping import is_wrapped


class _Left(Exception):
    """Another agent's training failed or was stopped, so this one ends too, between two rollouts."""


class _Turn(BaseCallback):
    """Gives the turn away between two rollouts, once the agent has had its steps."""

    def __init__(self, steps: int, pass_on: Callable[[], None]) -> None:
        super().__init__()
        self._steps, self._pass_on = steps, pass_on
        self._since: int | None = None

    def on_boundary(self) -> None:
        """Wait for the next turn if this one is over; called by a self-distilled agent between two rollouts."""
        if self._since is None:
            self._since = self.model.num_timesteps
        elif self.model.num_timesteps - self._since >= self._steps:
            self._pass_on()
            self._since = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True


class _Learner:
    """One agent's ``learn``, in a thread of its own that runs only while it is its turn."""

    def __init__(self, learn: Callable[[BaseCallback], Any], steps: int) -> None:
        self._learn, self._steps = learn, steps
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.over, self.leaving = False, False
        self.error: BaseException | None = None
        # With the settings of the caller's context, such as numpy's error handling.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()

    def turn(self) -> None:
        """Let it go on until it gives the turn away, and raise what went wrong."""
        self._go.release()
        self._waits.acquire()
        if self.over:
            self._thread.join()
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        """End it at the boundary where it waits, or is about to."""
        self.leaving = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._wait()
            self._learn(_Turn(self._steps, self._pass_on))
        except _Left:
            pass
        except BaseException as error:  # it is raised again where everybody can see it
            self.error = error
        finally:
            self.over = True
            self._waits.release()

    def _pass_on(self) -> None:
        self._waits.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self.leaving:
            raise _Left


def learn_together(
    agents: Sequence[BaseAlgorithm],
    total_timesteps: int,
    *,
    turn: int = 1,
    callbacks: Sequence[Any] | None = None,
    **learn: Any,
) -> None:
    """Train several self-distilled agents in turns: each calls its own ``learn`` once, of which the turns are parts.

    So schedules, loggers and callbacks see one training from its beginning to its end. Only one agent runs at a time,
    always in the same order, and changes are made between two rollouts: the same seeds give the same training. Agents
    with ``rlsd.Peers`` of one group that are trained together learn from each other and from nobody else in it.

    Each ``learn`` runs in a thread of its own, so a callback that must be in the main thread, such as one that handles
    signals, has no place here. What one of them raises ends them all, each between two rollouts, and is raised here.

    :param agents: self-distilled agents, each with its own environment.
    :param total_timesteps: environment steps of each.
    :param turn: environment steps of a turn, rounded up to whole rollouts; 1 is a rollout each.
    :param callbacks: for each agent what ``learn`` takes: a callback, a list of them, a function, or None.
    :param learn: passed on to each ``learn``: ``reset_num_timesteps``, ``log_interval`` and so on.
    :raises TypeError: when one is not self-distilled.
    :raises ValueError: when an agent is named twice, there are not as many callbacks as agents, or agents of one group
        cannot teach each other.
    """
    agents = list(agents)
    if len({id(agent) for agent in agents}) < len(agents):
        raise ValueError("learn_together was given an agent twice")
    for agent in agents:
        if not is_wrapped(type(agent)):
            raise TypeError(f"learn_together takes self-distilled agents, got {agent!r}: see rlsd.distill")
    chosen = [None] * len(agents) if callbacks is None else list(callbacks)
    if len(chosen) != len(agents):
        raise ValueError(f"callbacks must be one for each of {len(agents)} agents, got {len(chosen)}")
    _introduce(agents)
    learners: list[_Learner] = []
    try:
        for agent, callback in zip(agents, chosen, strict=True):
            learners.append(_Learner(_learning(agent, total_timesteps, callback, learn), turn))
        while not all(learner.over for learner in learners):
            for learner in learners:
                if not learner.over:
                    learner.turn()
    finally:
        for learner in learners:
            learner.leave()


def _introduce(agents: list[BaseAlgorithm]) -> None:
    groups: dict[str, dict[PeersTeacher, Kind]] = {}
    for agent in agents:
        for member in getattr(getattr(agent, "distiller", None), "members", {}).values():
            teacher = member.teacher
            if isinstance(teacher, PeersTeacher):
                groups.setdefault(teacher.group, {})[teacher] = Kind.of(agent, teacher.actor)
    for members in groups.values():
        for one, other in permutations(members, 2):
            one.check(members[one], members[other])
        PeersTeacher.introduce([*members])


def _learning(
    agent: BaseAlgorithm, total_timesteps: int, callback: Any, learn: dict[str, Any]
) -> Callable[[BaseCallback], Any]:
    def run(turns: BaseCallback) -> Any:
        # The turn is given away first, so that what the user's callbacks do at a boundary is done in one's own turn.
        user = callback if isinstance(callback, list) else [callback] if callback is not None else []
        user = [ConvertCallback(each) if callable(each) else each for each in user]
        return agent.learn(total_timesteps, callback=CallbackList([turns, *user]), **learn)

    return run
