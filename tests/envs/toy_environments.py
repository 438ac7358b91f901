"""Small environments whose every number is known, for tests of what runs them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counter(gym.Env):
    """Counts its steps from a random start; most episodes terminate, some are truncated, some are both at once.

    The observation holds the start and the step in every entry, as a vector, a dictionary or a picture.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, kind: str = "box", actions: str = "discrete", render_mode: str | None = None) -> None:
        self.kind = kind
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(3) if actions == "discrete" else spaces.Box(-2.0, 2.0, (2,), np.float32)
        vector = spaces.Box(-100.0, 100.0, (2,), np.float32)
        picture = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        self.observation_space = {
            "box": vector,
            "image": picture,
            "dict": spaces.Dict({"vector": vector, "picture": picture}),
        }[kind]
        self.bonus = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start = int(self.np_random.integers(0, 6))
        self.count = 0
        return self._observation(), {"start": self.start}

    def step(self, action):
        self.count += 1
        reward = 0.1 * float(np.sum(action)) + self.count / 3 + self.bonus
        terminated, truncated = self.count >= 3 + self.start, self.count >= 6
        return self._observation(), reward, terminated, truncated, {"count": self.count}

    def render(self):
        return np.full((8, 8, 3), self.count, np.uint8)

    def shifted(self, by: int) -> int:
        return self.start + by

    def _observation(self):
        vector = np.array([self.start, self.count], np.float32)
        picture = np.full((36, 36, 3), 16 * self.start + self.count, np.uint8)
        return {"box": vector, "image": picture, "dict": {"vector": vector, "picture": picture}}[self.kind]


class Faulty(Counter):
    """Raises, dies or hangs at a given action, or cannot even be made."""

    def __init__(self, fault: str = "raise", **kwargs) -> None:
        super().__init__(**kwargs)
        self.fault = fault
        if fault == "unmade":
            raise OSError("no simulator here")

    def step(self, action):
        if action == 2:
            if self.fault == "raise":
                raise KeyError("the pole is gone")
            if self.fault == "die":
                os._exit(7)
            time.sleep(10_000)
        return super().step(action)


class Starter(Counter):
    """Starts a program of its own, as a simulator would be; with action 2 it hangs and lets no other thread run."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.program = subprocess.Popen(["sleep", "10000"])

    def family(self) -> tuple[int, int]:
        return os.getpid(), self.program.pid

    def step(self, action):
        if action == 2:
            ctypes.PyDLL(None).sleep(10_000)
        return super().step(action)


class Bonus(gym.Wrapper):
    """Adds one to every reward."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward + 1.0, terminated, truncated, info
