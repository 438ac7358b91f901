"""Peak memory of a training with rlsd beside plain SB3's: ``python scripts/benchmarks/memory.py``.

Each run is a process of its own, whose largest resident set the kernel has noted (``VmHWM``, so Linux only). What the
stored states take is subtracted before the two are compared: that is what the reservoir is for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Plain SB3, the default recipe, and one that pulls from the first rollout on.
SIDES: dict[str, Any] = {"plain": None, "default": "guard", "pulling": "snapshot"}


def small(side: str) -> Any:
    """PPO on four numbers."""
    return _ppo(side, _box((4,)), 2, 8192, n_steps=2048)


def images(side: str) -> Any:
    """PPO with a convolutional network on 3x96x96, in minibatches of 16."""
    return _ppo(side, _image((3, 96, 96)), 3, 1024, "CnnPolicy", n_steps=512, batch_size=16, n_epochs=1)


def many_states(side: str) -> Any:
    """PPO on one of 30,000 states."""
    from gymnasium import spaces

    return _ppo(side, spaces.Discrete(30_000), 4, 4096, n_steps=2048, n_epochs=2)


def many_actions(side: str) -> Any:
    """MaskablePPO with 4,000 actions."""
    from sb3_contrib import MaskablePPO

    return _learned(side, MaskablePPO, "MlpPolicy", _Random(_box((4,)), 4000), 1024, n_steps=512, n_epochs=2)


def replay(side: str) -> Any:
    """DQN on four frames of 84x84, with a replay buffer of 10,000."""
    from stable_baselines3 import DQN

    settings = {"buffer_size": 10_000, "learning_starts": 500}
    return _learned(side, DQN, "CnnPolicy", _Random(_image((4, 84, 84)), 6), 2000, **settings)


def dictionary(side: str) -> Any:
    """PPO on a Dict of an image and a vector."""
    from gymnasium import spaces

    space = spaces.Dict({"image": _image((3, 64, 64)), "vector": _box((8,))})
    return _ppo(side, space, 3, 1024, "MultiInputPolicy", n_steps=512, n_epochs=2)


SETTINGS: dict[str, Callable[[str], Any]] = {
    one.__name__: one for one in (small, images, many_states, many_actions, replay, dictionary)
}


def _box(shape: tuple[int, ...]) -> Any:
    from gymnasium import spaces

    return spaces.Box(-1.0, 1.0, shape)


def _image(shape: tuple[int, ...]) -> Any:
    import numpy as np
    from gymnasium import spaces

    return spaces.Box(0, 255, shape, np.uint8)


def _Random(space: Any, actions: int) -> Any:  # noqa: N802 - gymnasium takes long to import, and only a child needs it
    import gymnasium as gym
    import numpy as np

    class Random(gym.Env[Any, Any]):
        """Observations and rewards at random, episodes of 50 steps; all actions but one are allowed."""

        observation_space, action_space = space, gym.spaces.Discrete(actions)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.steps = 0
            if seed is not None:
                space.seed(seed)
            return space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.steps += 1
            return space.sample(), float(self.np_random.normal()), False, self.steps == 50, {}

        def action_masks(self) -> Any:
            return np.arange(actions) > 0

    return Random()


def _ppo(side: str, space: Any, actions: int, steps: int, policy: str = "MlpPolicy", **settings: Any) -> Any:
    from stable_baselines3 import PPO

    return _learned(side, PPO, policy, _Random(space, actions), steps, **settings)


def _learned(side: str, algorithm: Any, policy: str, env: Any, steps: int, **settings: Any) -> Any:
    settings |= {"seed": 0, "device": "cpu"}
    if side != "plain":
        import rlsd
        from rlsd.presets import resolve

        algorithm = rlsd.SelfDistilled(algorithm)
        distill = resolve(SIDES[side], algorithm)
        assert distill is not None
        # Sooner than after 10,000 steps, so that a short run has a teacher at all.
        settings["distill"] = distill.changed({"teacher.every": 256})
    return algorithm(policy, env, **settings).learn(steps)


def _child(setting: str, side: str) -> None:
    import torch

    torch.set_num_threads(1)
    begun = time.perf_counter()
    agent = SETTINGS[setting](side)
    seconds = time.perf_counter() - begun
    distiller = getattr(agent, "distiller", None)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    states = 0 if distiller is None else sum(t.nbytes for t in distiller.states.tensors().values())
    deposits = 0 if distiller is None else distiller.deposits
    print(json.dumps({"peak": peak, "states": states, "deposits": deposits, "seconds": round(seconds, 1)}))


def _measured(setting: str, side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", setting, side]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{setting}, {side}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print a line for each setting, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _child(*args.child)
        return
    results: dict[str, Any] = {}
    print(f"{'MB':14}{'plain':>9}{'default':>9}{'states':>9}{'ratio':>8}{'pulling':>9}{'states':>9}{'ratio':>8}")
    for setting in args.settings:
        runs = results[setting] = {side: _measured(setting, side) for side in SIDES}
        line = f"{setting:14}{runs['plain']['peak'] / 1e6:9.0f}"
        for side in ("default", "pulling"):
            run = runs[side]
            run["ratio"] = round(run["peak"] / (runs["plain"]["peak"] + run["states"]), 3)
            line += f"{run['peak'] / 1e6:9.0f}{run['states'] / 1e6:9.0f}{run['ratio']:8.3f}"
        print(line, flush=True)
    if args.json:
        import torch
        from stable_baselines3 import __version__

        about = {"command": " ".join(["python", *sys.argv]), "machine": platform.platform()}
        about |= {"python": platform.python_version(), "torch": torch.__version__, "stable_baselines3": __version__}
        Path(args.json).write_text(json.dumps(about | {"settings": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
