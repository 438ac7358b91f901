"""Phasic policy gradient: now and then a phase that distils value into the policy's network and holds its actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from rlsd.actors import algorithm_name
from rlsd.chunks import Pace
from rlsd.config import integer, number
from rlsd.gates import GateInput
from rlsd.injection import eval_mode
from rlsd.memory import check_states
from rlsd.observations import Normalization, Observations, as_array
from rlsd.optimizers import load_state, state_tensors
from rlsd.plain import SavedState, State
from rlsd.rng import own_generator
from rlsd.sources import context_bytes
from rlsd.strength import Feedback
from rlsd.students.rollouts import RETURN_BYTES, Rollouts
from rlsd.teachers import SnapshotTeacher
from rlsd.timing import AuxiliaryTraining, Distillation, Timing

#: Sets the phase's random stream apart from every other that is made from the agent's seed ("phas" in ASCII).
_STREAM = 0x70686173


class Phases(AuxiliaryTraining):
    """The phases of one agent.

    :param answer: how often and how long.
    :param distiller: the agent's, for its teacher, divergence, strength and metrics.
    :param agent: the agent.
    :raises TypeError: when it keeps no rollouts with value targets, or its policy has no action head to see through.
    :raises ValueError: when the rollouts would not fit in memory.
    """

    observes = True

    def __init__(self, answer: Phase, distiller: Distillation, agent: Any) -> None:
        policy, name = agent.policy, algorithm_name(agent)
        if not isinstance(agent, OnPolicyAlgorithm):
            raise TypeError(
                f"a phase needs rollouts with value targets, and {name} keeps none: use timing 'every_step', "
                "or an on-policy algorithm such as PPO"
            )
        if not hasattr(policy, "mlp_extractor") or not hasattr(policy, "action_net"):
            raise TypeError(
                f"a phase adds a value head where the action head begins, and a {type(policy).__name__} has no "
                "action_net: use timing 'every_step'"
            )
        self.answer, self._distiller = answer, distiller
        self._generator = own_generator(agent.seed, _STREAM)
        width = int(policy.mlp_extractor.latent_dim_pi)
        self.head = _head(width, self._generator).to(agent.device)
        module = distiller.actor.module(policy)
        self._parameters = [p for p in module.parameters() if p.requires_grad] + list(self.head.parameters())
        self.optimizer = torch.optim.Adam(self._parameters, lr=answer.learning_rate)
        self._size = agent.n_steps * agent.n_envs  # of a rollout
        setting = "timing.every_rollouts"
        beside = RETURN_BYTES + context_bytes(agent, distiller.actor)
        check_states(answer.every_rollouts, agent.observation_space, agent.device, setting, self._size, beside)
        self.rollouts = Rollouts(answer.every_rollouts * self._size, agent.device)
        self.updates = 0  # since the last phase
        self.phases = 0
        self._metrics: dict[str, float] = {"phase_kl": 0.0, "phase_value_loss": 0.0, "phase_aux_loss": 0.0}

    def observe_states(self, agent: Any, states: Mapping[str, np.ndarray]) -> None:
        """Keep a rollout's raw states with the buffer's value targets; before the update flattens the buffer."""
        if self._distiller.coefficient.strength.off:
            return
        refused = self.rollouts.add(states, as_array(agent.rollout_buffer.returns).reshape(-1))
        if not self._distiller.stores:  # else they were counted there
            self._distiller.reject(refused)

    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:  # noqa: D102
        coefficient, teacher = self._distiller.coefficient, self._distiller.teacher
        if coefficient.strength.off:
            return
        self.updates += 1
        if self.updates < self.answer.every_rollouts:
            return
        self.updates = 0
        if type(teacher) is SnapshotTeacher:  # not those made from it, which decide for themselves when they change
            teacher.take(agent)
        if self.rollouts.count and teacher.ready and coefficient.value > 0.0:
            self._run(agent, coefficient.value)
            self.phases += 1
            teacher.restart(agent)
        self.rollouts.clear()

    def _run(self, agent: BaseAlgorithm, beta: float) -> None:
        teacher, size = self._distiller.teacher, self._distiller.actor.family.size
        wants = teacher.wants
        every = np.arange(self.rollouts.count)
        rows = Pace().joined(lambda some: teacher.ask(self.rollouts.pick(some)), every)
        holds = None
        if teacher.per_state:
            holds = Pace().joined(lambda some: teacher.hold_weight(self.rollouts.pick(some)), every)
            teacher.held(holds)
        weights = None if holds is None else teacher.loss_weight(holds, rows[:, :size])
        if wants.weight:
            weights = rows[:, -1]
        normalization = Normalization.of(agent)
        modules = [*self._distiller.actor.module(agent.policy).modules(), self.head]
        bound = getattr(agent, "max_grad_norm", None) or self._distiller.coefficient.strength.bound
        sums: list[Tensor] = []
        with eval_mode(modules), torch.enable_grad():
            for _ in range(self.answer.epochs):
                order = torch.from_numpy(self._generator.permutation(self.rollouts.count)).to(rows.device)
                for index in order.split(self.answer.batch_size):
                    raw, row = self.rollouts.states(index), rows[index]
                    taught = GateInput(
                        self._distiller.actor.family,
                        row[:, :size],
                        row[:, :size],
                        row[:, size] if wants.value else None,
                        None,
                        row[:, size + wants.value] if wants.spread else None,
                    )
                    seen = raw if normalization is None else normalization(raw)
                    weight = None if weights is None else weights[index]
                    terms = self.terms(agent, seen, taught, self.rollouts.returns(index), weight)
                    self._step(beta * terms[0] + 0.5 * terms[1] + 0.5 * terms[2], bound)
                    sums.append(torch.stack(terms).detach())
        self._report(torch.stack(sums).mean(0))

    def terms(
        self,
        agent: BaseAlgorithm,
        seen: Observations,
        taught: GateInput,
        returns: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the means of D, of ``(V_aux - V_targ)**2`` and of ``(V - V_targ)**2``, in this order.

        :param seen: states as the policy sees them.
        :param taught: what the teacher would do there.
        :param returns: the value targets, ``(batch,)``.
        :param weights: of the states in what holds the actions, ``(batch,)``; None for 1 everywhere.
        """
        actor, divergence = self._distiller.actor, self._distiller.divergence
        module = actor.module(agent.policy)
        student, latent = _through(actor, module, seen)
        # A critic with a memory of its own, which is not stored with the states, is left to the agent's updates.
        values = actor.values(module, seen) if actor.has_values else None
        loss = divergence(actor.family, taught.teacher, student)
        if divergence.value_weight and values is not None and taught.teacher_values is not None:
            loss = loss + divergence.value_weight * (taught.teacher_values - values).square()
        if self._distiller.coefficient.per_state:
            seen_values = None if values is None else values.detach()
            situation = taught._replace(student=student.detach(), student_values=seen_values)
            gates = self._distiller.coefficient.weights(situation)
            loss = loss if gates is None else loss * gates
        loss = loss if weights is None else loss * weights
        aux = (self.head(latent).squeeze(-1) - returns).square().mean()
        own = torch.zeros_like(aux) if values is None else (values - returns).square().mean()
        return loss.mean(), aux, own

    def _step(self, loss: Tensor, bound: float) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        finite = torch.isfinite(nn.utils.clip_grad_norm_(self._parameters, bound))
        self._distiller.reject(~finite)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _report(self, means: Tensor) -> None:
        divergence, aux, own = means.tolist()
        self._metrics = {"phase_kl": divergence, "phase_aux_loss": aux, "phase_value_loss": own}
        control = self._distiller.coefficient.control
        if control is not None:
            control.learn(Feedback(divergence, None, None))

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"phases": float(self.phases), **self._metrics}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = {f"rollouts/{name}": tensor for name, tensor in self.rollouts.tensors().items()}
        out |= {f"head/{name}": tensor.detach() for name, tensor in self.head.named_parameters()}
        return out | {f"optimizer/{name}": tensor for name, tensor in state_tensors(self.optimizer).items()}

    def state(self) -> State:  # noqa: D102
        return {
            "updates": self.updates,
            "phases": self.phases,
            "figures": dict(self._metrics),
            "generator": self._generator.bit_generator.state,
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        parts: dict[str, dict[str, Tensor]] = {"rollouts": {}, "head": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.head.load_state_dict(parts["head"])
        load_state(self.optimizer, parts["optimizer"])
        self.updates, self.phases = int(state["updates"]), int(state["phases"])
        # Saved with larger rollouts, they would leave no room for those still to come before the phase.
        self.rollouts.load(parts["rollouts"], self.updates * self._size)
        self._metrics = {key: float(value) for key, value in state["figures"].items()}
        self._generator.bit_generator.state = state["generator"]


def _head(width: int, generator: np.random.Generator) -> nn.Linear:
    """Return a linear value head with small weights, made without the global generators."""
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, 1)
    weights = generator.uniform(-1.0, 1.0, (1, width)) / np.sqrt(width)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights))
        head.bias.zero_()
    return head


def _through(actor: Any, module: Any, seen: Observations) -> tuple[Tensor, Tensor]:
    """Return the parameters of the action distributions, and the latent from which the action head made them."""
    caught: list[Tensor] = []
    handle = module.action_net.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        parameters = actor.parameters(module, seen)
    finally:
        handle.remove()
    return parameters, caught[-1]


@dataclass(frozen=True)
class Phase(Timing, name="phase"):
    """Between the agent's updates, after every few, a phase of its own (phasic policy gradient, Cobbe et al. 2020).

    The policy's network learns to predict value, through a linear head of its own, while its actions are held to what
    they were: ``1/2 (V_aux - V_targ)^2 + strength * D + 1/2 (V - V_targ)^2``, on all states of the last few rollouts.
    The agent's own gradient steps get no penalty. A snapshot teacher is taken anew just before each phase; another
    teacher is used as it stands. At strength 0 the phase is left out. RecurrentPPO's own critic, whose memory is not
    stored, is left to its updates: there the last term is missing.

    For algorithms that keep rollouts: PPO, A2C, TRPO, MaskablePPO, RecurrentPPO. Raw states and returns of the
    last ``every_rollouts`` rollouts lie on the agent's device: ``every_rollouts * n_steps * n_envs`` times a state. The
    config's ``states`` stay empty, unless the teacher looks at them, as :class:`Selective` and :class:`Cascade` do.

    :param every_rollouts: updates from one phase to the next. Lower gives value more say in the features and costs more
        time. 32 in the paper. Usual range 4 to 32.
    :param epochs: passes over the states in one phase; 6 in the paper. Usual range 1 to 9.
    :param learning_rate: of the phase's own Adam; 5e-4 in the paper. Usual range 1e-4 to 1e-3.
    :param batch_size: states at one gradient step. Usual range 64 to 4096.
    """

    deposits: ClassVar[bool] = False
    replays: ClassVar[bool] = False

    every_rollouts: int = integer(16, low=1)
    epochs: int = integer(6, low=1)
    learning_rate: float = number(5e-4, low=0.0, low_open=True)
    batch_size: int = integer(256, low=1)

    def weight(self, step: int) -> int:  # noqa: D102
        return 0

    def build(self, distiller: Distillation, agent: BaseAlgorithm) -> AuxiliaryTraining:  # noqa: D102
        return Phases(self, distiller, agent)
