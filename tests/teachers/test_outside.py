"""A teacher sees other keys, or other numbers, than its student; what does not fit is refused when built."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import VECTOR, WatchedEnv, normalized_env, observe, small_ppo, vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd.actors import actor_for
from rlsd.observations import Observations
from rlsd.teachers import Frozen
from rlsd_envs import Privileged, StudentExtractor

SIZE = VECTOR.shape[0]
DICT = spaces.Dict({"state": VECTOR, "other": spaces.Box(0.0, 1.0, (7,))})


def student_of(space, **kwargs):
    return small_ppo(vec_env(space), "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy", **kwargs)


def targets_of(donor, student, view, raw: Observations):
    teacher = Frozen(donor, observations=view).build(actor_for(student))
    teacher.begin(student)
    return teacher.targets(raw)


def answers_of(donor, raw):
    actor = actor_for(donor)
    with torch.no_grad():
        return actor.family.normalized(actor.parameters(donor.policy, raw))


def test_a_teacher_of_vectors_sees_one_key_of_its_students_dict():
    donor, raw = small_ppo(), observe(DICT)
    torch.testing.assert_close(targets_of(donor, student_of(DICT), "state", raw), answers_of(donor, raw["state"]))


def test_a_teacher_of_a_dict_sees_its_students_keys_under_its_own_names():
    theirs, raw = spaces.Dict({"all": VECTOR}), observe(DICT)
    donor = student_of(theirs)
    found = targets_of(donor, student_of(DICT), {"all": "state"}, raw)
    torch.testing.assert_close(found, answers_of(donor, {"all": raw["state"]}))


def test_a_teacher_of_fewer_numbers_sees_those_that_are_named():
    donor, longer = small_ppo(), spaces.Box(-9.0, 9.0, (SIZE + 2,), np.float32)
    raw, places = observe(longer), [*range(1, SIZE + 1)]
    found = targets_of(donor, student_of(longer), places, raw)
    torch.testing.assert_close(found, answers_of(donor, raw[:, 1 : SIZE + 1]))


def test_each_sees_its_part_through_its_own_statistics():
    donor = small_ppo(normalized_env(actions=spaces.Discrete(2)))
    student = student_of(DICT)
    student.set_env(VecNormalize(vec_env(DICT)))
    student.env.obs_rms["state"].mean += 5.0
    raw = observe(DICT)
    seen = torch.as_tensor(donor.env.normalize_obs(raw["state"].numpy().copy()), dtype=torch.float32)
    torch.testing.assert_close(targets_of(donor, student, "state", raw), answers_of(donor, seen))


def test_a_saved_student_keeps_what_its_teacher_sees(tmp_path):
    student, raw = rlsd.distill(student_of(DICT), {"teacher": Frozen(small_ppo(), observations="state")}), observe(DICT)
    student.learn(16)
    student.save(tmp_path / "student")
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "student", env=vec_env(DICT), device="cpu")
    assert torch.equal(loaded.distiller.teacher.targets(raw), student.distiller.teacher.targets(raw))
    assert loaded._distill_config.teacher.observations == "state"


@pytest.mark.parametrize(
    ("space", "view", "said"),
    [
        (DICT, "speed", r"names the key 'speed', and this agent sees the keys \['other', 'state'\]"),
        (VECTOR, "state", "which has no keys"),
        (DICT, [0], r"takes the places \[0\] of a vector"),
        (VECTOR, [0, SIZE], "of a vector, and this agent sees"),
        (DICT, "other", r"both spaces must be the same.*teacher\.observations"),
        (DICT, {"all": "state"}, "both spaces must be the same"),
        (VECTOR, [0], "both spaces must be the same"),
    ],
)
def test_what_does_not_fit_after_the_mapping_is_named_when_the_agent_is_built(space, view, said):
    with pytest.raises(ValueError, match=said) as error:
        rlsd.distill(student_of(space), {"teacher": Frozen(small_ppo(), observations=view)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("view", ["", [], {}, {"a": 1}, [1.5], [True], [-1], 3])
def test_a_view_that_is_none_is_named(view):
    with pytest.raises(ValueError, match=r"teacher\.observations must be a key of the student's observations"):
        Frozen(small_ppo(), observations=view)


def test_a_teacher_with_a_weight_that_is_no_number_is_refused():
    donor = small_ppo()
    with torch.no_grad():
        donor.policy.action_net.bias[0] = torch.nan
    with pytest.raises(ValueError, match="has weights that are not finite"):
        rlsd.distill(small_ppo(), {"teacher": Frozen(donor)})


# The wrapper and the extractor of rlsd_envs, with a student


def hidden_env():
    def env():
        return Privileged(WatchedEnv(VECTOR, spaces.Discrete(2)), hidden=[0])

    return DummyVecEnv([env, env])


@pytest.mark.parametrize("normalized", [False, True])
def test_a_student_is_taught_by_what_it_cannot_see(normalized):
    env = VecNormalize(hidden_env()) if normalized else hidden_env()
    settings = {"policy_kwargs": {"features_extractor_class": StudentExtractor, "net_arch": [8]}}
    donor = small_ppo()
    student = small_ppo(env, "MultiInputPolicy", **settings)
    rlsd.distill(student, {"teacher": Frozen(donor, observations="teacher"), "strength": 1.0})
    student.learn(64)
    stored = student.distiller.states.examples()
    assert stored["teacher"].shape[1] == SIZE and stored["student"].shape[1] == SIZE - 1
    assert torch.equal(student.distiller.teacher.targets(stored), answers_of(donor, stored["teacher"]))
    seen = {"student": np.zeros(SIZE - 1, np.float32), "teacher": np.zeros(SIZE, np.float32)}
    other = seen | {"teacher": np.full(SIZE, 9.0, np.float32)}
    with torch.no_grad():
        first, second = (student.policy.get_distribution(student.policy.obs_to_tensor(o)[0]) for o in (seen, other))
        assert torch.equal(first.distribution.logits, second.distribution.logits), "the student saw it"
    student.policy.predict({"student": seen["student"]})  # where it is used there is no teacher's part


def test_a_recurrent_student_is_taught_by_a_feed_forward_teacher():
    contrib = pytest.importorskip("sb3_contrib")
    settings = {"features_extractor_class": StudentExtractor, "net_arch": [8], "lstm_hidden_size": 4}
    student = contrib.RecurrentPPO(
        "MultiInputLstmPolicy", hidden_env(), n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=settings, seed=0
    )
    rlsd.distill(student, {"teacher": Frozen(small_ppo(), observations="teacher"), "strength": 1.0})
    student.learn(32)
    assert student.distiller.deposits > 0


def test_pixels_for_the_student_and_the_state_for_its_teacher():
    camera = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    space = spaces.Dict({"pixels": camera, "state": VECTOR})
    extractor = {"features_extractor_kwargs": {"hidden": ["state"], "cnn_output_dim": 4}}
    settings = {"features_extractor_class": StudentExtractor, "net_arch": [4], **extractor}
    student = student_of(space, policy_kwargs=settings)
    rlsd.distill(student, {"teacher": Frozen(small_ppo(), observations="state"), "strength": 1.0})
    student.learn(16)
    assert student.distiller.deposits > 0 and [*student.policy.features_extractor.extractors] == ["pixels"]


def test_a_state_beside_pixels_is_what_gymnasium_gives():
    pytest.importorskip("pygame")
    env = gym.wrappers.AddRenderObservation(gym.make("CartPole-v1", render_mode="rgb_array"), render_only=False)
    assert {*env.observation_space.spaces} == {"pixels", "state"}
