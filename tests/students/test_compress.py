"""Small agents that do what large ones do."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    make_env,
    training_state,
)
from helpers import disturb
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import rlsd
from rlsd.observations import Beside, Normalization, as_items, from_items, from_names
from rlsd.students.compress import compress

CASES = [
    ("PPO", "discrete"),
    ("PPO", "normalized_dict"),
    ("PPO", "image_hwc"),
    ("PPO", "gsde"),
    ("PPO", "discrete_observations"),
    ("MaskablePPO", "multidiscrete"),
    ("TRPO", "box"),
    ("DQN", "goal"),
    ("QRDQN", "discrete"),
    ("SAC", "box"),
    ("CrossQ", "box"),
    ("TD3", "normalized"),
    ("ARS", "box"),
]
SMALL: dict[str, Any] = {"states": 40, "steps": 8, "batch_size": 8, "rounds": 2}


def trained(name: str, kind: str, wrap: bool = True) -> Any:
    cls = ALL_ALGORITHMS[name]
    agent = distilled(cls, kind) if wrap else build(cls, kind)
    return agent.learn(ROLLOUT * (20 if name == "ARS" else 2))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_small_agent_is_a_plain_one_that_trains_on_and_the_teacher_stays(
    name: str, kind: str, tmp_path: Path
) -> None:
    agent = trained(name, kind)
    before = copied((training_state(agent), distillation_state(agent)))
    small = compress(agent, {"net_arch": [2]}, **SMALL)
    assert not differences(before, (training_state(agent), distillation_state(agent)))
    cls = ALL_ALGORITHMS[name]
    assert type(small) is cls
    assert size(small) < size(agent)
    assert (small.num_timesteps, small.learning_rate, small.seed) == (0, agent.learning_rate, agent.seed)

    small.save(tmp_path / "small")
    loaded = cls.load(tmp_path / "small", env=make_env(kind) if kind == "goal" else None)
    start = copied(dict(small.policy.state_dict()))
    assert not differences(start, dict(loaded.policy.state_dict()))
    small.learn(ROLLOUT * (20 if name == "ARS" else 2))
    assert differences(start, dict(small.policy.state_dict()))


def size(agent: Any) -> int:
    return sum(parameter.numel() for parameter in agent.policy.parameters())


def test_a_small_agent_does_what_the_teacher_does() -> None:
    agent = build(PPO, "normalized").learn(2 * ROLLOUT)
    disturb(agent.policy, 0.3)
    small = compress(agent, {"net_arch": [5]}, states=1000, steps=500, learning_rate=0.01, rounds=3)
    states = torch.rand(500, 3) * 2 - 1
    normalization = Normalization.of(agent)
    assert normalization is not None
    seen = normalization(states)
    with torch.no_grad():
        p, q = (a.policy.get_distribution(seen).distribution for a in (agent, small))
        values = [a.policy.predict_values(seen) for a in (agent, small)]
    assert torch.distributions.kl_divergence(p, q).sum(1).mean() < 0.01
    assert (values[0] - values[1]).square().mean() < 0.05 * values[0].var()


def test_the_same_seed_gives_the_same_student_and_another_another() -> None:
    agent = trained("PPO", "discrete")
    one, again, other = (compress(agent, {"net_arch": [2]}, seed=seed, **SMALL) for seed in (0, 0, 1))
    assert not differences(dict(one.policy.state_dict()), dict(again.policy.state_dict()))
    assert differences(dict(one.policy.state_dict()), dict(other.policy.state_dict()))


def test_given_states_need_no_environment() -> None:
    agent = build(DQN).learn(2 * ROLLOUT)
    states = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    agent.env = None
    small = compress(agent, {"net_arch": [2]}, states=states, steps=8)
    assert small.get_env() is None
    assert small.predict(states[0].astype(np.float32))[0] in (0, 1, 2)


def test_stored_states_are_used_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("rlsd.students.compress")
    monkeypatch.setattr(module, "_ENOUGH", 30)
    monkeypatch.setattr(module, "DaggerCollector", None)
    agents = distilled(PPO).learn(2 * ROLLOUT), build(SAC, "box").learn(3 * ROLLOUT)
    for agent in agents:  # in the distiller's reservoir, in the replay buffer
        assert compress(agent, {"net_arch": [2]}, steps=8).num_timesteps == 0
    monkeypatch.setattr(module, "_ENOUGH", 10**6)
    for agent in agents:
        with pytest.raises(TypeError, match="NoneType"):  # there are too few, and nobody gathers
            compress(agent, {"net_arch": [2]}, steps=8)


@pytest.mark.parametrize(
    ("cls", "states"),
    [
        (PPO, "minibatch"),
        (DQN, "minibatch"),
        (DQN, "replay_buffer"),
        (DQN, rlsd.Mixture(parts=[rlsd.ReplayBuffer(), rlsd.Recent(8, 8)])),
    ],
)
def test_states_that_a_loaded_agent_only_counts_are_gathered(
    cls: Any, states: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module("rlsd.students.compress")
    monkeypatch.setattr(module, "_ENOUGH", 8)
    monkeypatch.setattr(module, "_GATHERED", 40)
    agent = distilled(cls, distill=config(states=states)).learn(3 * ROLLOUT)
    assert agent.distiller.states.at_hand == agent.distiller.states.count >= 8
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=make_env())
    assert loaded.distiller.states.count == agent.distiller.states.count
    assert loaded.distiller.states.at_hand == 0
    small = compress(loaded, {"net_arch": [2]}, steps=8, rounds=2)
    assert size(small) < size(agent)
    if cls is DQN:
        agent.save_replay_buffer(tmp_path / "buffer")
        loaded.load_replay_buffer(tmp_path / "buffer")
        monkeypatch.setattr(module, "DaggerCollector", None)
        compress(loaded, {"net_arch": [2]}, steps=8)


@pytest.mark.parametrize("kind", ["image_hwc", "image_chw", "dict", "discrete_observations"])
def test_given_states_are_what_the_agent_is_shown_also_as_its_environment_gives_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = build(PPO, kind)
    own = agent.env.observation_space
    raw = getattr(agent.env, "venv", agent.env).observation_space  # with the channels where the environment has them
    raw.seed(0)
    samples = [raw.sample() for _ in range(5)]
    given: Any = {k: np.stack([one[k] for one in samples]) for k in raw} if kind == "dict" else np.stack(samples)
    tensor = agent.policy.obs_to_tensor(given)[0]
    shown = {key: value.reshape(5, -1) for key, value in as_items(tensor).items()}
    module, stores = importlib.import_module("rlsd.students.compress"), []
    monkeypatch.setattr(module, "Course", lambda student, comparison, store, *rest: stores.append(store) or Mock())
    turned: Any = {k: own_shape(v, own[k]) for k, v in given.items()} if kind == "dict" else own_shape(given, own)
    for states in (given, turned):
        compress(agent, {"net_arch": [2]}, states=states)
        stored = from_names(stores.pop().tensors())
        assert not differences({key: value.reshape(5, -1) for key, value in stored.items()}, shown)


def own_shape(array: np.ndarray, space: Any) -> np.ndarray:
    """Observations of an environment as the agent's space has them."""
    return array if array.shape[1:] == space.shape else np.moveaxis(array, -1, 1)


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "multibinary", "dict"])
def test_given_states_of_an_agent_with_masks_allow_all_actions(kind: str) -> None:
    agent = trained("MaskablePPO", kind)
    disturb(agent.policy, 0.3)
    space = agent.observation_space
    space.seed(0)
    samples = [space.sample() for _ in range(100)]
    given: Any = (
        {key: np.stack([one[key] for one in samples]) for key in space} if kind == "dict" else np.stack(samples)
    )
    small = compress(agent, {"net_arch": [8]}, states=given, steps=60, batch_size=32, learning_rate=0.01)
    with torch.no_grad():
        seen = agent.policy.obs_to_tensor(given)[0]
        p, q = (agent.distiller.actor.parameters(a.policy, masked(seen, agent)) for a in (agent, small))
        assert agent.distiller.actor.family.kl(p, q).mean() < 0.005, "a student that learned nothing is 0.04 away"


def masked(seen: Any, agent: Any) -> Any:
    """States in which about half of the actions are allowed."""
    items = as_items(seen)
    shape = len(next(iter(items.values()))), agent.distiller.actor.family.size
    allowed = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    allowed[:, [0, *np.cumsum(agent.distiller.actor.family.sizes)[:-1]]] = True  # of each choice one at least
    return from_items(items | {Beside("@mask"): allowed.float()})


def test_statistics_are_put_around_an_environment_without_any() -> None:
    agent = trained("PPO", "normalized")
    small = compress(agent, {"net_arch": [2]}, env=make_env("box"), **SMALL)
    mine, theirs = small.get_vec_normalize_env(), agent.get_vec_normalize_env()
    assert isinstance(mine, VecNormalize)
    assert mine.training
    assert mine.obs_rms is not theirs.obs_rms
    assert np.array_equal(mine.obs_rms.mean, theirs.obs_rms.mean)
    assert mine.obs_rms.count == theirs.obs_rms.count


def test_the_original_monitors_file_stays_as_it_was(tmp_path: Path) -> None:
    inner = make_env().envs[0].unwrapped
    env = DummyVecEnv([lambda: Monitor(inner, str(tmp_path / "log"))])
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0)
    agent.learn(16)
    before = (tmp_path / "log.monitor.csv").read_bytes()
    compress(agent, {"net_arch": [2]}, **SMALL)
    assert (tmp_path / "log.monitor.csv").read_bytes() == before
    env.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps must be"),
        ({"rounds": 0}, "rounds must be"),
        ({"steps": 2.5}, r"^steps must be a whole number >= 1, got 2\.5$"),
        ({"batch_size": True}, "^batch_size must be a whole number >= 1, got True$"),
        ({"rounds": float("inf")}, "^rounds must be a whole number >= 1, got inf$"),
        ({"states": 2.5}, r"^states must be a whole number >= 1, got 2\.5$"),
        ({"states": True}, "^states must be a whole number >= 1, got True$"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"states": 0}, "states must be"),
        ({"states": np.full((3, 3), np.nan)}, "states must hold finite observations"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compress(build(PPO), {"net_arch": [2]}, **(SMALL | arguments))


IMAGES, VECTORS = np.zeros((4, 36, 36, 3), np.uint8), np.zeros((4, 3))


@pytest.mark.parametrize(
    ("kind", "states", "said"),
    [
        ("discrete", np.zeros((300, 5)), "states must be numbers of shape (n, 3), got float64 of shape (300, 5)"),
        ("discrete", np.zeros(3), "states must be numbers of shape (n, 3), got float64 of shape (3,)"),
        ("discrete", "foo", "states must be numbers of shape (n, 3), got <U3 of shape ()"),
        ("discrete", [["a", "b", "c"]], "states must be numbers of shape (n, 3), got <U1 of shape (1, 3)"),
        ("discrete", {"a": VECTORS}, "states must be one array, got a dict by the keys ['a']"),
        ("discrete_observations", np.array(3), "states must be numbers of shape (n, 1), got int64 of shape ()"),
        (
            "image_hwc",
            IMAGES[:, :, :20],
            "states must be numbers of shape (n, 3, 36, 36), got uint8 of shape (4, 36, 20, 3)",
        ),
        ("dict", VECTORS, "states must be a dict of arrays by the keys ['image', 'vector'], got a ndarray"),
        (
            "dict",
            {"vector": VECTORS},
            "states must be a dict of arrays by the keys ['image', 'vector'], got a dict by the keys ['vector']",
        ),
        (
            "dict",
            {"image": IMAGES, "vector": VECTORS[:, :2]},
            "states['vector'] must be numbers of shape (n, 3), got float64 of shape (4, 2)",
        ),
        (
            "dict",
            {"image": IMAGES[:3], "vector": VECTORS},
            "states must hold as many observations by each key, got {'image': 3, 'vector': 4}",
        ),
    ],
)
def test_states_that_are_not_the_agents_are_refused(kind: str, states: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        compress(build(PPO, kind), {"net_arch": [2]}, states=states, steps=2)


@pytest.mark.parametrize("agent", [3, None, "agent.zip", PPO])
def test_what_is_no_agent_is_named(agent: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"compress takes an SB3 agent, got {agent!r}: load one with ")):
        compress(agent, {})


@pytest.mark.parametrize("given", [3, None, [16], "net_arch"])
def test_policy_kwargs_that_are_no_mapping_are_named(given: Any) -> None:
    said = f"policy_kwargs must be a mapping such as {{'net_arch': [16]}}, got {given!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        compress(build(PPO), given)


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("PPO", {"net_arh": [2]}, "unexpected keyword argument 'net_arh'): give"),
        ("PPO", {"net_arch": [-3]}, "RuntimeError: "),
        ("PPO", {"activation_fn": "relu"}, "TypeError: "),
        ("DQN", {"net_arch": {"pi": [2]}}, "KeyError: 0"),
    ],
)
def test_policy_kwargs_that_make_no_policy_are_named(name: str, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"policy_kwargs {given!r} (")) as caught:
        compress(build(ALL_ALGORITHMS[name]), given, **SMALL)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_floats() -> None:
    agent = trained("PPO", "discrete")
    plain, floats = (
        compress(agent, {"net_arch": [2]}, **{key: kind(value) for key, value in SMALL.items()})
        for kind in (int, float)
    )
    assert not differences(dict(plain.policy.state_dict()), dict(floats.policy.state_dict()))


def test_a_recurrent_agent_is_refused() -> None:
    with pytest.raises(TypeError, match="RecurrentPPO cannot be compressed"):
        compress(build(ALL_ALGORITHMS["RecurrentPPO"], "box"), {"net_arch": [2]})


def test_an_environment_out_of_reach_must_be_given() -> None:
    agent = build(PPO)
    agent.set_env(SubprocVecEnv([lambda: make_env().envs[0]] * 2, start_method="fork"))
    with pytest.raises(ValueError, match=r"worker processes \(SubprocVecEnv\): pass env="):
        compress(agent, {"net_arch": [2]})
    agent.env.close()
