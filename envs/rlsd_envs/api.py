"""The public names. ``import rlsd_envs`` leads here when one is first asked for."""

from rlsd_envs.adapter import VectorEnvAdapter
from rlsd_envs.backend import BACKENDS
from rlsd_envs.errors import (
    BackendNotInstalled,
    EnvironmentTimeout,
    EnvironmentWorkerError,
    InvalidAction,
    UnknownEnvironment,
    UnsupportedByBackend,
)
from rlsd_envs.factory import make_vec_env
from rlsd_envs.flipped import Flipped
from rlsd_envs.grids import GridCnn
from rlsd_envs.privileged import Privileged, StudentExtractor
from rlsd_envs.sequences import Offsets, TaskSequence

__all__ = [
    "BACKENDS",
    "BackendNotInstalled",
    "EnvironmentTimeout",
    "EnvironmentWorkerError",
    "Flipped",
    "GridCnn",
    "InvalidAction",
    "Offsets",
    "Privileged",
    "StudentExtractor",
    "TaskSequence",
    "UnknownEnvironment",
    "UnsupportedByBackend",
    "VectorEnvAdapter",
    "make_vec_env",
]
