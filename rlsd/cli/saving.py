"""How often a run saves a checkpoint: a large replay buffer would be written for longer than is trained."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlsd.cli.console import say, warn
from rlsd.cli.plan import Plan

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

#: Checkpoints in a run, where none is large.
_CHECKPOINTS = 10
#: Bytes of replay buffers that a run writes at most, but for the last checkpoint: some seconds on a usual disk.
_BUDGET = 2 * 2**30
#: From here on the size is worth a line.
_LARGE = 200 * 2**20


def replay_bytes(agent: BaseAlgorithm) -> int:
    """Return the bytes of the agent's replay buffer on disk, where it takes its full size from the start."""
    buffer = getattr(agent, "replay_buffer", None)
    return 0 if buffer is None else _bytes(vars(buffer))


def save_every(plan: Plan, agent: BaseAlgorithm) -> int:
    """Return the steps from one checkpoint to the next; ``sys.maxsize`` for none but the last."""
    wanted = plan.options.save_freq
    if wanted is not None:
        return wanted or sys.maxsize
    size = replay_bytes(agent)
    count = _CHECKPOINTS if size == 0 else min(_CHECKPOINTS, _BUDGET // size)
    return max(plan.n_timesteps // count, 1) if count > 1 else sys.maxsize


def keep(agent: BaseAlgorithm) -> int:
    """Return how many of the latest checkpoints stay: with a replay buffer one, which is replaced once it is whole."""
    return 3 if replay_bytes(agent) == 0 else 1


def say_size(plan: Plan, agent: BaseAlgorithm, folder: Path) -> None:
    """Tell how large checkpoints are, where they are large, and warn when they will not fit on the disk."""
    size, every = replay_bytes(agent), save_every(plan, agent)
    if size < _LARGE:
        return
    when = "at the end" if every >= plan.n_timesteps else f"every {every:,} steps and at the end"
    say(f"Checkpoints hold the replay buffer, {size / 1e9:.1f} GB: one {when}, or every --save-freq steps")
    free = shutil.disk_usage(folder).free
    if free < 2 * size:  # the old one goes when the new one is whole
        warn(f"{folder} has {free / 1e9:.1f} GB free: too little to save them. A smaller buffer_size would fit.")


def prune(checkpoints: Path, last: Path, agent: BaseAlgorithm) -> None:
    """Remove the checkpoints before the last where only one is to stay."""
    if keep(agent) == 1:
        for folder in checkpoints.glob("[0-9]*"):
            if folder != last:
                shutil.rmtree(folder, ignore_errors=True)


def _bytes(parts: dict[str, Any]) -> int:
    """Add up the arrays in a mapping, those in mappings within it too: Dict observations are kept so."""
    arrays = [part.nbytes for part in parts.values() if isinstance(part, np.ndarray)]
    return sum(arrays) + sum(_bytes(part) for part in parts.values() if isinstance(part, dict))
