"""Raw observations: taken as the environment gave them, shown as the policy sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, IMAGE_HWC, VECTOR
from gymnasium import spaces
from helpers import OBSERVATION_SPACES, observe, same, small_ppo, vec_env
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from rlsd import DistillConfig, Reservoir
from rlsd.distiller import Distiller
from rlsd.observations import (
    Normalization,
    RawObservations,
    as_items,
    from_items,
    mapped,
    normalizing_env,
    rollout_observations,
    storage_dtype,
)

SMALL_CNN = {"net_arch": [4], "features_extractor_kwargs": {"cnn_output_dim": 4}}


class Watching(BaseCallback):
    """Takes what ``rollout_observations`` gives at the end of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[dict[str, np.ndarray]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.taken.append({key: array.copy() for key, array in rollout_observations(self.model).items()})


def acted_on(env, steps: int, start: int = 0):
    """What the environments gave to act on in some steps, ``(steps * n_envs, ...)``, step by step.

    A finished episode's last observation is given, too, but not acted on.
    """
    per_env = []
    for inner in env.unwrapped.envs:
        given = inner.given
        per_env.append([o for i, o in enumerate(given) if i % (inner.length + 1) < inner.length][start : start + steps])
    ordered = [per_env[e][t] for t in range(steps) for e in range(len(per_env))]
    if isinstance(ordered[0], dict):
        return {key: np.stack([np.asarray(o[key]) for o in ordered]) for key in ordered[0]}
    return as_items(np.stack([np.asarray(o) for o in ordered]))


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


def test_a_function_is_mapped_over_a_tensor_or_each_of_a_dict():
    assert mapped(lambda t: t + 1, torch.zeros(2)).tolist() == [1, 1]
    found = mapped(lambda t: t + 1, {"a": torch.zeros(1), "b": torch.ones(1)})
    assert {key: value.tolist() for key, value in found.items()} == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, torch.uint8),
        (np.int64, torch.int64),
        (np.bool_, torch.bool),
        (np.float16, torch.float32),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
    ],
)
def test_whole_numbers_keep_their_dtype_and_floats_take_32_bits(dtype, expected):
    assert storage_dtype(np.zeros(1, dtype)) == expected


# From the rollout buffer


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_a_rollouts_observations_are_those_that_were_acted_on_step_by_step(name):
    env = vec_env(OBSERVATION_SPACES[name], n=2)
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(name, "MlpPolicy")
    kwargs = SMALL_CNN if name == "dict" else {"net_arch": [4]}
    agent, watching = small_ppo(env, policy, policy_kwargs=kwargs), Watching()
    agent.learn(32, callback=watching)
    for rollout, found in enumerate(watching.taken):
        expected = acted_on(env, steps=8, start=8 * rollout)
        assert found.keys() == as_items(observe(OBSERVATION_SPACES[name])).keys()
        for (key, array), (_, wanted) in zip(found.items(), expected.items(), strict=True):
            assert np.array_equal(array, wanted.reshape(array.shape)), key
            assert len(array) == 16


def test_a_rollouts_image_has_its_channels_where_the_policy_has_them():
    agent, watching = small_ppo(vec_env(IMAGE_HWC), "CnnPolicy", policy_kwargs={"net_arch": [4]}), Watching()
    agent.learn(8, callback=watching)
    (array,) = watching.taken[0].values()
    assert array.shape == (8, *IMAGE_CHW.shape)
    assert array.dtype == np.uint8


# VecNormalize


def normalized_env(space: spaces.Space = VECTOR, **kwargs):
    env = VecNormalize(vec_env(space, n=2), clip_obs=0.8, epsilon=0.05, **kwargs)
    rms = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
    for i, one in enumerate(rms.values()):
        one.mean, one.var = np.full(one.mean.shape, 0.1 * (i + 1)), np.full(one.mean.shape, 0.3 + i)
    return env


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


def small_distiller(agent) -> Distiller:
    return Distiller(DistillConfig(states=Reservoir(capacity=8, batch_size=4)), agent)


class Recording(CallbackList):
    """A recorder, and what each rollout's recording and buffer held at its end."""

    def __init__(self, recorder: RawObservations) -> None:
        self.recorder, self.watching = recorder, Watching()
        self.recorded: list[dict[str, np.ndarray] | None] = []
        super().__init__([recorder, self.watching])

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self.recorded.append(self.recorder.take())


def test_recorded_observations_are_the_raw_ones_that_were_acted_on():
    env = normalized_env()
    recording = Recording(RawObservations(env))
    small_ppo(env).learn(48, callback=recording)
    for rollout, recorded in enumerate(recording.recorded):
        expected = acted_on(env, steps=8, start=8 * rollout)
        assert same(recorded, expected)


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (VECTOR, {}),
        (spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR}), {"norm_obs_keys": ["speed"]}),
        (spaces.Dict({"camera": IMAGE_HWC, "speed": VECTOR}), {"norm_obs_keys": ["speed"]}),
        (spaces.Dict({"camera": IMAGE_HWC, "speed": VECTOR}), {}),
    ],
    ids=["vector", "dict", "dict with an image that SB3 transposes", "dict with a normalised image"],
)
def test_recorded_observations_shown_through_the_statistics_are_what_the_policy_saw(space, kwargs):
    env = normalized_env(space, training=False, **kwargs)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    agent = small_ppo(env, policy, policy_kwargs=SMALL_CNN if policy == "MultiInputPolicy" else None)
    recording = Recording(small_distiller(agent).recorder(agent))
    agent.learn(32, callback=recording)
    normalization = Normalization.of(agent)
    for recorded, seen in zip(recording.recorded, recording.watching.taken, strict=True):
        items = {key: torch.from_numpy(array) for key, array in recorded.items()}
        for key, value in as_items(normalization(from_items(items))).items():
            expected = torch.from_numpy(seen[key])
            torch.testing.assert_close(value.to(expected.dtype), expected, rtol=1e-5, atol=1e-5)


def test_frames_stacked_after_normalising_are_refused_and_not_taken_for_raw_states():
    agent = small_ppo(VecFrameStack(normalized_env(), 2))
    with pytest.raises(ValueError, match="VecNormalize"):
        small_distiller(agent).recorder(agent)


def test_recordings_are_taken_once_and_none_of_a_rollout_is_left_for_the_next():
    env = normalized_env()
    recorder = RawObservations(env)
    assert recorder.take() is None
    small_ppo(env).learn(16, callback=recorder)
    (array,) = recorder.take().values()
    assert len(array) == 16
    assert recorder.take() is None


def test_a_rollout_that_was_broken_off_leaves_nothing_behind():
    env = normalized_env()
    recorder = RawObservations(env)
    agent = small_ppo(env)
    stop = BreakOff(after=3)
    agent.learn(16, callback=CallbackList([recorder, stop]))
    stop.after = 10**6
    agent.learn(16, callback=CallbackList([recorder, stop]))
    (array,) = recorder.take().values()
    assert len(array) == 16


class BreakOff(BaseCallback):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def _on_step(self) -> bool:
        return self.n_calls < self.after
