"""A chain of policies behind the live one, each slower than the one before: policy consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, RandomSearchActor
from rlsd.chunks import Pace
from rlsd.config import integer, number
from rlsd.distributions import Family
from rlsd.observations import Observations
from rlsd.plain import SavedState, State
from rlsd.states import StateStore
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy, split_parts
from rlsd.teachers.joined import JoinedTeacher

#: Gradient steps of a hidden policy when it is its turn. The pull to its own old self is felt from the second on.
STEPS = 4
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def hidden_target(
    family: Family, number: int, own: Tensor, faster: Tensor, slower: Tensor | None, answer: Cascade
) -> tuple[float, Tensor]:
    """Return the targets of hidden policy ``number`` (from 2) and their weights, from Kaplanis et al. 2019, equation 4.

    The paper's ``beta omega^(k-1) KL(pi_k || own) + omega KL(pi_k || faster) + KL(pi_k || slower)`` has the gradient of
    the sum of its weights times the KL from the normalised product of the three, which is made once for all steps.

    :param own: the parameters that it had before this update, ``(batch, size)``.
    :param faster: those of the policy before it in the chain.
    :param slower: those of the policy after it, None for the last.
    """
    members, weights = [own, faster], [answer.beta * answer.omega ** (number - 1), answer.omega]
    if slower is not None:
        members.append(slower)
        weights.append(1.0)
    total = sum(weights)
    return total, family.product(torch.stack(members), torch.tensor(weights) / total)


class _Hidden:
    """A hidden policy and its optimizer."""

    def __init__(self, actor: Actor) -> None:
        self.frozen = FrozenPolicy(actor)
        self.optimizer: torch.optim.Adam

    def ready(self) -> None:
        assert self.frozen.policy is not None
        on_host = next(self.frozen.policy.parameters()).device.type == "cpu"
        self.optimizer = torch.optim.Adam(list(self.frozen.policy.parameters()), fused=on_host)

    def learn(self, states: Sequence[Observations], weight: float, targets: Sequence[Tensor], rate: float) -> None:
        """Make a gradient step toward the targets of each of some batches of raw states."""
        policy, optimizer = self.frozen.policy, self.optimizer
        assert policy is not None
        family, parameters = self.frozen.actor.family, list(policy.requires_grad_(True).parameters())
        optimizer.param_groups[0]["lr"] = rate
        for batch, target in zip(states, targets, strict=True):
            with torch.enable_grad():
                loss = weight * family.kl(self.frozen.parameters(batch), target).mean()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if bool(torch.isfinite(loss)):
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        policy.requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        out = {f"frozen/{name}": tensor for name, tensor in self.frozen.tensors().items()}
        for i, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            out |= {f"{name}/{i}": tensor for name, tensor in self.optimizer.state.get(parameter, {}).items()}
        return out

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
        self.frozen.load(agent, split_parts(tensors)["frozen"])
        self.ready()
        for i, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            found = {name: tensors[f"{name}/{i}"].clone() for name in _MOMENTS if f"{name}/{i}" in tensors}
            if found:  # Adam counts its steps on the host
                self.optimizer.state[parameter] = {
                    name: tensor if name == "step" else tensor.to(parameter.device) for name, tensor in found.items()
                }


class CascadeTeacher(JoinedTeacher):
    """The policy as it was before the update, and the second of the chain. See :class:`Cascade`."""

    def __init__(self, actor: Actor, answer: Cascade) -> None:
        super().__init__(actor)
        self.answer = answer
        self.live = FrozenPolicy(actor)  # pi_1 as it was before the update
        self.hidden: list[_Hidden] = []  # pi_2 ... pi_n
        # Its own stream: which states the hidden policies are trained on must not change what the student is shown.
        self._generator = np.random.default_rng(0xCA5CADE)
        self._rate = 0.0
        self._pace = Pace()

    def refresh(self, agent: BaseAlgorithm) -> bool:  # noqa: D102
        self.live.take(agent)
        optimizer = self.actor.optimizer(agent.policy)
        assert optimizer is not None
        self._rate = float(optimizer.param_groups[0]["lr"]) / self.answer.omega
        if not self.hidden:
            for _ in range(self.answer.n - 1):
                self.hidden.append(_Hidden(self.actor))
                self.hidden[-1].frozen.take(agent)
                self.hidden[-1].ready()
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1
        return True

    def members(self) -> list[FrozenPolicy]:
        """Return the live policy of before the update, and the first hidden one."""
        return [self.live] + [hidden.frozen for hidden in self.hidden[:1]]

    def weights(self) -> Tensor:  # noqa: D102
        both = torch.tensor([self.answer.beta, self.answer.omega_12][: len(self.members())])
        return both / both.sum() if both.sum() > 0 else torch.full_like(both, 1 / len(both))

    def due(self) -> list[int]:
        """Return the numbers of the hidden policies whose turn it is: policy k at every ``omega^(k-2)``-th update."""
        numbers = range(2, self.answer.n + 1)
        return [k for k in numbers if self.version % max(round(self.answer.omega ** (k - 2)), 1) == 0]

    def prepare(self, store: StateStore) -> None:
        """Train the hidden policies whose turn it is, all on the same states and from the policies of before."""
        due = self.due()
        if not due or store.count == 0:
            return
        size = store.batch_size
        slots = store.slots()[self._generator.integers(store.count, size=STEPS * size)]
        chain = {1: self.live} | {k: self.hidden[k - 2].frozen for k in range(2, self.answer.n + 1)}
        near = {j for k in due for j in (k - 1, k, k + 1) if j in chain}

        def before(some: np.ndarray) -> list[Tensor]:
            states = store.pick(some)
            return [chain[j].targets(states) for j in near]

        answers = zip(*self._pace.in_chunks(before, slots), strict=True)
        old = {j: torch.cat(parts) for j, parts in zip(near, answers, strict=True)}
        batches = [store.pick(some) for some in np.split(slots, STEPS)]
        for k in due:
            weight, target = hidden_target(self.actor.family, k, old[k], old[k - 1], old.get(k + 1), self.answer)
            self.hidden[k - 2].learn(batches, weight, target.split(size), self._rate)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = {f"1/{name}": tensor for name, tensor in self.live.tensors().items()}
        for k, hidden in enumerate(self.hidden, start=2):
            out |= {f"{k}/{name}": tensor for name, tensor in hidden.tensors().items()}
        return out

    def state(self) -> State:  # noqa: D102
        return super().state() | {"generator": self._generator.bit_generator.state, "at_once": self._pace.at_once}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        self._generator.bit_generator.state = state["generator"]
        self._pace.load(state.get("at_once"))
        parts = split_parts(tensors)
        if len(parts) != (self.answer.n if self.ready else 0):
            raise ValueError(f"the saved teacher does not fit this policy: it is a chain of {len(parts)}")
        self.hidden = [_Hidden(self.actor) for _ in range(len(parts) - 1)]
        if parts:
            self.live.load(agent, parts["1"])
        for k, hidden in enumerate(self.hidden, start=2):
            hidden.load(agent, parts[str(k)])


@dataclass(frozen=True)
class Cascade(TeacherConfig, name="cascade"):
    """Policy consolidation (Kaplanis et al. 2019): a chain of policies, each slower than the one before.

    The live policy ``pi_1`` pays ``beta * KL(pi_1 || pi_1_old) + omega_12 * KL(pi_1 || pi_2_old)``, where old is as of
    before the update. Hidden policy k pays ``beta * omega^(k-1) * KL(pi_k || pi_k_old) + omega * KL(pi_k ||
    pi_(k-1)_old) + KL(pi_k || pi_(k+1)_old)``, so what the live one learns sinks down the chain and comes back up.

    As the weighted sum of two reverse KLs has the gradient of one from their normalised product, ``pi_1`` has a single
    cached target: set ``divergence.direction`` to ``reverse``, and ``strength`` to ``beta + omega_12``, 1.5 by default.
    The forward KL takes their mixture, with as exact a gradient.

    Hidden policies learn before each update on stored states, by Adam, four steps at a turn, at ``1 / omega`` of the
    agent's present learning rate. Policy k has its turn at every ``omega^(k-2)``-th update: as Adam's steps are about
    as long as the learning rate whatever the gradient, it drifts as far as with the paper's learning rate of
    ``omega^-(k-1)`` at every update. So all of the chain costs less than ``1 / (1 - 1 / omega)`` times its second
    policy. A hidden policy keeps the ``VecNormalize`` statistics of when the chain began.

    :param n: policies in the chain, the live one included. The slowest remembers about ``omega^(n-1)`` updates. It
        takes ``n`` policies' memory, and with Adam's moments three times that. Usual range 3 to 10; the paper has 8.
    :param omega: how much slower each is than the one before. Usual range 2 to 8; the paper has 4.
    :param beta: what holds each to its own old self, as in PPO with a fixed KL penalty. Usual range 0.1 to 2; the paper
        has 0.5 to 1.
    :param omega_12: what holds the live policy to the second. Usual range 0.25 to 4; the paper has 1.
    """

    n: int = integer(8, low=1)
    omega: float = number(4.0, low=1.0, low_open=True)
    beta: float = number(0.5, low=0.0)
    omega_12: float = number(1.0, low=0.0)

    def build(self, actor: Actor) -> CascadeTeacher:  # noqa: D102
        if isinstance(actor, RandomSearchActor):
            raise TypeError("teacher 'cascade' trains policies by gradient, and ARS has none: use 'ema' or 'snapshot'")
        return CascadeTeacher(actor, self)
