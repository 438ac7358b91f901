"""The numbers in a pickled ``VecNormalize``, read without unpickling it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from rlsd.io.pickles import Made, Symbol, read
from rlsd.memory import readable

_OWNER = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
#: Bytes; statistics of images take 2 numbers a pixel.
_MOST = 64 * 10**6


def read_statistics(file: Path) -> Any:
    """Return the state of a saved ``VecNormalize``: ``obs_rms``, ``ret_rms``, ``clip_obs``, ``epsilon``, ``norm_obs``.

    Runs no code from the file. The spaces and all else in it are left out.

    :raises ValueError: when it is damaged, no ``VecNormalize``, or holds numbers that no training leaves.
    """
    if file.stat().st_size > _MOST:
        raise ValueError(f"it is larger than {readable(_MOST)}")
    made = read(file.read_bytes())
    if type(made) is not Made or str(made.call) != _OWNER or type(made.state) is not dict:
        raise ValueError(f"it holds a {made.call if type(made) is Made else type(made).__name__}, no VecNormalize")
    state = made.state
    found = {name: _number(state.get(name)) for name in ("clip_obs", "epsilon")}
    observed = state.get("obs_rms")
    return SimpleNamespace(
        **found,
        norm_obs=state.get("norm_obs") is True,
        obs_rms={str(key): _moments(value) for key, value in observed.items()}
        if type(observed) is dict
        else None
        if observed is None
        else _moments(observed),
        ret_rms=_moments(state.get("ret_rms")),
    )


def _moments(value: Any) -> RunningMeanStd:
    if type(value) is not Made or type(value.state) is not dict or not {"mean", "var", "count"} <= value.state.keys():
        raise ValueError("it holds no running mean and variance")
    mean, var = _array(value.state["mean"]), _array(value.state["var"])
    count = _number(value.state["count"])
    if mean.shape != var.shape or not (np.isfinite(mean).all() and np.isfinite(var).all()) or (var < 0).any():
        raise ValueError("its mean or variance is not finite, or a variance is below 0")
    moments = RunningMeanStd(shape=mean.shape)
    moments.mean, moments.var, moments.count = mean, var, count
    return moments


def _number(value: Any) -> float:
    number = value if type(value) in (int, float) else float(_array(value))
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"one of its numbers is {number:g}, which it never is")
    return float(number)


def _array(value: Any) -> np.ndarray:
    """Return an array or a number of numpy's, as its pickles tell it."""
    if type(value) in (int, float):
        return np.asarray(value, dtype=np.float64)
    if type(value) is Made and type(value.call) is Symbol:
        name, args, state = value.call.name, value.args, value.state
        if name == "_reconstruct" and type(state) is tuple and len(state) == 5:
            return _filled(state[4], state[2], state[1], "F" if state[3] else "C")
        if name == "_frombuffer" and len(args) == 4:
            return _filled(args[0], args[1], args[2], "F" if args[3] == "F" else "C")
        if name == "scalar" and len(args) == 2:
            return _filled(args[1], args[0], (), "C")
    raise ValueError("it holds no array where one belongs")


def _filled(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    name = kind.args[0] if type(kind) is Made and str(kind.call) == "numpy.dtype" and kind.args else None
    if name not in ("f8", "f4") or type(kind.state) is not tuple or kind.state[1] != "<":
        raise ValueError("it holds an array of other numbers than 32 or 64 bit floats")
    if type(content) not in (bytes, bytearray) or type(shape) is not tuple or len(shape) > 32:
        raise ValueError("it holds a damaged array")
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * int(name[1]) != len(content):
        raise ValueError("it holds a damaged array")
    return np.frombuffer(bytes(content), dtype=f"<{name}").reshape(shape, order=order).astype(np.float64)
