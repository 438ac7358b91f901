"""From Gymnasium's one dictionary of arrays to SB3's list of one dictionary for each environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Bookkeeping of compiled environments that says nothing about the task.
_IGNORED = frozenset({"env_id", "players", "final_obs", "final_info"})

Info = dict[str, Any]


def unpack(info: Mapping[str, Any], index: int) -> Info:
    """Return what a batched info dictionary says about one environment.

    :param info: arrays with one row for each environment; where ``info["_key"]`` is there, ``info["key"]`` counts only
        for environments with True in it
    :param index: the row
    """
    result: Info = {}
    for key, value in info.items():
        if key in _IGNORED or (key.startswith("_") and key[1:] in info):
            continue
        present = info.get(f"_{key}")
        if present is not None and not present[index]:
            continue
        if isinstance(value, Mapping):
            result[key] = unpack(value, index)
        else:
            result[key] = value[index] if isinstance(value, np.ndarray | list | tuple) and np.ndim(value) else value
    return result


class BlankInfos:
    """Empty dictionaries for the environments that have nothing to say, which are nearly all, nearly always.

    A dictionary is never shared by two environments. Those that are still empty at the next step are handed out again,
    so that a thousand environments do not cost a thousand new dictionaries a step; when a reader has written into one,
    all are replaced.

    :param n_envs: number of environments
    """

    def __init__(self, n_envs: int) -> None:
        self._blanks: list[Info] = [{} for _ in range(n_envs)]

    def take(self) -> list[Info]:
        """Return a new list of one empty dictionary for each environment."""
        if any(self._blanks):
            self._blanks = [{} for _ in self._blanks]
        return self._blanks.copy()
