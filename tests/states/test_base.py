"""What every store of states does: what it takes beside the states, and whether they are saved."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from agents import ROLLOUT, distilled
from gymnasium import spaces
from helpers import small_agent, vec_env
from safetensors.numpy import load as load_tensors
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC

import rlsd
from rlsd import memory
from rlsd.observations import as_items


def answers(states, recipe: str = "snapshot", every: int = ROLLOUT) -> rlsd.DistillConfig:
    return rlsd.recipe(recipe, states=states, **{"teacher.every": every})


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return load_tensors(archive.read("rlsd/state.safetensors"))


WITHOUT = [
    (PPO, rlsd.Reservoir(64, 8, saved=False), "snapshot"),
    (PPO, rlsd.Reservoir(64, 8, saved=False), "selective"),
    (PPO, rlsd.Recent(64, 8, saved=False), "phasic"),
    (MaskablePPO, rlsd.Mixture(batch_size=8, saved=False), "snapshot"),
    (RecurrentPPO, rlsd.Recent(64, 8, saved=False), "snapshot"),
    (SAC, rlsd.ReplayBuffer(8, saved=False), "snapshot"),
    (PPO, rlsd.Minibatch(saved=False), "snapshot"),
]


@pytest.mark.parametrize(("algorithm", "states", "recipe"), WITHOUT)
def test_states_that_must_not_be_kept_are_in_no_zip(algorithm, states, recipe, tmp_path):
    agent = distilled(algorithm, "box" if algorithm is SAC else "discrete", answers(states, recipe))
    agent.learn(3 * ROLLOUT)
    kept = agent.distiller.auxiliary.rollouts if recipe == "phasic" else agent.distiller.states
    assert kept.count
    agent.save(tmp_path / "agent")
    names = entries(tmp_path / "agent.zip")
    assert names and not [n for n in names if n.startswith(("replay/", "teacher/recent", "lesson/rollouts"))]
    met = np.concatenate([np.ravel(t) for t in as_items(kept.pick(np.arange(4))).values()])
    assert not [n for n, t in names.items() if np.isin(met[np.abs(met) > 1e-3], t).sum() > 4], "kept under another name"

    loaded = rlsd.SelfDistilled(algorithm).load(tmp_path / "agent", env=agent.env)
    assert loaded.distiller.states.count == 0 and loaded.distiller.config == agent.distiller.config
    assert loaded.distiller.teacher.version == agent.distiller.teacher.version
    loaded.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert recipe == "phasic" or loaded.distiller.states.count


def test_nor_are_they_in_a_checkpoint(tmp_path):
    agent = distilled(PPO, "discrete", answers(rlsd.Reservoir(64, 8, saved=False)))
    agent.learn(3 * ROLLOUT)
    folder = rlsd.save_checkpoint(agent, tmp_path)
    assert not [n for n in entries(next(folder.glob("*.zip"))) if n.startswith("replay/")]
    assert rlsd.resume(tmp_path).learn(ROLLOUT, reset_num_timesteps=False).distiller.states.count


def test_what_is_saved_is_said_in_a_config_only_where_it_is_not_all():
    assert "saved" not in rlsd.Reservoir().to_dict()
    config = rlsd.DistillConfig(states=rlsd.Recent(saved=False))
    assert rlsd.DistillConfig.from_yaml(config.to_yaml()) == config
    with pytest.raises(ValueError, match=r"states\.saved must be true or false, got 'no'"):
        rlsd.Reservoir(saved="no")


BESIDE = {
    "MaskablePPO": (spaces.Discrete(400), 400 + 4 * 400),
    "RecurrentPPO": (spaces.Discrete(3), 2 * 4 * 2 * 5 + 4 + 4 * 3),
    "PPO": (spaces.MultiDiscrete([50, 50]), 4 * 100),
    "SAC": (spaces.Box(-1, 1, (7,)), 4 * 14),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_an_observation_counts_in_the_budget(name, monkeypatch):
    actions, beside = BESIDE[name]
    space = spaces.Box(-1, 1, (3,))
    needed = 1000 * (memory.observation_bytes(space) + beside)
    settings = {"wrap": rlsd.SelfDistilled, "distill": answers(rlsd.Reservoir(1000, 8))}
    monkeypatch.setenv(memory.VARIABLE, str(needed))
    small_agent(name, vec_env(space, actions), **settings)
    monkeypatch.setenv(memory.VARIABLE, str(needed - 1))
    with pytest.raises(ValueError, match=r"states.capacity=1000 .* lower states.capacity to 999 or less"):
        small_agent(name, vec_env(space, actions), **settings)


def test_targets_beside_a_replay_buffer_count_without_its_observations(monkeypatch):
    settings = {"wrap": rlsd.SelfDistilled, "distill": answers(rlsd.ReplayBuffer(8)), "buffer_size": 5000}
    monkeypatch.setenv(memory.VARIABLE, str(5000 * 4 * 300))
    small_agent("DQN", vec_env(action_space=spaces.Discrete(300)), **settings)
    monkeypatch.setenv(memory.VARIABLE, str(5000 * 4 * 300 - 1))
    with pytest.raises(ValueError, match="replay_buffer"):
        small_agent("DQN", vec_env(action_space=spaces.Discrete(300)), **settings)


def test_a_zip_of_many_actions_is_no_larger_than_what_was_met_and_asked(tmp_path):
    agent = small_agent(
        "MaskablePPO", vec_env(action_space=spaces.Discrete(2000)), rlsd.SelfDistilled, distill="guard", n_steps=256
    )
    agent.learn(512)
    assert agent.distiller.deposits == 0 and agent.distiller.cache._targets is None
    agent.save(tmp_path / "agent")
    state = sum(tensor.nbytes for tensor in entries(tmp_path / "agent.zip").values())
    assert state < 512 * (2000 + 100), "masks alone"
    assert json.loads(zipfile.ZipFile(tmp_path / "agent.zip").read("rlsd/config.json"))["state"]


def resident() -> int:
    """The bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux")
@pytest.mark.parametrize("states", [rlsd.Reservoir(50_000, 8), rlsd.Recent(50_000, 8)], ids=["reservoir", "recent"])
def test_a_store_takes_memory_as_it_is_filled(states):
    image = spaces.Box(0, 255, (3, 60, 60), np.uint8)
    agent = small_agent("PPO", vec_env(image), distill=None, wrap=rlsd.SelfDistilled, policy="MlpPolicy")
    store = states.build(np.random.SeedSequence(0), agent)
    before = resident()
    store.add(as_items(np.ones((100, 3, 60, 60), np.uint8)))
    assert store.nbytes > 500e6
    assert resident() - before < 50e6
