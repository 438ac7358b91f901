"""The machine that a measurement was taken on, as far as it bears on speed."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return processor, cores, load average over 1, 5 and 15 minutes, system and GPU, as plain data."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": load_average(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": _gpu(),
    }


def cpu_model() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def load_average() -> list[float] | None:
    """Return how many processes wanted a core over the last 1, 5 and 15 minutes; None where that is not known."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def describe(found: dict[str, Any]) -> str:
    """Return what :func:`machine` found, on one line."""
    load = found["load_average"]
    parts = [found["cpu"], f"{found['usable_cores']} of {found['cores']} cores", found["system"]]
    parts += [f"load {' '.join(f'{value:.2f}' for value in load)}"] if load else []
    return ", ".join([*parts, *([found["gpu"]] if found["gpu"] else [])])


def _gpu() -> str | None:
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
