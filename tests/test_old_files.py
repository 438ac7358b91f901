"""Agents and checkpoints that an earlier version saved load, act as they did then, and train on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import rlsd

FIXTURES = Path(__file__).parent / "fixtures"
_SPEC = importlib.util.spec_from_file_location("fixtures_make", FIXTURES / "make.py")
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)

VERSIONS = sorted(path.name for path in FIXTURES.iterdir() if (path / "expected.json").is_file())
every_version = pytest.mark.parametrize("version", VERSIONS)


def expected(version, name):
    recorded = json.loads((FIXTURES / version / "expected.json").read_text())
    return recorded["actions"][name], recorded["deposits"][name]


def assert_acts_as_recorded(agent, actions):
    now = agent.predict(make.observations(agent.observation_space), deterministic=True)[0]
    np.testing.assert_allclose(now, actions, rtol=1e-4, atol=1e-5, err_msg="the agent acts otherwise than it did")


def test_there_are_files_of_a_version_before_this_one():
    assert "8d6ee91" in VERSIONS


@every_version
@pytest.mark.parametrize("name", make.AGENTS)
def test_an_agent_loads_acts_as_it_did_and_trains_on_by_its_teacher(version, name):
    saved = make.AGENTS[name]
    actions, deposits = expected(version, name)
    agent = rlsd.SelfDistilled(saved.algorithm).load(FIXTURES / version / f"{name}.zip", saved.env(), device="cpu")
    assert_acts_as_recorded(agent, actions)
    assert agent.distiller.deposits == deposits
    assert agent.distiller.teacher.version > 0, "the file's teacher was lost"
    agent.learn(2 * make.STEPS_AFTER, reset_num_timesteps=False)
    assert agent.num_timesteps == saved.steps + 2 * make.STEPS_AFTER
    if deposits:  # a guard that had nothing to do may have none yet
        assert agent.distiller.deposits > deposits


@every_version
@pytest.mark.parametrize("name", make.AGENTS)
def test_an_agent_loads_in_plain_sb3(version, name):
    plain = make.AGENTS[name].algorithm.load(FIXTURES / version / f"{name}.zip", device="cpu")
    assert_acts_as_recorded(plain, expected(version, name)[0])


@every_version
@pytest.mark.parametrize("name", make.CHECKPOINTS)
def test_a_checkpoint_goes_on_as_it_did(version, name, tmp_path):
    folder = shutil.copytree(FIXTURES / version / name, tmp_path / name)
    agent = rlsd.resume(folder, device="cpu")
    actions, deposits = expected(version, name)
    assert_acts_as_recorded(agent, actions)
    assert agent.distiller.deposits == deposits
    agent.learn(make.STEPS_AFTER, reset_num_timesteps=False)
    assert agent.distiller.deposits > deposits
    after = safetensors.torch.load_file(FIXTURES / version / f"{name}-after.safetensors")
    now = agent.policy.state_dict()
    assert now.keys() == after.keys()
    for key, tensor in after.items():
        # Not bit for bit, which is another promise: another processor rounds otherwise.
        torch.testing.assert_close(now[key], tensor, rtol=1e-3, atol=1e-4, msg=f"{key} is not what it became then")
