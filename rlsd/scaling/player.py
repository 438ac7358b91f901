"""What an agent is given in place of its environment while it collects what workers did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rlsd.scaling.fragment import Fragment
from rlsd.scaling.views import View, seen_through


@dataclass(frozen=True)
class Flight:
    """A fragment that workers collect.

    :param wait: for it.
    :param views: what its observations are seen through.
    :param updates: of the policy whose weights it is collected by.
    """

    wait: Callable[[], list[Fragment]]
    views: list[View]
    updates: int

    def landed(self) -> Flight:
        """Wait for the fragment, and return a flight that needs no worker any more."""
        fragments = self.wait()
        return Flight(lambda: fragments, self.views, self.updates)


class Playing(Protocol):
    """The environment at the bottom, which plays a fragment."""

    views: list[View]

    def coming_infos(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give the infos of the step that is next."""

    def latest(self) -> Any:
        """Return what the environments showed last."""


class Player(VecEnvWrapper):
    """The agent's environment, whose observations are shown as the workers' policy saw them.

    :param env: the agent's, with all that is around :class:`WorkersVecEnv`.
    :param base: that.
    """

    def __init__(self, env: VecEnv, base: Playing) -> None:
        super().__init__(env)
        self._base = base

    def reset(self) -> Any:
        """Begin new episodes."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Return the next step that the workers took."""
        base = self._base
        ended = {i: info["terminal_observation"] for i, info in base.coming_infos() if "terminal_observation" in info}
        _, rewards, dones, infos = self.venv.step_wait()
        for number, raw in ended.items():
            infos[number]["terminal_observation"] = seen_through(base.views, raw)
        return seen_through(base.views, base.latest()), rewards, dones, infos
