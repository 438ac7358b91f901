"""Checkpoints from which training goes on as if it had never stopped, bit for bit.

A checkpoint is a folder: the agent's zip, the environment in the middle of its episodes, and the random generators.
It is taken between two rollouts, where neither a rollout nor an update is half done.
"""

from __future__ import annotations

import base64
import copy
import importlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlsd import environment_state, faults
from rlsd.clock import StepCounter
from rlsd.io import folders
from rlsd.io.folders import AGENT, ENVIRONMENT, GENERATORS, MEMORY, REPLAY_BUFFER, STATISTICS, SUMMARY
from rlsd.io.folders import latest_checkpoint as latest_checkpoint
from rlsd.observations import as_items, from_items, from_names, to_names
from rlsd.plain import read_json, shown
from rlsd.version import __version__
from rlsd.wrapping import SelfDistilled, is_wrapped, unwrapped


class Stopped(Exception):
    """Training was asked to stop, and its state was saved."""


def save_checkpoint(
    agent: BaseAlgorithm, folder: str | os.PathLike[str], notes: Mapping[str, Any] | None = None
) -> Path:
    """Save all that training needs to go on exactly, and return the folder.

    Call it between two rollouts (see :class:`Checkpoints`). A folder that exists is replaced once the new one is whole,
    and stays, with a warning, where anything in the new one would not be finite. What cannot be saved, such as
    environments in worker processes, is named in the folder's ``checkpoint.json``.

    :param notes: what else belongs to this moment, as plain data: :func:`notes_of` gives it back.
    """
    folder = Path(folder)
    broken = faults.in_checkpoint(agent) if (folder / SUMMARY).exists() else None
    if broken is not None:
        warnings.warn(f"{faults.report(broken, agent)}; {folder} stays as it was", stacklevel=2)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folders.replacing_folder(folder) as unfinished:
        agent.save(unfinished / AGENT)
        _save_what_the_zip_leaves_out(agent, unfinished)
        (unfinished / GENERATORS).write_text(json.dumps(_generators(agent)))
        summary = _summary(agent) | {"not_exact": _save_environment(agent.get_env(), unfinished / ENVIRONMENT)}
        (unfinished / SUMMARY).write_text(json.dumps(summary | {"notes": dict(notes or {})}, indent=2))
    return folder


def notes_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the notes that :func:`save_checkpoint` was given for a checkpoint, nothing where there are none.

    :raises ValueError: when the checkpoint is damaged.
    """
    return dict(_read_summary(Path(folder)).get("notes", {}))


def resume(folder: str | os.PathLike[str], env: VecEnv | None = None, device: Any = "auto", **load: Any) -> Any:
    """Return the agent of a checkpoint, ready to go on with ``learn(..., reset_num_timesteps=False)``.

    Only resume what you saved yourself: SB3's zip and the environment are unpickled, which runs code.

    :param folder: what :func:`save_checkpoint` wrote, or a folder of :class:`Checkpoints`, whose latest is taken.
    :param env: replaces the saved environment. Its episodes start afresh, so the run goes on but not exactly; a
        ``VecNormalize`` around it loads the saved statistics. It may have more or fewer environments than the saved
        one, but for agents with a replay buffer.
    :param device: where the agent is to train.
    :param load: passed on to the agent's ``load``; ``distill=`` hands over a schedule that is a function, ``speed=``
        and ``rollout_device=`` say what an accelerated agent does not save.
    :raises ValueError: when the folder is no checkpoint or damaged, its environment could not be saved and none is
        given, or the one given does not fit; the message says what to do.
    """
    folder = Path(folder)
    if not folder.exists():
        folders.put_back(folder.parent)
    if not (folder / SUMMARY).is_file():
        folder = latest_checkpoint(folder)
    damage = folders.damage(folder)
    if damage is not None:
        older = folders.whole_before(folder)
        raise ValueError(damage if older is None else f"{damage}; {older} is the latest that is whole")
    summary = _read_summary(folder)
    generators = _read_generators(folder / GENERATORS)
    if env is None and summary["not_exact"]:
        raise ValueError(f"{folder} holds no environment: {summary['not_exact']}. Pass env=...")
    saved = env is None and summary["environment"]
    # HerReplayBuffer cannot be made without an environment. Loading seeds it, so the one trained in is thawed apart.
    made_in = (_thawed(folder / ENVIRONMENT) if saved else env) if summary.get("needs_environment") else None
    algorithm = _algorithm(summary["algorithm"], summary["wrapped"])
    if env is not None:
        load["n_envs"] = getattr(env, "num_envs", 1)
    agent: Any = algorithm.load(folder / AGENT, env=made_in, device=device, force_reset=False, **load)
    if env is not None:
        agent.set_env(env, force_reset=True)
    elif saved:
        agent.set_env(_thawed(folder / ENVIRONMENT), force_reset=False)
        agent._last_obs = _laid_out(agent._last_obs, summary.get("strides", {}))
    if env is not None:
        _take_statistics(agent, folder)
    _load_what_the_zip_leaves_out(agent, folder, memory=env is None)
    if is_wrapped(type(agent)):
        # learn() begins a new logger and resets the noise; a wrapped agent puts these back after it did.
        agent._resumed_log = summary.get("logged", {})
    # Last, since loading seeds every generator anew.
    _restore_generators(agent, generators)
    return agent


class Checkpoints(BaseCallback):
    """Saves a checkpoint now and then between two rollouts, as ``folder/<environment steps>``, keeping the last few.

    Handed to several calls of ``learn``, it adds their steps up, whether they count anew or not.
    It is for ``learn`` itself: in a callback that waits for events, such as ``EveryNTimesteps``, ``learn`` refuses it.

    :param folder: where they go.
    :param every: environment steps from one to the next, rounded up to whole rollouts.
    :param keep: how many of the latest stay.
    :param notes: returns what else belongs to this moment, as plain data; see :func:`save_checkpoint`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int,
        keep: int = 3,
        verbose: int = 0,
        notes: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(verbose)
        if every < 1 or keep < 1:
            raise ValueError(f"every and keep must be at least 1, got every={every}, keep={keep}")
        self.folder = Path(folder)
        self.every, self.keep, self._notes = every, keep, notes
        self._clock = StepCounter()
        self._saved_at: int | None = None
        self._announced = False
        self._stop = False
        self._reported = False

    def _init_callback(self) -> None:
        """Refuse a place where nobody says that a rollout begins, and nothing would ever be saved."""
        if self.parent is not None and type(self.parent)._on_rollout_start is BaseCallback._on_rollout_start:
            place = type(self.parent).__name__
            raise ValueError(
                f"Checkpoints in {place} would save nothing, since that calls it inside rollouts only: "
                f"give it to learn(callback=[...]) beside {place}, and say how often by every=..."
            )

    def _on_training_start(self) -> None:
        self._init_callback()  # once more: in a CallbackList, the parent was not known then
        if self._saved_at is not None:
            self._clock.rebase(self.model)

    def request_stop(self) -> None:
        """Save at the next boundary between rollouts, then end ``learn`` by raising :class:`Stopped` there.

        Safe to call from a signal handler.
        """
        self._stop = True

    def on_boundary(self) -> None:
        """Save if it is time; called by a self-distilled agent before anything of the coming rollout has happened.

        :raises Stopped: when that was asked for.
        """
        self._announced = True
        now = self._clock.steps(self.model)
        if self._saved_at is None:
            self._saved_at = now
        if self._stop or now - self._saved_at >= self.every:
            self._save()
        if self._stop:
            self._stop = False
            raise Stopped(f"stopped and saved at {self.model.num_timesteps} steps")

    def _save(self) -> None:
        self._saved_at = self._clock.steps(self.model)
        broken = faults.in_checkpoint(self.model)
        if broken is not None:
            if not self._reported:
                self._reported = True
                kept = f"the checkpoints in {self.folder} stay as they were"
                warnings.warn(f"{faults.report(broken, self.model)}; {kept}", stacklevel=2)
            return
        notes = None if self._notes is None else self._notes()
        new = save_checkpoint(self.model, self.folder / str(self._saved_at), notes)
        for old in folders.checkpoints(self.folder)[: -self.keep]:
            if old != new:  # an earlier, longer run left its own here
                shutil.rmtree(old, ignore_errors=True)
        folders.clear_unfinished(self.folder)

    def _on_rollout_start(self) -> None:
        # A plain SB3 agent announces no boundary. This is as good, but with gSDE, whose noise is drawn just before.
        if not self._announced:
            self.on_boundary()
        self._announced = False

    def _on_rollout_end(self) -> None:
        self._clock.steps(self.model)

    def _on_step(self) -> bool:
        return True


def _summary(agent: BaseAlgorithm) -> dict[str, Any]:
    cls = type(agent)
    named = unwrapped(cls)
    return {
        "rlsd": __version__,
        "checksums": folders.CHECKSUMS,
        "algorithm": f"{named.__module__}:{named.__qualname__}",
        "wrapped": is_wrapped(cls),
        "num_timesteps": agent.num_timesteps,
        "total_timesteps": agent._total_timesteps,
        "environment": agent.get_env() is not None,
        "needs_environment": isinstance(getattr(agent, "replay_buffer", None), HerReplayBuffer),
        "strides": _strides(agent._last_obs),
        "logged": _logged(agent),
    }


def _logged(agent: BaseAlgorithm) -> dict[str, dict[str, Any]]:
    """Return the records of the latest update, which the next line of the log shows."""
    logger = getattr(agent, "_logger", None)
    if logger is None:
        return {}
    values = {k: v.item() if hasattr(v, "item") and np.ndim(v) == 0 else v for k, v in logger.name_to_value.items()}
    plain = {key: value for key, value in values.items() if isinstance(value, (int, float, str))}
    parts = {"name_to_count": logger.name_to_count, "name_to_excluded": logger.name_to_excluded}
    return {"name_to_value": plain} | {name: {k: part[k] for k in plain if k in part} for name, part in parts.items()}


def _strides(observations: Any) -> dict[str, list[int]]:
    arrays = {key: array for key, array in as_items(observations).items() if isinstance(array, np.ndarray)}
    strides = {key: list(array.strides) for key, array in arrays.items() if min(array.strides, default=0) >= 0}
    return to_names(strides)


def _laid_out(observations: Any, strides: dict[str, list[int]]) -> Any:
    """Lay observations out in memory as they were: unpickled they are contiguous, and convolutions round otherwise."""
    items, strides = as_items(observations), from_names(strides)
    for key in items.keys() & strides.keys():
        array = items[key]
        extent = array.itemsize + sum((n - 1) * step for n, step in zip(array.shape, strides[key], strict=True))
        items[key] = np.ndarray(array.shape, array.dtype, np.empty(extent, np.uint8), strides=tuple(strides[key]))
        items[key][...] = array
    return from_items(items)


def _read_summary(folder: Path) -> dict[str, Any]:
    try:
        summary = read_json((folder / SUMMARY).read_text())
        if not {"algorithm", "wrapped", "not_exact", "environment", "num_timesteps"} <= summary.keys():
            raise ValueError("keys are missing")
        if not isinstance(summary["algorithm"], str):
            raise ValueError(f"its algorithm is {shown(summary['algorithm'])}")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / SUMMARY} is damaged: {error}") from error
    return dict(summary)


def _read_generators(path: Path) -> dict[str, Any]:
    try:
        saved = read_json(path.read_text())
        if not {"python", "numpy", "torch", "cuda", "action_space"} <= saved.keys():
            raise ValueError("keys are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return dict(saved)


def _thawed(path: Path) -> VecEnv:
    try:
        return environment_state.thaw(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _algorithm(name: str, wrapped: bool) -> type[Any]:
    module, _, qualname = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the checkpoint's algorithm {shown(name)} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseAlgorithm)):
        raise ValueError(f"the checkpoint's algorithm {shown(name)} is no SB3 algorithm")
    return SelfDistilled(cls) if wrapped else cls


def _save_environment(env: VecEnv | None, path: Path) -> str:
    """Save the environment if there is one, and return why that is not exact; empty when it is."""
    if env is None:
        return ""
    try:
        path.write_bytes(environment_state.freeze(env))
    except ValueError as error:
        return f"the environment was not saved, since {error}"
    return ""


def _save_what_the_zip_leaves_out(agent: Any, folder: Path) -> None:
    """Save the replay buffer of off-policy agents, and the memory with which a recurrent one goes on."""
    if getattr(agent, "replay_buffer", None) is not None:
        agent.save_replay_buffer(folder / REPLAY_BUFFER)
    statistics = agent.get_vec_normalize_env()
    if statistics is not None:  # also for an environment that cannot be saved itself
        statistics.save(str(folder / STATISTICS))
    memory = getattr(agent, "_last_lstm_states", None)
    if memory is not None:
        tensors = {f"{i}/{j}": part.cpu().contiguous() for i, pair in enumerate(memory) for j, part in enumerate(pair)}
        safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / MEMORY)


def _load_what_the_zip_leaves_out(agent: Any, folder: Path, memory: bool) -> None:
    if (folder / REPLAY_BUFFER).is_file():
        agent.load_replay_buffer(folder / REPLAY_BUFFER, truncate_last_traj=False)
        if agent.replay_buffer.n_envs != agent.n_envs:
            held = agent.replay_buffer.n_envs
            raise ValueError(
                f"env has {agent.n_envs} environments, and the saved replay buffer is of {held}: "
                f"give {held}, or load(..., env=env) {folder / AGENT}, which begins an empty buffer"
            )
    if memory and (folder / MEMORY).is_file():  # it begins anew where the episodes do
        tensors = safetensors.torch.load_file(folder / MEMORY, device=str(agent.device))
        kind = type(agent._last_lstm_states)
        agent._last_lstm_states = kind(*((tensors[f"{i}/0"], tensors[f"{i}/1"]) for i in range(2)))
    if is_wrapped(type(agent)):
        agent._resumed = True
    if getattr(agent, "action_noise", None) is not None:
        # learn() resets the noise; a wrapped agent puts this back after it did.
        agent._resumed_noise = copy.deepcopy(agent.action_noise)


def _take_statistics(agent: BaseAlgorithm, folder: Path) -> None:
    """Give a new environment the running statistics of the old."""
    env = agent.get_vec_normalize_env()
    if env is not None and (folder / STATISTICS).is_file():
        saved = VecNormalize.load(str(folder / STATISTICS), env.venv)
        if env.norm_obs:
            env.obs_rms = saved.obs_rms
        env.ret_rms = saved.ret_rms


def _generators(agent: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of every generator that training may draw from."""
    version, words, gauss = random.getstate()
    # SB3 draws from numpy's global generator, so its state is what an exact resume needs.
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    kind, keys, position, has_gauss, cached = numpy_state
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "torch": _encoded(torch.get_rng_state()),
        "cuda": [_encoded(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "action_space": agent.action_space.np_random.bit_generator.state,
    }


def _restore_generators(agent: BaseAlgorithm, saved: dict[str, Any]) -> None:
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_decoded(saved["torch"]))
    if torch.cuda.is_available() and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_decoded(state) for state in saved["cuda"]])
    agent.action_space.np_random.bit_generator.state = saved["action_space"]


def _encoded(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _decoded(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.uint8).copy())
