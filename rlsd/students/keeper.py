"""A second policy, fitted at each change to all tasks that the agent has left, while the agent learns freely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import RandomSearchActor, algorithm_name
from rlsd.actors.on_policy import RecurrentActorCritic
from rlsd.config import integer, number
from rlsd.observations import as_items
from rlsd.plain_copy import plain_copy
from rlsd.rng import own_generator, private_numbers
from rlsd.states import EpisodeStore
from rlsd.students.collection import shaped
from rlsd.teachers import RememberTeacher
from rlsd.teachers.frozen_policy import FrozenPolicy, copy_into, named_tensors, split_parts
from rlsd.timing import AuxiliaryTraining, Distillation, Timing
from rlsd.wrapping import plain

#: Sets the keeper's random stream apart from every other that is made from the agent's seed ("keep" in ASCII).
_STREAM = 0x6B656570


class Keeper(AuxiliaryTraining):
    """The second policy of one agent.

    :param answer: how it is fitted.
    :param distiller: the agent's, for its teacher, its states and its divergence.
    :param agent: the agent.
    :raises TypeError: when nothing tells it of changes, or the policy cannot be fitted to single states.
    """

    def __init__(self, answer: Keep, distiller: Distillation, agent: Any) -> None:
        if not isinstance(distiller.teacher, RememberTeacher):
            raise TypeError("timing 'keep' must be told when the task changes: use teacher 'remember'")
        if isinstance(distiller.actor, (RecurrentActorCritic, RandomSearchActor)):
            raise TypeError(
                f"timing 'keep' fits a policy to single states, and a {algorithm_name(agent)}'s is none: "
                "use timing 'every_step'"
            )
        self.answer, self._distiller, self._teacher = answer, distiller, distiller.teacher
        self._generator = own_generator(agent.seed, _STREAM)
        #: What it does.
        self.policy = FrozenPolicy(distiller.actor)
        self.fits = 0
        self._gap = 0.0  # at the latest fit

    @property
    def ready(self) -> bool:
        """Whether a task was left, so that there is something to keep."""
        return self.policy.policy is not None

    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:  # noqa: D102
        if self._distiller.coefficient.strength.off or len(self._teacher.changes) == self.fits:
            return
        if self.ready:
            self._fit()
        else:  # one task was left, and the policy of the change is its own best copy
            self.policy = _copied(self._teacher.frozen)
        self.fits = len(self._teacher.changes)

    def _fit(self) -> None:
        """Fit it to what it did on the tasks left before, and to what the policy of the change did on the latest."""
        store, frozen = self._distiller.states, self._teacher.frozen
        assert isinstance(store, EpisodeStore)
        left, now = self._teacher.tasks[-2:]
        slots = store.slots()
        tasks = store.tasks[slots]
        slots, tasks = slots[tasks != now], tasks[tasks != now]
        if not len(slots):
            return
        targets = self._targets(self.policy, slots)
        mine = np.flatnonzero(tasks == left)
        if len(mine):
            targets[torch.from_numpy(mine)] = self._targets(frozen, slots[mine])
        student = _copied(self.policy)
        student.normalization = frozen.normalization
        assert student.policy is not None
        self._imitate(student, slots, [np.flatnonzero(tasks == task) for task in np.unique(tasks)], targets)
        student.policy.requires_grad_(False)
        self.policy = student

    def _targets(self, policy: FrozenPolicy, slots: np.ndarray) -> Tensor:
        store, size = self._distiller.states, self.answer.batch_size
        return torch.cat([policy.targets(store.pick(slots[i : i + size])) for i in range(0, len(slots), size)])

    def _imitate(self, student: FrozenPolicy, slots: np.ndarray, tasks: list[np.ndarray], targets: Tensor) -> None:
        """Take the gradient steps, on minibatches with an equal share of each task.

        :param tasks: which of the slots are of each task.
        """
        answer, store, family = self.answer, self._distiller.states, self._distiller.actor.family
        module: nn.Module = student.policy  # type: ignore[assignment]
        parameters = [p.requires_grad_(True) for p in module.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=answer.learning_rate)
        with private_numbers(self._generator), torch.enable_grad():
            for step in range(answer.steps):
                for group in optimizer.param_groups:
                    group["lr"] = answer.learning_rate * (1.0 - step / answer.steps)
                drawn = self._generator.integers(len(tasks), size=answer.batch_size)
                rows = np.array([self._generator.choice(tasks[which]) for which in drawn])
                own = student.parameters(store.pick(slots[rows]))
                loss = self._distiller.divergence(family, targets[torch.from_numpy(rows)], own).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self._gap = float(loss.detach())

    def agent(self, agent: BaseAlgorithm) -> BaseAlgorithm | None:  # noqa: D102
        if not self.ready:
            return None
        kept = plain_copy(agent, plain(type(agent)), {})
        module = self.policy.policy
        assert module is not None
        copy_into(self._distiller.actor.module(kept.policy), named_tensors(module))
        return kept

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"keeper_fits": float(self.fits), "keeper_kl": self._gap}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return self.policy.tensors()

    def state(self) -> dict[str, Any]:  # noqa: D102
        return {"fits": self.fits, "gap": self._gap, "generator": self._generator.bit_generator.state}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: D102
        self.policy.load(agent, tensors)
        self.fits, self._gap = int(state["fits"]), float(state["gap"])
        self._generator.bit_generator.state = state["generator"]


class ByStart:
    """Acts with the agent where an episode begins as episodes do now, and with its keeper where one begins as before.

    It has SB3's ``predict``, so that ``evaluate_policy(rlsd.ByStart(agent), env)`` works. Before any change of the task
    it is the agent.

    :param agent: an agent with recipe ``keeper``.
    :raises TypeError: when it has none.
    """

    def __init__(self, agent: Any) -> None:
        members = getattr(getattr(agent, "distiller", None), "members", {}).values()
        teachers = [member.teacher for member in members if isinstance(member.auxiliary, Keeper)]
        if not teachers:
            raise TypeError(f"ByStart needs an agent with a keeper, got {agent!r}: build it with distill='keeper'")
        self._agent, self._teacher, self._keeper = agent, teachers[0], agent.keeper

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions, and which environments the keeper acts in, to be handed in at the next step.

        :param observation: of all environments, as the agent's ``predict`` takes it.
        :param state: what the latest call returned; None at the first.
        :param episode_start: where an episode begins, ``(n_envs,)``; everywhere at the first call.
        """
        actions, _ = self._agent.predict(observation, deterministic=deterministic)
        if self._keeper is None:
            return actions, None
        kept, _ = self._keeper.predict(observation, deterministic=deterministic)
        alone = len(np.shape(actions)) == len(self._agent.action_space.shape)
        begins = np.ones(1 if alone else len(actions), bool) if state is None else np.asarray(episode_start, bool)
        old = np.zeros(len(begins), bool) if state is None else state[0].copy()
        if begins.any():
            env = self._agent.get_vec_normalize_env()
            raw = observation if env is None else env.unnormalize_obs(observation)
            states = shaped({key: np.asarray(value) for key, value in as_items(raw).items()}, self._agent)
            old[begins] = self._teacher.hold_of_starts(self._agent, states)[begins] > 0.5
        if alone:
            return (kept if old[0] else actions), (old,)
        where = old.reshape(-1, *[1] * (actions.ndim - 1))
        return np.where(where, kept, actions), (old,)


def _copied(policy: FrozenPolicy) -> FrozenPolicy:
    return policy.again(split_parts(policy.tensors()))


@dataclass(frozen=True)
class Keep(Timing, name="keep"):
    """The agent learns freely, and a second policy keeps what it knew of the tasks that it left: ``agent.keeper``.

    At the first change of the task the second policy is that of the change. At each later one it is fitted, by the
    divergence on stored states, each task with an equal share, to what it did itself on the tasks before and to what
    the policy of the change did on the latest: after Reset & Distill (Ahn et al. 2025) and FAME (2026), which are told
    of changes. The agent's own updates get no penalty, and equal plain SB3's to the bit.

    :param steps: gradient steps of a fit. Raising it keeps more, and takes longer at each change. Usual range 500 to
        10,000.
    :param learning_rate: of its Adam, falling to 0 over the steps. Usual range 3e-4 to 3e-3.
    :param batch_size: states at a step. Usual range 64 to 1024.
    """

    deposits: ClassVar[bool] = False
    by_episode: ClassVar[bool] = True

    steps: int = integer(2000, low=1)
    learning_rate: float = number(1e-3, low=0.0, low_open=True)
    batch_size: int = integer(256, low=1)

    def weight(self, step: int) -> int:  # noqa: D102
        return 0

    def build(self, distiller: Distillation, agent: BaseAlgorithm) -> Keeper:  # noqa: D102
        return Keeper(self, distiller, agent)
