"""Vector environments for Stable-Baselines3: one ``make_vec_env`` over several backends."""

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

__all__ = [
    "BACKENDS",
    "BackendNotInstalled",
    "EnvironmentTimeout",
    "EnvironmentWorkerError",
    "InvalidAction",
    "UnknownEnvironment",
    "UnsupportedByBackend",
    "VectorEnvAdapter",
    "make_vec_env",
]
