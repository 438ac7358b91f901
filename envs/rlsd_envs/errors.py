"""What can go wrong between an id and a running environment, each with its own class."""

from __future__ import annotations


class UnknownEnvironment(ValueError):
    """No environment is registered under this id; the message names the nearest ids that are."""


class UnsupportedByBackend(ValueError):
    """The environment exists, but this backend cannot run it as asked; the message names a backend that can."""


class BackendNotInstalled(ImportError):
    """The backend needs a package that is not installed; the message says which extra brings it."""


class InvalidAction(ValueError):
    """The actions given to ``step`` have a wrong shape or type, or lie outside a discrete action space."""


class EnvironmentWorkerError(RuntimeError):
    """An environment in a worker process raised an error, died or hung.

    :param message: one or more lines for the user, ending with the worker's traceback where there is one
    :param env_index: which of the environments, counted from 0
    :param last_action: the last action it was given, None before the first step
    """

    def __init__(self, message: str, env_index: int, last_action: object = None) -> None:
        super().__init__(message)
        self.env_index = env_index
        self.last_action = last_action


class EnvironmentTimeout(EnvironmentWorkerError):
    """An environment in a worker process did not answer in time."""
