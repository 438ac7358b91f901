"""NaN at every stage: whatever it gets into, no file that holds it takes the place of one that does not."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, TinyEnv, config, distilled, make_env
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

import rlsd
from rlsd.io import folders

NAN = float("nan")
#: Where a run goes wrong: at the first step past this, or in the very last update.
GOOD = 6 * ROLLOUT
TOTAL = 9 * ROLLOUT


class Poison(BaseCallback):
    """Puts NaN where a stage says, from :data:`GOOD` steps on."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def _on_step(self) -> bool:
        if self.num_timesteps > GOOD:
            agent: Any = self.model
            buffer = getattr(agent, "replay_buffer", None) or agent.rollout_buffer
            if self.stage == "buffer":
                buffer.rewards[max(buffer.pos - 1, 0)] = NAN
            elif self.stage == "normalisation":
                agent.get_vec_normalize_env().obs_rms.mean[:] = NAN
        return True


def poisoned(agent: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something be NaN from :data:`GOOD` steps on."""
    own_step, own_train = TinyEnv.step, type(agent).train

    def step(self: TinyEnv, action: Any) -> Any:
        observation, reward, *rest = own_step(self, action)
        if stage == "reward" and agent.num_timesteps >= GOOD:
            reward = NAN
        if stage == "observation" and agent.num_timesteps >= GOOD:
            observation = np.full_like(observation, NAN)
        return observation, reward, *rest

    def train(self: Any, *args: Any, **kwargs: Any) -> None:
        own_train(self, *args, **kwargs)
        first = {"update": GOOD + 1, "last update": TOTAL}.get(stage)
        if first is not None and self.num_timesteps >= first:
            next(self.policy.parameters()).data.fill_(NAN)

    monkeypatch.setattr(TinyEnv, "step", step)
    monkeypatch.setattr(type(agent), "train", train)


def numbers(value: Any) -> Any:
    """Every array and tensor in what was read from a file."""
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, spaces.Space)):
        value = list(vars(value).values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, (np.ndarray, np.floating, float, torch.Tensor)):
        yield torch.as_tensor(value)


def read(file: Path) -> list[Any]:
    """What a file holds, without the code of the project."""
    if file.suffix == ".pkl":
        found = pickle.loads(file.read_bytes())
        rows = found.size() if isinstance(found, BaseBuffer) else None
        return [array[:rows] if rows and array.dim() else array for array in numbers(found)]
    if file.suffix == ".safetensors":
        return list(safetensors.torch.load_file(file).values())
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    found = [torch.load(io.BytesIO(data)) for name, data in entries.items() if name.endswith(".pth")]
    found.append(safetensors.torch.load(entries["rlsd/state.safetensors"]))
    return list(numbers(found))


def broken(folder: Path) -> list[str]:
    """The files that hold a number that is not finite. The environment is what it is."""
    files = [path for suffix in ("zip", "pkl", "safetensors") for path in sorted(folder.rglob(f"*.{suffix}"))]
    assert len(files) >= 4
    return [
        str(path.relative_to(folder))
        for path in files
        if path.name != "environment.pkl"
        and not all(bool(t.isfinite().all()) for t in read(path) if t.is_floating_point())
    ]


STAGES = ("reward", "observation", "update", "last update", "buffer", "normalisation")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN", "TD3"])
def test_no_file_that_is_not_finite_replaces_one_that_is(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = config(teacher=rlsd.Ema())
    kind = "discrete" if name == "DQN" else "box"
    agent = distilled(ALL_ALGORITHMS[name], kind, answers, env=VecNormalize(make_env(kind)))
    evaluation = VecNormalize(make_env(kind), training=False)
    checkpoints = rlsd.Checkpoints(tmp_path / "checkpoints", every=1, keep=1)
    best = EvalCallback(evaluation, eval_freq=ROLLOUT, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    agent.learn(GOOD, callback=[checkpoints, best])
    agent.save(tmp_path / "final")
    assert broken(tmp_path) == []

    poisoned(agent, stage, monkeypatch)
    best.best_mean_reward = -np.inf  # whatever it earns, it is the best
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with suppress(ValueError):  # some agents cannot act any more
            agent.learn(TOTAL - GOOD, callback=[checkpoints, best, Poison(stage)], reset_num_timesteps=False)
        agent.save(tmp_path / "final")
        rlsd.save_checkpoint(agent, rlsd.latest_checkpoint(tmp_path / "checkpoints"))
    monkeypatch.undo()
    assert broken(tmp_path) == []
    told = [str(warning.message) for warning in said if "is not finite at" in str(warning.message)]
    assert told, "nobody was told"
    assert all("\n" not in text and ("as it was" in text or "as they were" in text) for text in told)

    last = rlsd.latest_checkpoint(tmp_path / "checkpoints")
    assert folders.damage(last) is None
    again = rlsd.resume(last)
    again.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert again.num_timesteps > int(last.name)
