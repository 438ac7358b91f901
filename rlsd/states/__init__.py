"""On which states? The answers to the second question, a file each."""

from rlsd.states.base import States, StateStore
from rlsd.states.episodes import Episodes, EpisodeStore
from rlsd.states.minibatch import Minibatch, ReplayMinibatchStore, RolloutMinibatchStore
from rlsd.states.mixture import Mixture, MixtureStore
from rlsd.states.recent import Recent, RecentStore
from rlsd.states.replay_buffer import ReplayBuffer, ReplayBufferStore
from rlsd.states.reservoir import Reservoir, ReservoirStore

__all__ = [
    "EpisodeStore",
    "Episodes",
    "Minibatch",
    "Mixture",
    "MixtureStore",
    "Recent",
    "RecentStore",
    "ReplayBuffer",
    "ReplayBufferStore",
    "ReplayMinibatchStore",
    "Reservoir",
    "ReservoirStore",
    "RolloutMinibatchStore",
    "StateStore",
    "States",
]
