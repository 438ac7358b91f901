"""Which episode each state belongs to, on and off policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents import ALL_ALGORITHMS, build
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.actors import actor_for
from rlsd.episodes import EPISODE, EpisodeSource
from rlsd.observations import as_items
from rlsd.sources import source_for


class Witness(BaseCallback):
    """Notes which observations began an episode, as the environments said."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[bytes] = []

    def _on_training_start(self) -> None:
        self._note(np.ones(self.training_env.num_envs, bool), self.model._last_obs)

    def _on_step(self) -> bool:
        self._note(self.locals["dones"], self.locals["new_obs"])
        return True

    def _note(self, dones: np.ndarray, observations: Any) -> None:
        self.first += [row.tobytes() for row in observations[dones.astype(bool)]]


def taken(source: EpisodeSource, agent: Any) -> tuple[np.ndarray, np.ndarray]:
    chunks = [states for states, _ in source.new(agent)]
    states = [next(iter(as_items({k: v for k, v in c.items() if k != EPISODE}).values())) for c in chunks]
    return np.concatenate(states), np.concatenate([c[EPISODE] for c in chunks])


def collected(name: str, agent: Any, rollouts: int, change: Any = None) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """States and episodes as the source tells them, a rollout at a time, and the beginnings that a witness saw."""
    source, found, witness = EpisodeSource(source_for(agent, actor_for(agent)), agent), [], Witness()
    train = type(agent).train

    class Looking(type(agent)):  # type: ignore[misc]
        def train(self, *args: Any, **kwargs: Any) -> None:
            found.append(taken(source, self))
            train(self, *args, **kwargs)

    agent.__class__ = Looking
    agent.learn(16 * rollouts, callback=witness)
    if change is not None:
        agent.set_env(change)
        agent.learn(16 * rollouts, callback=witness, reset_num_timesteps=False)
    states, numbers = (np.concatenate([f[i] for f in found]) for i in range(2))
    return states, numbers, witness.first


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
@pytest.mark.parametrize("changed", [False, True], ids=["one environment", "another given in mid-episode"])
def test_the_first_state_of_each_number_is_where_an_episode_began(name, changed):
    kind = {"SAC": "box"}.get(name, "discrete")
    agent = build(ALL_ALGORITHMS[name], kind)
    other = build(ALL_ALGORITHMS[name], kind, seed=9).get_env() if changed else None
    states, numbers, first = collected(name, agent, 4, other)
    found, rows = np.unique(numbers, return_index=True)
    assert found[0] == 1, "an episode that was seen from its beginning has no number"
    assert np.array_equal(found, np.arange(1, len(found) + 1)), "numbers are left out"
    told = [states[row].tobytes() for row in rows]
    assert sorted(told) == sorted(first[: len(told)]), "another state begins the episode"
    assert len(first) - len(told) <= 4, "beginnings were missed"
