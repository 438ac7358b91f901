"""A small convolutional network for small grids of flags, such as MinAtar's: too small for SB3's ``CnnPolicy``."""

from __future__ import annotations

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

_FILTERS = 16


class GridCnn(BaseFeaturesExtractor):
    """One layer of 16 3x3 filters and a hidden one, as in the paper that brought MinAtar; the channels come last.

    SB3's own network for images needs 36 pixels each way, and the bytes of a picture; ``MlpPolicy`` with this one takes
    ``(10, 10, 4)`` booleans::

        PPO("MlpPolicy", env, policy_kwargs={"features_extractor_class": GridCnn})

    :param observation_space: a Box of ``(height, width, channels)``, at least 3 cells each way.
    :param features_dim: width of the hidden layer.
    :raises ValueError: when the observations are no grid.
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 128) -> None:  # type: ignore[type-arg]
        shape = observation_space.shape or ()
        if len(shape) != 3 or min(shape[:2]) < 3:
            raise ValueError(f"GridCnn needs observations of (height, width, channels), 3 cells at least, got {shape}")
        super().__init__(observation_space, features_dim)
        height, width, channels = shape
        self.filters = nn.Sequential(nn.Conv2d(channels, _FILTERS, kernel_size=3), nn.ReLU(), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(_FILTERS * (height - 2) * (width - 2), features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features of a batch of grids."""
        channels_first = torch.permute(observations, (0, 3, 1, 2)).contiguous()  # the filters' own order: faster
        out: Tensor = self.hidden(self.filters(channels_first))
        return out
