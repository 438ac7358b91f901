"""Devices by name, checked where the name arrives."""

from __future__ import annotations

import torch


def usable_device(argument: str, name: str | torch.device) -> torch.device:
    """Return the device of that name.

    :param argument: what the name was given as, for the message.
    :raises ValueError: when torch does not know it, or this machine does not have it.
    """
    try:
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" has no numbers
    except Exception as error:
        here = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise ValueError(f"{argument}={str(name)!r} cannot be used on this machine: choose one of {here}") from error
    return device
