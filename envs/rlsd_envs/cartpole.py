"""Gymnasium's vectorised CartPole, made to start its episodes exactly as the single CartPole does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray


class SeededCartPole(CartPoleVectorEnv):
    """Gymnasium's ``CartPoleVectorEnv``, one random generator for each environment, reset on demand.

    Gymnasium's own draws all starts from one generator and can only reset all environments at once. With a generator
    each, environment ``i`` seeded with ``s`` starts where the single CartPole seeded with ``s`` does, episode after
    episode, and since the dynamics are the same, its whole trajectories are those of the single one.

    :param num_envs: number of environments
    :param kwargs: as for ``CartPoleVectorEnv``: ``max_episode_steps``, ``render_mode``, ``sutton_barto_reward``
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    state: Any  # (4, n_envs) float64, None before the first reset

    def __init__(self, num_envs: int = 1, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self.generators: list[np.random.Generator] = [seeding.np_random()[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Reset the environments of ``options["reset_mask"]``, a boolean ``(n_envs,)``, or all of them.

        :param seed: one number, counted up over the environments, or one for each; None goes on with the generators
        :return: the observations ``(n_envs, 4)`` of all environments, and an empty dictionary
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        indices = range(self.num_envs) if mask is None else np.flatnonzero(mask)
        self._seed(seed)
        if self.state is None:
            self.state = np.zeros((4, self.num_envs))
        low, high = float(options.get("low", -0.05)), float(options.get("high", 0.05))
        for index in indices:
            self.state[:, index] = self.generators[index].uniform(low=low, high=high, size=(4,))
        self.steps[indices] = 0
        self.prev_done[indices] = False
        return self.state.T.astype(np.float32), {}

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None:
            return
        seeds = [seed + index for index in range(self.num_envs)] if isinstance(seed, int) else seed
        for index, own in enumerate(seeds):
            if own is not None:
                self.generators[index] = seeding.np_random(own)[0]
