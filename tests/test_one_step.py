"""How far a reader must go to follow one gradient step: through how many files and functions of rlsd it leads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from agents import ALL_ALGORITHMS, ROLLOUT, distilled

import rlsd

ROOT = str(Path(rlsd.__file__).parent)


def entered(algorithm: str, kind: str, **changes: Any) -> set[tuple[str, str]]:
    """File and name of each function of rlsd that one ``train()`` of one gradient step enters, comprehensions aside."""
    small = {"states.capacity": 64, "states.batch_size": 8, "teacher.every": ROLLOUT, "timing.stride": 1}
    answers = rlsd.recipe("snapshot", **small)
    agent = distilled(ALL_ALGORITHMS[algorithm], kind, answers, speed=None, **changes)
    agent.learn(3 * ROLLOUT)
    before, found = agent.distiller.deposits, set()

    def watch(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ROOT) and not code.co_name.endswith(("comp>", "expr>")):
            found.add((code.co_filename, code.co_qualname))

    train = agent.train

    def watched(*args: Any, **kwargs: Any) -> None:
        sys.setprofile(watch)
        try:
            train(*args, **kwargs)
        finally:
            sys.setprofile(None)

    agent.train = watched
    agent.learn(1, reset_num_timesteps=False)
    del agent.train
    assert agent.distiller.deposits == before + 1, "not one gradient step with a penalty was watched"
    assert agent.distiller.teacher.age(agent) == 0, "no snapshot was taken in it"
    return found


@pytest.mark.parametrize(
    ("algorithm", "kind", "changes", "files", "functions"),
    [
        ("PPO", "discrete", {"batch_size": ROLLOUT, "n_epochs": 1}, 22, 96),
        ("SAC", "box", {"gradient_steps": 1, "train_freq": ROLLOUT // 2}, 22, 95),
    ],
)
def test_one_gradient_step_is_followed_through_few_files_and_functions(
    algorithm: str, kind: str, changes: dict[str, Any], files: int, functions: int
) -> None:
    found = entered(algorithm, kind, **changes)
    read = sorted({Path(file).relative_to(ROOT).as_posix() for file, _ in found})
    assert len(read) <= files, f"one step leads through {len(read)} files: {read}"
    assert len(found) <= functions, f"one step leads through {len(found)} functions"
