"""Freezing a vector environment in the middle of its episodes, and thawing it.

Environments that live in this process and can be pickled are: their physics, their random generators, the statistics of
``VecNormalize`` and the episode that ``Monitor`` is counting. Those in worker processes are not within reach.

Thawing unpickles, which runs code: only thaw what you froze yourself.
"""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper


def freeze(env: VecEnv) -> bytes:
    """Return the environment as bytes.

    :raises ValueError: when it cannot be pickled; the message says why.
    """
    base = env.unwrapped
    if isinstance(base, SubprocVecEnv):
        raise ValueError("its environments live in worker processes (SubprocVecEnv)")
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(env)
    except Exception as error:  # whatever a user's environment raises, it is a reason and not a failure
        raise ValueError(f"it cannot be pickled: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return buffer.getvalue()


def thaw(data: bytes) -> VecEnv:
    """Undo :func:`freeze`. Runs code from ``data``.

    :raises ValueError: when it is damaged, or what it needs cannot be imported here.
    """
    try:
        env = cloudpickle.loads(data)
    except Exception as error:  # whatever unpickling raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"the saved environment is damaged or cannot be made here: {reason}") from error
    assert isinstance(env, VecEnv), f"a frozen environment is a VecEnv, got {type(env).__name__}"
    return env


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what vector environments hold and pickle refuses, or ``VecNormalize`` leaves out."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, VecEnvWrapper):
            state = {key: value for key, value in obj.__dict__.items() if key != "class_attributes"}
            return _thaw_wrapper, (type(obj), state)
        if isinstance(obj, ResultsWriter):
            obj.file_handler.flush()
            return _thaw_writer, (obj.file_handler.name, tuple(obj.logger.fieldnames))
        return super().reducer_override(obj)


def _thaw_wrapper(cls: type[VecEnvWrapper], state: dict[str, Any]) -> VecEnvWrapper:
    wrapper = cls.__new__(cls)
    wrapper.__dict__.update(state)
    wrapper.class_attributes = dict(inspect.getmembers(cls))
    return wrapper


def _thaw_writer(filename: str, fieldnames: tuple[str, ...]) -> ResultsWriter:
    Path(filename).parent.mkdir(parents=True, exist_ok=True)
    extra = tuple(name for name in fieldnames if name not in ("r", "l", "t"))
    return ResultsWriter(filename, extra_keys=extra, override_existing=False)
