"""States to teach a small student on: where the teacher's actions led, and where the student's own lead."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage

from rlsd.actors import Actor, MaskedActorCritic
from rlsd.observations import as_items, with_context
from rlsd.rng import private_numbers
from rlsd.states import StateStore


class Acts(Protocol):
    """An SB3 agent, or what stands for one that sees otherwise."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def predict(self, observation: Any, /, *, deterministic: bool = False) -> tuple[Any, Any]:
        """Return actions for a batch of observations, as SB3's agents do; MaskablePPO's are given masks, too."""


class DaggerCollector:
    """Acts in an environment and stores the raw states that it meets (DAgger, Ross et al. 2011).

    :param env: the environment, which is reset.
    :param actor: the adapter to the agents' way of acting; with masks, these are asked of the environment and stored.
    :param store: takes the states.
    """

    def __init__(self, env: VecEnv, actor: Actor, store: StateStore) -> None:
        self._env, self._store = env, store
        self._masked = isinstance(actor, MaskedActorCritic)
        self._seen: Any = env.reset()

    def reset(self) -> None:
        """Begin new episodes."""
        self._seen = self._env.reset()

    def go(self, agent: Acts, steps: int, generator: np.random.Generator) -> None:
        """Let an agent act for some environment steps, as it does in training; the states are stored.

        :param generator: seeds what the agent draws; the global generators are left as they were.
        """
        space = agent.action_space.np_random.bit_generator
        before = space.state
        with private_numbers(generator):
            for _ in range(-(-steps // self._env.num_envs)):
                states = {key: np.array(value) for key, value in as_items(raw_of(self._env, self._seen)).items()}
                settings: dict[str, Any] = {}
                if self._masked:
                    settings["action_masks"] = np.stack(self._env.env_method("action_masks"))
                    mask = settings["action_masks"].reshape(self._env.num_envs, -1).astype(np.uint8)
                    states = with_context(states, {"@mask": mask})
                self._store.add(shaped(states, agent))
                actions, _ = agent.predict(self._seen, deterministic=False, **settings)
                self._seen, _, _, _ = self._env.step(actions)
        space.state = before


def raw_of(env: VecEnv | None, seen: Any) -> Any:
    """Return raw observations, given those that ``VecNormalize`` made of them."""
    outside: list[VecTransposeImage] = []
    while env is not None and not isinstance(env, VecNormalize):
        outside += [env] if isinstance(env, VecTransposeImage) else []
        env = getattr(env, "venv", None)
    if env is None or not env.norm_obs:
        return seen
    raw: Any = env.get_original_obs()
    for wrapper in reversed(outside):
        raw = wrapper.transpose_observations(raw)
    return raw


def shaped(states: dict[str, np.ndarray], agent: Acts) -> dict[str, np.ndarray]:
    """Give each state the shape that the agent's buffers give it: a discrete observation is a vector of one."""
    shapes = as_items(get_obs_shape(agent.observation_space))
    return {key: array.reshape(-1, *shapes[key]) if key in shapes else array for key, array in states.items()}
