"""The graph that is exported acts as ``predict`` does, for every action space and algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from agents import IMAGE_HWC
from gymnasium import spaces
from helpers import ACTING, ALGORITHMS, OBSERVATION_SPACES, disturb, normalized_env, small_agent, vec_env

from rlsd.cli.acting_graph import ActingGraph
from rlsd.cli.errors import UserError
from rlsd.cli.export import ExportOptions, _export, _met
from rlsd.cli.saved import SavedAgent
from rlsd.cli.saved_policy import read_policy

NARROW = spaces.Box(np.array([-0.1, 0.0], np.float32), np.array([0.1, 3.0], np.float32))
WIDE = spaces.Box(-100.0, 100.0, (2,), np.float32)
CNN = {"policy": "CnnPolicy", "policy_kwargs": {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 4}}}


def masked(space):
    return {"env": vec_env(action_space=space, n=2)}


def acting(space, **kwargs):
    return {"env": vec_env(action_space=space, n=2), "policy_kwargs": {"net_arch": [6], **kwargs}}


def observing(space, **kwargs):
    return {"env": vec_env(space, WIDE, n=2), **kwargs}


#: An algorithm, and what is special about its agent. Called when the test runs.
CASES = {
    **{
        f"PPO {name}": ("PPO", lambda space=space, kwargs=kwargs: _ppo(space, kwargs))
        for name, (space, kwargs) in ACTING.items()
        if "full_std=False" not in name and "use_expln=True" not in name
    },
    "PPO clipped": ("PPO", lambda: acting(NARROW)),
    **{name: (name, dict) for name in ALGORITHMS if name not in ("PPO", "RecurrentPPO", "MaskablePPO")},
    **{f"{name} scaled": (name, lambda: acting(NARROW)) for name in ("SAC", "TD3", "TQC", "CrossQ", "ARS")},
    "SAC gSDE": ("SAC", lambda: {**acting(NARROW), "use_sde": True}),
    "ARS Discrete": ("ARS", lambda: acting(spaces.Discrete(3))),
    "ARS linear": ("ARS", lambda: {**acting(NARROW), "policy": "LinearPolicy", "policy_kwargs": {}}),
    **{
        f"MaskablePPO {type(space).__name__}": ("MaskablePPO", lambda space=space: masked(space))
        for space in (spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3))
    },
    "image": ("PPO", lambda: observing(OBSERVATION_SPACES["image"], **CNN)),
    "image with its channels last": ("PPO", lambda: observing(IMAGE_HWC, **CNN)),
    "Dict": ("PPO", lambda: observing(OBSERVATION_SPACES["dict"], policy="MultiInputPolicy")),
    "Discrete observations": ("PPO", lambda: observing(OBSERVATION_SPACES["discrete"])),
    "VecNormalize": ("PPO", lambda: {"env": normalized_env()}),
    "VecNormalize of a Dict": (
        "PPO",
        lambda: {
            "env": normalized_env(OBSERVATION_SPACES["dict"], norm_obs_keys=["speed"]),
            "policy": "MultiInputPolicy",
        },
    ),
}


def _ppo(space, kwargs):
    kwargs = dict(kwargs)
    return {"use_sde": kwargs.pop("use_sde", False), **acting(space, **kwargs)}


def agent_of(case):
    name, changes = CASES[case]
    agent = small_agent(name, **changes())
    disturb(agent.policy, 0.5)
    return agent


@pytest.mark.parametrize("case", CASES)
def test_the_graph_acts_as_predict_does(case):
    agent = agent_of(case)
    graph = ActingGraph(agent.policy, agent.get_env()).eval()
    given, expected = _met(agent.policy, agent.get_env(), graph, ExportOptions(check=60))
    with torch.no_grad():
        actions = graph(*(torch.as_tensor(value) for value in given.values())).numpy()
    assert len(actions) == 60 and actions.shape == expected.shape
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(expected, axis=0)) > 1, "one action everywhere shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_onnx_acts_as_predict_does_on_1000_observations(case, tmp_path):
    pytest.importorskip("onnxruntime")
    agent = agent_of(case)
    agent.save(tmp_path / "agent.zip")
    saved = SavedAgent(Path(tmp_path / "agent.zip"), "test-v0")
    policy = read_policy(saved.file, agent.get_env(), torch.device("cpu"))
    said = _export(saved, policy, agent.get_env(), tmp_path / "agent.onnx", ExportOptions())
    assert "checked on 1,000 observations" in said and (tmp_path / "agent.onnx").is_file(), said


def test_what_cannot_be_exported_is_said():
    agent = small_agent("RecurrentPPO")
    with pytest.raises(UserError, match="remembers"):
        ActingGraph(agent.policy, agent.get_env())

    class OwnPolicy(type(small_agent("DQN").policy).__mro__[1]):
        def _predict(self, observation, deterministic=False):
            raise NotImplementedError

    agent = small_agent("DQN")
    own = OwnPolicy(agent.observation_space, agent.action_space)
    with pytest.raises(UserError, match="OwnPolicy is none of SB3's"):
        ActingGraph(own, agent.get_env())
