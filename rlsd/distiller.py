"""Puts the five answers together, and the gradient where the agent's own update picks it up.

All of SB3's algorithms run ``optimizer.zero_grad(); loss.backward(); [clip]; optimizer.step()``. While ``train()``
runs, and only then, the actor optimizer's ``zero_grad`` also deposits the gradient of ``beta * D`` in ``.grad``:
``backward()`` adds the gradient of the agent's own loss to it, the agent's own clip clips the sum and its own step
applies it. That is the gradient of ``L_RL + beta * D``, and no line of the agent's loop is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from rlsd.actors import actor_for
from rlsd.config import DistillConfig
from rlsd.deposit import Deposit, acting_as_evaluated
from rlsd.divergences import Divergence
from rlsd.monitoring import Figures
from rlsd.observations import (
    Normalization,
    RawObservations,
    normalizing_env,
    rollout_observations,
    warn_not_recorded,
)
from rlsd.replay import Replay
from rlsd.states import States
from rlsd.strength import Dial, Strength
from rlsd.teachers import Teaching
from rlsd.timing import Timing

#: Sets the distiller's random stream apart from every other that is made from the agent's seed ("rlsd" in ASCII).
_STREAM = 0x726C7364


class Distiller:
    """The self-distillation of one agent: its teacher, its states, its strength and its figures.

    :param config: the five answers.
    :param agent: the agent to distil. It is looked at, not kept: every method is handed the agent again.
    :raises TypeError: when it is not known how the agent acts.
    """

    def __init__(self, config: DistillConfig, agent: BaseAlgorithm) -> None:
        assert isinstance(config.teacher, Teaching) and isinstance(config.states, States)
        assert isinstance(config.divergence, Divergence) and isinstance(config.strength, Strength)
        assert isinstance(config.timing, Timing)
        self.config = config
        self.actor = actor_for(agent)
        self.divergence, self.timing = config.divergence, config.timing
        self.teacher = config.teacher.build(self.actor)
        entropy = None if agent.seed is None else [agent.seed, _STREAM]
        store = config.states.build(np.random.SeedSequence(entropy), agent.device)
        self.replay = Replay(store, self.actor.family.size)
        self.strength = Dial(config.strength)
        self.monitor = Figures(agent.device)
        #: Gradient steps of the actor so far, and how many of them carried a deposit.
        self.steps = 0
        self.deposits = 0
        self._expected = 1  # deposits in the coming update: as many as in the last
        self._dropped = torch.zeros((), device=agent.device)
        self._recorder: RawObservations | None = None

    @property
    def states(self) -> Any:
        """The stored states."""
        return self.replay.store

    @property
    def figures(self) -> dict[str, float]:
        """The latest figures, by their TensorBoard keys."""
        return self.monitor.latest

    def recorder(self, agent: BaseAlgorithm) -> BaseCallback | None:
        """Return the callback that must watch the coming rollout, None when the agent's buffer holds all we need."""
        env = normalizing_env(agent)
        self._recorder = None if env is None else RawObservations(env)
        return self._recorder

    def collect(self, agent: BaseAlgorithm) -> None:
        """Offer the states of the finished rollout to the store."""
        if normalizing_env(agent) is None:
            self.replay.add(rollout_observations(agent))
            return
        raw = self._recorder.take() if self._recorder is not None else None
        if raw is None:
            warn_not_recorded()
        else:
            self.replay.add(raw)

    @contextmanager
    def armed(self, agent: BaseAlgorithm) -> Iterator[None]:
        """Let the agent's own update, run inside, also distil; whatever happens there, leave nothing behind.

        :raises RuntimeError: when the update throws a deposit away, since it would then silently do nothing.
        """
        with self.monitor.timed():
            self.collect(agent)
            refreshed = self.teacher.refresh(agent)
            beta = self.strength.update(agent, refreshed)
            active = beta > 0.0 and self.teacher.ready and self.states.count > 0
            if active:
                self.replay.begin(self.teacher, self._expected)
        if active:
            before = self.deposits
            penalty = _Penalty(self, agent, beta)
            with Deposit(self.actor.optimizer(agent.policy), penalty).armed():
                yield
            self._expected = max(self.deposits - before, 1)
        else:
            yield
        if not self.strength.strength.off:
            self._log(agent)

    def _log(self, agent: BaseAlgorithm) -> None:
        means = self.monitor.means()
        figures = {f"distill/{key}": value for key, value in means.items()}
        figures |= {
            "distill/coef": self.strength.value,
            "distill/teacher_age": float(agent.num_timesteps - (self.teacher.refreshed_at or 0)),
            "distill/snapshots": float(self.teacher.version),
            "distill/states": float(self.states.count),
            "distill/skipped_nonfinite": float(self._dropped) + self.states.rejected,
            "time/distill_fraction": self.monitor.fraction(),
        }
        self.monitor.log(agent.logger, figures)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the distillation's state, by name."""
        out = {f"teacher/{name}": tensor for name, tensor in self.teacher.tensors().items()}
        return out | {f"replay/{name}": tensor for name, tensor in self.replay.tensors().items()}

    def state(self) -> dict[str, Any]:
        """Return the rest of the state as plain data."""
        return {
            "steps": self.steps,
            "deposits": self.deposits,
            "expected": self._expected,
            "dropped": float(self._dropped),
            "teacher": self.teacher.state(),
            "replay": self.replay.state(),
            "strength": self.strength.state(),
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`state` returned.

        :raises ValueError: when it is another configuration's, or does not fit the agent.
        """
        parts: dict[str, dict[str, Tensor]] = {"teacher": {}, "replay": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        try:
            self.teacher.load(agent, parts["teacher"], state["teacher"])
            self.replay.load(parts["replay"], state["replay"])
            self.strength.load(state["strength"])
            self.steps, self.deposits = int(state["steps"]), int(state["deposits"])
            self._expected = int(state["expected"])
            self._dropped = torch.tensor(float(state["dropped"]), device=agent.device)
        except (KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the saved distillation state does not fit this agent: {reason}") from error


class _Penalty:
    """The gradient of ``beta * D`` on the next minibatch: what is deposited at each of one update's gradient steps."""

    def __init__(self, distiller: Distiller, agent: BaseAlgorithm, beta: float) -> None:
        self._distiller = distiller
        self._policy = agent.policy
        self._beta = beta
        self._normalization = Normalization.of(agent)
        self._parameters = [p for p in agent.policy.parameters() if p.requires_grad]
        self._modules = list(agent.policy.modules())
        # Looked at closely once an update, in its middle: at its start a fresh teacher still equals its student.
        self._weight = 1
        self._look_at = distiller.deposits + distiller._expected // 2

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit at this step, by parameter; nothing when this step gets none."""
        d = self._distiller
        weight = d.timing.weight(d.steps)
        d.steps += 1
        if weight == 0:
            return ()
        self._weight = weight
        with d.monitor.timed():
            batch = d.replay.next(d.teacher)
            seen = batch.states if self._normalization is None else self._normalization(batch.states)
            with acting_as_evaluated(self._modules), torch.enable_grad():
                student = d.actor.parameters(self._policy, seen)
                divergence = d.divergence(d.actor.family, batch.targets, student).mean()
                loss = divergence * (self._beta * weight)
                gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            d.monitor.add("kl", divergence)
            d.monitor.add("loss", divergence * self._beta)
            if d.deposits == self._look_at:
                self._look(batch.targets, student.detach())
            d.deposits += 1
            return self._finite([(p, g) for p, g in zip(self._parameters, gradients, strict=True) if g is not None])

    @property
    def wants_ratio(self) -> bool:
        """Whether the deposit just made is the one to be compared with the agent's own gradient."""
        return self._distiller.deposits - 1 == self._look_at

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Take note of the norms of the deposited gradient and of the agent's own, on the same parameters."""
        # A stride deposits several steps' worth at once; the figure is for one.
        self._distiller.monitor.add("grad_ratio", deposited / self._weight / (own + 1e-12))

    def _finite(self, gradients: list[tuple[nn.Parameter, Tensor]]) -> list[tuple[nn.Parameter, Tensor]]:
        """Put zero in place of a gradient that is not all finite, and count it, without waiting for the device."""
        if not gradients:
            return gradients
        norms = torch.stack(torch._foreach_norm([g for _, g in gradients]))
        finite = torch.isfinite(norms).all()
        self._distiller._dropped += ~finite
        return [(p, torch.where(finite, g, 0.0)) for p, g in gradients]

    def _look(self, teacher: Tensor, student: Tensor) -> None:
        family, figures = self._distiller.actor.family, self._distiller.monitor
        figures.add("agreement", family.agreement(teacher, student).mean())
        figures.add("teacher_entropy", family.entropy(teacher).mean())
        figures.add("student_entropy", family.entropy(student).mean())
