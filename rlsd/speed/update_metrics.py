"""What PPO's update has to tell: the log's lines, with SB3's keys and values, and that it ends before its time."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from stable_baselines3.common.utils import explained_variance


class Figures:
    """The figures of one update; lists of a number for each minibatch."""

    def __init__(self) -> None:
        self.entropy_losses: list[float] = []
        self.policy_losses: list[float] = []
        self.value_losses: list[float] = []
        self.clip_fractions: list[float] = []
        #: Of the latest epoch only, in single precision, as in SB3.
        self.approx_kl: np.ndarray = np.zeros(0, np.float32)
        self.loss = 0.0

    def record(self, agent: Any, clip_range: float, clip_range_vf: float | None) -> None:
        """Hand them to the agent's logger."""
        buffer, record = agent.rollout_buffer, agent.logger.record
        record("train/entropy_loss", np.mean(self.entropy_losses))
        record("train/policy_gradient_loss", np.mean(self.policy_losses))
        record("train/value_loss", np.mean(self.value_losses))
        record("train/approx_kl", np.mean(self.approx_kl))
        record("train/clip_fraction", np.mean(self.clip_fractions))
        record("train/loss", self.loss)
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(agent.policy, "log_std"):
            record("train/std", torch.exp(agent.policy.log_std).mean().item())
        record("train/n_updates", agent._n_updates, exclude="tensorboard")
        record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            record("train/clip_range_vf", clip_range_vf)


def report_early_stop(agent: Any, epoch: int, approx_kl: np.ndarray) -> None:
    """Say, if the agent is talkative, that an update ends for having gone too far."""
    if agent.verbose >= 1:
        print(f"Early stopping at step {epoch} due to reaching max kl: {approx_kl:.2f}")  # noqa: T201 - SB3's line


def refuse_nan() -> NoReturn:
    """Raise, as torch's checks of distribution arguments would, since the log probability of an action is NaN.

    :raises ValueError: always.
    """
    raise ValueError(
        "the parameters of the action distribution are NaN: the agent's own loss has diverged, or an observation is "
        "not finite. Lower the learning rate, or clip rewards, observations or gradients"
    )
