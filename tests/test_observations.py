"""Raw observations: taken as the environment gave them, shown as the policy sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, VECTOR, TinyEnv
from gymnasium import spaces
from helpers import SMALL_CNN, normalized_env, observe, same, small_agent, small_ppo, vec_env
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd.observations import (
    Beside,
    Normalization,
    as_items,
    from_items,
    from_names,
    normalizing_env,
    split_context,
    storage_dtype,
    to_names,
    with_context,
)

# Items


@pytest.mark.parametrize("name", ["observation", "observations", "obs", "camera"])
def test_a_dict_stays_a_dict_and_a_tensor_a_tensor(name):
    tensor = torch.ones(2, 3)
    assert from_items(as_items(tensor)) is tensor
    for observations in ({name: tensor}, {name: tensor, "speed": tensor}):
        found = from_items(as_items(observations))
        assert isinstance(found, dict), "a Dict space may have this key alone"
        assert same(found, observations)


def test_the_items_of_a_dict_are_a_dict_of_their_own():
    observations = {"speed": torch.ones(2)}
    as_items(observations)["speed"] = torch.zeros(2)
    assert observations["speed"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, torch.uint8),
        (np.int64, torch.int64),
        (np.uint16, torch.int32),
        (np.uint32, torch.int64),
        (np.uint64, torch.int64),
        (np.bool_, torch.bool),
        (np.float16, torch.float32),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
    ],
)
def test_whole_numbers_keep_their_dtype_or_values_and_floats_take_32_bits(dtype, expected):
    assert storage_dtype(np.zeros(1, dtype)) == expected


class Sensor(TinyEnv):
    """Whole numbers without a sign, such as a depth sensor gives."""

    def _sample(self, space):
        return self.np_random.integers(60_000, space.high, dtype=space.dtype, endpoint=True)


@pytest.mark.parametrize(
    ("dtype", "normalize"), [(np.uint16, False), (np.uint16, True), (np.uint32, False), (np.uint64, False)]
)
@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("PPO", {"states": "reservoir"}),
        ("PPO", {"states": "minibatch"}),
        ("PPO", {"teacher": {"type": "selective", "every": 8}}),
        ("PPO", {"timing": {"type": "phase", "every_rollouts": 1}}),
        ("DQN", {"states": "minibatch"}),
        ("DQN", {"states": "replay_buffer"}),
        ("DQN", {"states": {"type": "mixture", "parts": ["replay_buffer", "recent"]}}),
    ],
    ids=str,
)
def test_an_agent_with_a_sensor_of_many_bits_trains_as_without_distillation(name, answers, dtype, normalize):
    def new(wrap=None, **settings):
        space = spaces.Box(0, 2**16 - 1, (3,), dtype)
        env = DummyVecEnv([lambda: Sensor(space, spaces.Discrete(3))])
        return small_agent(name, VecNormalize(env) if normalize else env, wrap, **settings).learn(32)

    strengths = {"strength": 0.0}, {"strength": 1.0}
    plain, still, pulled = new(), *(new(rlsd.SelfDistilled, distill={**answers, **s}) for s in strengths)
    assert same(still.policy.state_dict(), plain.policy.state_dict())
    held = pulled.distiller.states
    for states in as_items(held.gather(held.slots(), torch.from_numpy(held.slots()))).values():
        assert ((states.long() >= 60_000) & (states.long() < 2**16)).all()


@pytest.mark.parametrize("plain", [True, False], ids=["tensor", "dict"])
def test_what_was_stored_beside_the_observations_is_told_from_them_by_its_key(plain):
    observations = observe(VECTOR) if plain else {"mask": observe(VECTOR), "speed": observe(VECTOR)}
    context = {"@mask": torch.ones(6, 2), "@start": torch.zeros(6)}
    found, beside = split_context(with_context(observations, context))
    assert same(found, observations)
    assert isinstance(found, torch.Tensor) == plain
    assert same(beside, context)


#: What a user may call the parts of an observation: as ours are called, in a file and elsewhere.
TAKEN = [["@observation"], ["@mask", "@observation"], ["@hidden", "@cell", "@start"], ["@@mask", "@", "speed"]]


@pytest.mark.parametrize("keys", TAKEN, ids="-".join)
def test_ours_are_told_from_a_users_keys_whatever_they_are_called(keys):
    observations = {key: torch.full((2, 1), float(i)) for i, key in enumerate(keys)}
    context = {"@mask": torch.ones(2, 3), "@hidden": torch.zeros(2, 1, 4)}
    states = with_context(observations, context)
    assert len(states) == len(keys) + 2
    for found, beside in (split_context(states), split_context(from_names(to_names(states)))):
        assert same(found, observations) and same(beside, context)
    assert split_context(from_items(as_items(observations))) == (observations, {})
    assert all(type(name) is str for name in to_names(states))


@pytest.mark.parametrize("keys", TAKEN, ids="-".join)
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, RecurrentPPO, SAC])
def test_an_agent_whose_observations_are_called_as_ours_is_distilled_saved_and_loaded(algorithm, keys, tmp_path):
    space = spaces.Dict({key: spaces.Box(-1, 1, (2,)) for key in keys})
    env = vec_env(space, spaces.Box(-1, 1, (2,)) if algorithm is SAC else spaces.Discrete(3))
    policy = "MultiInputLstmPolicy" if algorithm is RecurrentPPO else "MultiInputPolicy"
    answers = rlsd.recipe("selective" if algorithm is PPO else "snapshot", **{"teacher.every": 16})
    off_policy = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8}
    settings = off_policy if algorithm is SAC else {"n_steps": 16, "batch_size": 8, "n_epochs": 1}
    settings["policy_kwargs"] = {"net_arch": [6]} | ({"lstm_hidden_size": 4} if algorithm is RecurrentPPO else {})
    agent = rlsd.SelfDistilled(algorithm)(policy, VecNormalize(env, norm_obs=False), distill=answers, **settings)
    agent.learn(48)
    assert agent.distiller.deposits or algorithm is PPO
    agent.save(tmp_path / "agent")
    loaded = rlsd.SelfDistilled(algorithm).load(tmp_path / "agent", env=agent.env)
    every = np.arange(agent.distiller.states.count)
    assert same(loaded.distiller.states.pick(every), agent.distiller.states.pick(every))
    loaded.learn(16, reset_num_timesteps=False)


@pytest.mark.parametrize("keys", TAKEN, ids="-".join)
def test_statistics_of_observations_called_as_ours_are_saved(keys):
    space = spaces.Dict({key: spaces.Box(-1, 1, (2,)) for key in keys})
    agent = PPO("MultiInputPolicy", VecNormalize(vec_env(space)), n_steps=8, batch_size=8)
    normalization = Normalization.of(agent)
    again = Normalization.from_tensors(normalization.tensors(), agent.device)
    assert same(again(observe(space)), normalization(observe(space)))


@pytest.mark.parametrize("plain", [True, False], ids=["tensor", "dict"])
def test_observations_alone_have_no_context(plain):
    observations = observe(VECTOR) if plain else {"speed": observe(VECTOR)}
    found, beside = split_context(observations)
    assert same(found, observations)
    assert beside == {}


# VecNormalize


def raw(space: spaces.Space):
    return observe(space, n=20)


def shown_by_sb3(env: VecNormalize, observations):
    arrays = {key: value.numpy().copy() for key, value in as_items(observations).items()}
    shown = env.normalize_obs(arrays if isinstance(observations, dict) else next(iter(arrays.values())))
    return {key: torch.as_tensor(value) for key, value in as_items(shown).items()}


DICT = spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR, "place": VECTOR})


@pytest.mark.parametrize("space", [VECTOR, DICT], ids=["vector", "dict"])
def test_a_normalization_shows_states_as_vecnormalize_did_when_it_was_taken(space):
    keys = {"norm_obs_keys": ["speed"]} if isinstance(space, spaces.Dict) else {}
    env = normalized_env(space, **keys)
    agent = small_ppo(env, "MultiInputPolicy" if keys else "MlpPolicy", policy_kwargs=SMALL_CNN if keys else None)
    normalization, observations = Normalization.of(agent), raw(space)
    expected = shown_by_sb3(env, observations)
    assert any((value.abs() == np.float32(0.8)).any() for value in expected.values()), "nothing was clipped"
    for one in env.obs_rms.values() if keys else [env.obs_rms]:
        one.update(np.full((30, 3), 4.0))  # time goes on
    found = as_items(normalization(observations))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


def test_showing_states_does_not_change_them():
    agent, observations = small_ppo(normalized_env()), raw(VECTOR)
    before = observations.clone()
    Normalization.of(agent)(observations)
    assert torch.equal(observations, before)


def test_a_saved_normalization_shows_the_same():
    agent = small_ppo(
        normalized_env(DICT, norm_obs_keys=["speed", "place"]), "MultiInputPolicy", policy_kwargs=SMALL_CNN
    )
    normalization = Normalization.of(agent)
    loaded = Normalization.from_tensors(normalization.tensors(), agent.device)
    assert same(loaded(raw(DICT)), normalization(raw(DICT)))


def test_an_environment_that_does_not_normalise_observations_is_taken_as_it_is():
    assert normalizing_env(small_ppo()) is None
    assert Normalization.of(small_ppo()) is None
    only_rewards = small_ppo(VecNormalize(vec_env(), norm_obs=False))
    assert normalizing_env(only_rewards) is None
    assert Normalization.of(only_rewards) is None
    env = normalized_env()
    assert normalizing_env(small_ppo(env)) is env


def test_what_else_decided_an_action_is_not_normalised():
    agent = small_ppo(normalized_env())
    mask = torch.ones(20, 2, dtype=torch.uint8)
    shown = Normalization.of(agent)({Beside("@observation"): raw(VECTOR), Beside("@mask"): mask})
    assert torch.equal(shown[Beside("@mask")], mask)
    assert torch.equal(shown[Beside("@observation")], Normalization.of(agent)(raw(VECTOR)))
