"""An average of an agent's weights over the latest part of its training: steadier than the agent of one moment."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd import faults
from rlsd.actors.base import uncompiled
from rlsd.clock import StepCounter
from rlsd.io import files
from rlsd.io.archives import dates_that_zips_take, with_suffix
from rlsd.plain import SavedState, State
from rlsd.plain_copy import plain_copy
from rlsd.teachers.frozen_policy import named_tensors

#: Part of all steps so far that the average goes back by itself, and how often a policy enters over a horizon.
PART, ENTRIES = 0.1, 100
#: How buffers begin that are means of what was seen, in torch's batch norm and in CrossQ's: they are averaged, too.
_MEANS = ("running_", "ra_")


class WeightAverage:
    """The average of one agent's weights; :func:`rlsd.average` makes it, and ``agent.weight_average`` is it.

    After an update the agent's policy enters, with all its networks: ``w <- exp(-n / horizon) w + n``, ``average <-
    average + n / w (policy - average)``, where ``n`` is the environment steps since the latest entry. So it is
    debiased, and policies count by how many steps they stood for. Some hundred enter over a horizon; more would change
    nothing. The running statistics of batch norm are averaged as weights are; other buffers, such as counters, are the
    latest. A policy that is not finite does not enter. Where the weights are exchanged, the average begins anew.

    It takes nothing from the training and draws no random number: the agent trains as it does without, bit for bit.

    :param agent: whose weights are averaged.
    :param algorithm: the plain SB3 class that copies are of.
    :param horizon: environment steps that it goes back; None for a tenth of all steps so far.
    """

    def __init__(self, agent: BaseAlgorithm, algorithm: type[BaseAlgorithm], horizon: int | None = None) -> None:
        self._agent, self._algorithm = agent, algorithm
        self.horizon = horizon
        self._clock = StepCounter()
        self.restart()

    def restart(self) -> None:
        """Let it begin anew, with the agent as it is after its next update."""
        self._policy = uncompiled(self._agent.policy)
        self._entered_at = self._clock.steps(self._agent)
        #: The averaged tensors of the policy by name; none before the first entry.
        self._tensors: dict[str, Tensor] = {}
        self._weight = 0.0  # of all policies that entered, each decayed

    @property
    def ready(self) -> bool:
        """Whether a policy has entered yet."""
        return self._weight > 0.0

    def enter(self) -> None:
        """Let the agent's policy enter, if it is time; called after each update."""
        self._keep_up()
        now = self._clock.steps(self._agent)
        new, horizon = now - self._entered_at, PART * now if self.horizon is None else self.horizon
        if new < max(horizon / ENTRIES, 1) or faults.nonfinite_parameter(self._agent) is not None:
            return
        self._entered_at = now
        self._weight = math.exp(-new / horizon) * self._weight + new
        theirs = {name: tensor.detach() for name, tensor in named_tensors(self._policy).items()}
        if not self._tensors:
            self._tensors = {name: tensor.clone() for name, tensor in theirs.items()}
            return
        trained = {name for name, _ in self._policy.named_parameters()}
        averaged = [n for n in theirs if n in trained or n.rpartition(".")[2].startswith(_MEANS)]
        torch._foreach_lerp_([self._tensors[n] for n in averaged], [theirs[n] for n in averaged], new / self._weight)
        for name in theirs.keys() - {*averaged}:
            self._tensors[name].copy_(theirs[name])

    def _keep_up(self) -> None:
        """Begin anew where another policy was put in the place of the one that was averaged."""
        if uncompiled(self._agent.policy) is not self._policy:
            self.restart()

    def agent(self) -> BaseAlgorithm:
        """Return a plain SB3 agent with the averaged weights, to act and to be saved; before any entry the agent's own.

        It shares nothing with the agent in training. It has no environment and no buffers: to train on with it, save it
        and load it as any other. ``VecNormalize`` stays with the environment and has the latest statistics.
        """
        self._keep_up()
        return plain_copy(self._agent, self._algorithm, self._tensors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the average as a plain SB3 zip, whole or not at all: ``PPO.load`` opens it where rlsd is missing.

        :param path: ``.zip`` is added when it has no suffix; missing folders are made.
        """
        target = with_suffix(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(target) as unfinished, unfinished.open("wb") as file, dates_that_zips_take():
            self.agent().save(file)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged tensors by name."""
        return dict(self._tensors)

    def state(self) -> State:
        """Return the rest as plain data."""
        return {
            "horizon": self.horizon,
            "weight": self._weight,
            "entered_at": self._entered_at,
            "clock": self._clock.state(),
        }

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned.

        :raises ValueError: when they do not fit the agent's policy.
        """
        own = named_tensors(self._policy)
        if tensors and {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in own.items()}:
            raise ValueError("the saved average of the weights does not fit this policy: names or shapes differ")
        try:
            self.horizon, self._weight = state["horizon"], float(state["weight"])
            self._entered_at = int(state["entered_at"])
            self._clock.load(self._agent, state["clock"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the saved average of the weights is damaged: {error}") from error
        self._tensors = {name: tensor.to(own[name].device, copy=True) for name, tensor in tensors.items()}
