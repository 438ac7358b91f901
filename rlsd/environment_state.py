"""Freezing a vector environment in the middle of its episodes, and thawing it.

Environments that live in this process and can be pickled are: their physics, their random generators, the statistics of
``VecNormalize`` and the episode that ``Monitor`` is counting. Those in worker processes are not within reach.

Thawing unpickles, which runs code: only thaw what you froze yourself.
"""

from __future__ import annotations

import copyreg
import inspect
import io
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from rlsd.plain import State


def freeze(env: VecEnv, to_reset: bool = False) -> bytes:
    """Return the environment as bytes.

    :param to_reset: it will be reset when it is thawed. Then environments of Gymnasium that can be made anew from their
        constructor's arguments are, those too whose state nobody can read (Box2D).
    :raises ValueError: when it cannot be pickled; the message says why.
    """
    base = env.unwrapped
    if isinstance(base, SubprocVecEnv):
        raise ValueError("its environments live in worker processes (SubprocVecEnv)")
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, to_reset).dump(env)
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
    """Pickles what vector environments hold and pickle refuses, or leaves out."""

    def __init__(self, file: io.BytesIO, to_reset: bool) -> None:
        super().__init__(file)
        self._to_reset = to_reset

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, VecEnvWrapper):
            state = {key: value for key, value in obj.__dict__.items() if key != "class_attributes"}
            return _thaw_wrapper, (type(obj), state)
        if isinstance(obj, ResultsWriter):
            obj.file_handler.flush()
            return _thaw_writer, (obj.file_handler.name, tuple(obj.logger.fieldnames))
        by_arguments = isinstance(obj, EzPickle) and type(obj).__getstate__ is EzPickle.__getstate__
        if by_arguments and not self._to_reset:
            # By itself it would be pickled as its constructor's arguments: a new environment, that was never reset.
            return copyreg.__newobj__, (type(obj),), dict(obj.__dict__), None, None, _set_state  # type: ignore[attr-defined]
        return super().reducer_override(obj)


def _thaw_wrapper(cls: type[VecEnvWrapper], state: State) -> VecEnvWrapper:
    wrapper = cls.__new__(cls)
    wrapper.__dict__.update(state)
    wrapper.class_attributes = dict(inspect.getmembers(cls))
    return wrapper


def _set_state(obj: Any, state: State) -> None:
    obj.__dict__.update(state)


def _thaw_writer(filename: str, fieldnames: tuple[str, ...]) -> ResultsWriter:
    Path(filename).parent.mkdir(parents=True, exist_ok=True)
    extra = tuple(name for name in fieldnames if name not in ("r", "l", "t"))
    return ResultsWriter(filename, extra_keys=extra, override_existing=False)
