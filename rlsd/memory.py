"""What a store of states takes, said and compared with a budget before any of it is allocated."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

from rlsd.observations import as_items, storage_dtype
from rlsd.plain import shown

#: Of the memory that is free, what one store may take when nobody says otherwise.
SHARE = 0.5
#: The environment variable that says otherwise: bytes, or a number with KB, MB, GB or TB.
VARIABLE = "RLSD_MEMORY_BUDGET"

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def observation_bytes(space: spaces.Space[Any]) -> int:
    """Return the bytes of one stored observation.

    :param space: the agent's.
    """
    shapes = as_items(get_obs_shape(space))
    parts: dict[str, spaces.Space[Any]] = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    if parts.keys() != shapes.keys():
        parts = dict(zip(shapes, parts.values(), strict=True))
    total = 0
    for key, shape in shapes.items():
        total += storage_dtype(np.empty(0, parts[key].dtype or np.float32)).itemsize * math.prod(shape)
    return total


def check_states(
    number: int,
    space: spaces.Space[Any] | None,
    device: torch.device,
    setting: str = "states.capacity",
    each: int = 1,
    beside: int = 0,
) -> None:
    """Raise when so many states would take more memory than they may.

    :param number: what the setting says.
    :param space: the agent's; None where its observations lie in a buffer of the agent's, and count for nothing.
    :param setting: whose number it is.
    :param each: states for each of the number.
    :param beside: bytes that are kept beside each state.
    :raises ValueError: naming the bytes, the budget and the way out.
    """
    one = each * ((0 if space is None else observation_bytes(space)) + beside)
    needed, allowed = number * one, budget(device)
    if allowed is not None and needed > allowed:
        states = "states" if each == 1 else f"times {each} states"
        lower = f"lower {setting} to {allowed // one} or less, or " if allowed >= one else ""
        raise ValueError(
            f"{setting}={number} {states} of this environment take {readable(needed)} on {device}, more than the "
            f"budget of {readable(allowed)}: {lower}set {VARIABLE} (for example "
            f"{VARIABLE}={math.ceil(needed / 10**9)}GB)"
        )


def budget(device: torch.device) -> int | None:
    """Return the bytes that one store may take on a device, None when that cannot be told.

    :raises ValueError: when the environment variable cannot be read.
    """
    said = os.environ.get(VARIABLE)
    if said is not None:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([KMGT]?B?)\s*", said, re.IGNORECASE)
        unit = match[2].upper() if match else "?"
        if match is None or unit not in _UNITS:
            wanted = "bytes or a number with KB, MB, GB or TB such as 8GB"
            raise ValueError(f"{VARIABLE} must be {wanted}, got {shown(said)}")
        return int(float(match[1]) * _UNITS[unit])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_host_memory()
    return None if free is None else int(free * SHARE)


def readable(n: int) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("TB", "GB", "MB", "KB"):
        if n >= _UNITS[unit]:
            return f"{n / _UNITS[unit]:.1f} {unit}"
    return f"{n} bytes"


def _free_host_memory() -> int | None:
    """Return the free memory of the machine, or of the container around us."""
    found = [free for free in (_machine(), _container()) if free is not None]
    return min(found) if found else None


def _machine() -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        most, taken = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Files kept in memory count as taken, but are given up when asked for.
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # there is none, or its limit is "max"
        return None
    return max(most - taken + (int(cached[1]) if cached else 0), 0)
