"""A student that learns beside the agent: from the agent's own data by the agent's own loss, and from the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.injection import Injection, clip_and_sanitize, eval_mode
from rlsd.optimizers import load_state, optimizers_of, parameters_of, state_tensors
from rlsd.plain import SavedState, State
from rlsd.rng import private_numbers
from rlsd.states import StateStore
from rlsd.students.imitation_loss import ImitationLoss
from rlsd.teachers.frozen_policy import copy_into, named_tensors


class ParallelStudent:
    """One student beside one agent.

    :param policy: the student.
    """

    def __init__(self, policy: BasePolicy) -> None:
        self.policy = policy
        self._rounds: int | None = None  # of the target network's, where SB3 counts them outside train()

    def learn(
        self,
        agent: Any,
        update: Callable[[], None],
        comparison: ImitationLoss,
        store: StateStore,
        batch_size: int,
        strength: float,
        bound: float,
        generator: np.random.Generator,
    ) -> None:
        """Run the agent's update once more with the student in the agent's place, pulled toward the agent.

        :param update: the agent's own update.
        :param comparison: the pull, at strength 1.
        :param store: the states on which it is computed, ``batch_size`` at a time.
        :param strength: of the pull.
        :param bound: the largest norm of the pull on the acting module, where the agent clips none.
        :param generator: seeds what the update draws; the global generators are left as they were.
        """
        pulls: list[tuple[Optimizer, Pull]] = []
        if strength > 0.0:
            clips = getattr(agent, "max_grad_norm", None) is not None
            optimizers = optimizers_of(self.policy)
            for name, optimizer in optimizers.items():
                pull = Pull(self.policy, parameters_of(optimizer), comparison, store, batch_size, strength)
                pull.policy_part = name != "critic"
                pull.value_part = name == "critic" or "critic" not in optimizers
                pull.bound = None if clips or name == "critic" else bound
                pulls.append((optimizer, pull))
        with ExitStack() as stack:
            stack.enter_context(private_numbers(generator))
            stack.enter_context(in_place_of(agent, self.policy))
            for optimizer, pull in pulls:
                stack.enter_context(Injection(optimizer, pull).armed())
            update()
        self._follow(agent)

    def _follow(self, agent: Any) -> None:
        """Let a Q-learner's target network follow as often as the agent's does: SB3 sees to that between updates."""
        if not hasattr(agent, "exploration_schedule"):
            return
        rounds = agent._n_calls // max(agent.target_update_interval // agent.n_envs, 1)
        before, self._rounds = self._rounds, rounds
        if before is None or rounds <= before:
            return
        policy: Any = self.policy
        name = "q_net" if hasattr(policy, "q_net") else "quantile_net"
        net, target = getattr(policy, name), getattr(policy, f"{name}_target")
        polyak_update(net.parameters(), target.parameters(), agent.tau)
        polyak_update(net.buffers(), target.buffers(), 1.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and what the optimizers remember, by name."""
        out = {f"policy/{name}": tensor for name, tensor in named_tensors(self.policy).items()}
        for name, optimizer in optimizers_of(self.policy).items():
            out |= {f"optimizer {name}/{key}": tensor for key, tensor in state_tensors(optimizer).items()}
        return out

    def state(self) -> State:
        """Return the rest as plain data."""
        return {"rounds": self._rounds}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned."""
        optimizers = optimizers_of(self.policy)
        parts: dict[str, dict[str, Tensor]] = {key: {} for key in ("policy", *(f"optimizer {n}" for n in optimizers))}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        copy_into(self.policy, parts["policy"])
        for name, optimizer in optimizers.items():
            load_state(optimizer, parts[f"optimizer {name}"])
        self._rounds = state["rounds"]


class Pull:
    """What is deposited at each of the student's gradient steps: the gradient of the pull on some parameters."""

    wants_ratio: ClassVar[bool] = False
    policy_part = True
    value_part = True
    bound: float | None = None

    def __init__(
        self,
        policy: BasePolicy,
        parameters: list[nn.Parameter],
        comparison: ImitationLoss,
        store: StateStore,
        batch_size: int,
        strength: float,
    ) -> None:
        self._policy, self._parameters = policy, parameters
        self._comparison, self._store = comparison, store
        self._batch_size, self._strength = batch_size, strength
        self._modules = list(policy.modules())

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit, by parameter; all zero when it is not finite."""
        raw = self._comparison.batch(self._store, self._batch_size)
        with eval_mode(self._modules), torch.enable_grad():
            terms = self._comparison.parts(self._policy, raw, self.policy_part, self.value_part)
        present = [term for term in terms if term is not None]
        if not present:
            return ()
        found = torch.autograd.grad(self._strength * sum(present), self._parameters, allow_unused=True)  # type: ignore[arg-type]
        pairs = [(p, g) for p, g in zip(self._parameters, found, strict=True) if g is not None]
        if not pairs:
            return ()
        return clip_and_sanitize(pairs, self.bound)[0]

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Nobody asks."""


@contextmanager
def in_place_of(agent: Any, policy: BasePolicy) -> Iterator[None]:
    """Let a student stand where the agent's policy stands, and leave no trace on the agent's books afterwards.

    Its log, its count of updates and SAC's entropy coefficient are its own again, whatever happened.
    """
    own = agent.policy
    kept = {name: agent.__dict__[name] for name in ("_n_updates", "_logger") if name in agent.__dict__}
    twin = {id(tensor): named_tensors(policy).get(name) for name, tensor in named_tensors(own).items()}
    for name, value in list(agent.__dict__.items()):  # lists of the policy's buffers, such as batch_norm_stats
        if isinstance(value, list) and value and all(twin.get(id(item)) is not None for item in value):
            kept[name] = value
            agent.__dict__[name] = [twin[id(item)] for item in value]
    if getattr(agent, "ent_coef_optimizer", None) is not None:
        kept |= {name: agent.__dict__[name] for name in ("log_ent_coef", "ent_coef_optimizer")}
        agent.log_ent_coef = agent.log_ent_coef.detach().clone().requires_grad_(True)
        agent.ent_coef_optimizer = torch.optim.Adam([agent.log_ent_coef], lr=agent.lr_schedule(1))
    agent._logger = Logger(None, [])
    agent.policy = policy
    _alias(agent)
    try:
        yield
    finally:
        agent.policy = own
        agent.__dict__.pop("_logger", None)
        agent.__dict__.update(kept)
        _alias(agent)


def _alias(agent: Any) -> None:
    """Let an off-policy agent's names for parts of its policy point at the policy that it has now."""
    if hasattr(agent, "_create_aliases"):
        agent._create_aliases()
