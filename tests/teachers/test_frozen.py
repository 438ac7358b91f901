"""Another trained agent teaches: found, built, checked, and saved with its student."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
import zipfile

import numpy as np
import pytest
import torch
from agents import untouched_generators
from gymnasium import spaces
from helpers import ALGORITHMS, VECTOR, normalized_env, observe, small_agent, small_ppo, vec_env
from stable_baselines3 import PPO
from torch.nn import functional as F

import rlsd
from rlsd.actors import actor_for
from rlsd.observations import Beside, as_items
from rlsd.states import ReservoirStore
from rlsd.teachers import Frozen, TargetSpec

RAW = observe(VECTOR)
BOX = spaces.Box(-1.0, 1.0, (2,))


def begun(answer, student, wants: TargetSpec | None = None):
    teacher = answer.build(actor_for(student))
    teacher.wants = wants or TargetSpec()
    with untouched_generators():
        teacher.begin(student)
        assert teacher.refresh(student)
    assert not teacher.refresh(student), "it never changes"
    return teacher


def answers_of(agent, raw=RAW):
    """What an agent would do on raw states."""
    actor = actor_for(agent)
    env = agent.get_vec_normalize_env()
    shown = raw if env is None else torch.as_tensor(env.normalize_obs(raw.numpy().copy()), dtype=torch.float32)
    agent.policy.set_training_mode(False)
    with torch.no_grad():
        return actor.family.normalized(actor.parameters(actor.module(agent.policy), shown))


def masked(raw=RAW, n: int = 5):
    return {Beside("@observation"): raw, Beside("@mask"): torch.ones(len(raw), n, dtype=torch.uint8)}


@pytest.mark.parametrize("door", ["path", "agent"])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "RecurrentPPO"])
def test_the_teacher_answers_as_the_agent_it_came_from(name, door, tmp_path):
    donor, student = small_agent(name), small_agent(name, seed=1)
    donor.save(tmp_path / "donor")
    teacher = begun(Frozen(str(tmp_path / "donor")) if door == "path" else Frozen(agent=donor), student)
    raw = masked() if name == "MaskablePPO" else RAW
    actor = actor_for(donor)
    donor.policy.set_training_mode(False)
    with torch.no_grad():
        expected = actor.family.normalized(actor.parameters(actor.module(donor.policy), raw))
    torch.testing.assert_close(teacher.targets(raw), expected)


def test_a_teacher_may_be_larger_and_of_another_algorithm(tmp_path):
    donor = small_agent("A2C", vec_env(), policy_kwargs={"net_arch": [32, 32, 16]})
    student = small_ppo(seed=1)
    torch.testing.assert_close(begun(Frozen(agent=donor), student).targets(RAW), answers_of(donor))


def test_a_live_agent_is_copied_when_the_answer_is_made():
    donor = small_ppo()
    expected, answer = answers_of(donor), Frozen(agent=donor)
    donor.learn(16)
    torch.testing.assert_close(begun(answer, small_ppo(seed=1)).targets(RAW), expected)


def test_a_q_learner_teaches_probabilities_at_a_temperature_of_its_values_spread():
    donor, student = small_agent("DQN"), small_agent("PPO")
    teacher = begun(Frozen(agent=donor), student)
    store = ReservoirStore(600, 8, np.random.SeedSequence(0), torch.device("cpu"))
    seen = observe(VECTOR, 600)
    store.add(as_items(seen.numpy()))
    teacher.prepare(store)
    sampled = answers_of(donor, seen[::2][:256])
    tau = float(sampled.std(dim=-1, correction=0).mean())
    torch.testing.assert_close(teacher.targets(RAW), F.log_softmax(answers_of(donor) / tau, dim=-1))
    teacher.prepare(store)
    assert teacher.tau == pytest.approx(tau)


def test_a_teacher_without_masks_obeys_its_students():
    donor = small_agent("PPO", vec_env(action_space=spaces.MultiDiscrete([2, 3])))
    student = small_agent("MaskablePPO")
    states = masked()
    states[Beside("@mask")][:, 0] = 0
    states[Beside("@mask")][:, 3] = 0
    target = begun(Frozen(agent=donor), student).targets(states).exp()
    assert torch.all(target[:, [0, 3]] == 0)
    torch.testing.assert_close(target[:, 1], torch.ones(6))
    torch.testing.assert_close(target[:, 2:].sum(-1), torch.ones(6))


def test_a_teacher_with_masks_teaches_a_student_without_any():
    donor = small_agent("MaskablePPO")
    student = small_agent("PPO", vec_env(action_space=spaces.MultiDiscrete([2, 3])))
    torch.testing.assert_close(begun(Frozen(agent=donor), student).targets(RAW).exp().sum(-1), torch.full((6,), 2.0))


def test_its_values_are_given_where_they_are_wanted():
    donor = small_ppo()
    teacher = begun(Frozen(agent=donor), small_ppo(seed=1), TargetSpec(value=True))
    with torch.no_grad():
        torch.testing.assert_close(teacher.rows(RAW)[:, -1], donor.policy.predict_values(RAW).squeeze(-1))
    with pytest.raises(ValueError, match="gives no values of states"):
        begun(Frozen(agent=small_agent("DQN")), small_agent("PPO"), TargetSpec(value=True))


# Its own statistics


@pytest.mark.parametrize("where", ["beside", "in the folder of its name", "best", "named"])
def test_it_sees_raw_states_through_the_statistics_found_with_it(where, tmp_path):
    env = normalized_env(actions=BOX)
    donor = small_ppo(env)
    file = tmp_path / ("best_model.zip" if where == "best" else "Env-v0.zip")
    donor.save(file)
    place = {
        "beside": tmp_path / "vecnormalize.pkl",
        "in the folder of its name": tmp_path / "Env-v0" / "vecnormalize.pkl",
        "best": tmp_path / "Env-v0" / "best_vecnormalize.pkl",
        "named": tmp_path / "elsewhere.pkl",
    }[where]
    place.parent.mkdir(exist_ok=True)
    env.save(str(place))
    answer = Frozen(str(file), vecnormalize=str(place) if where == "named" else "")
    student = small_ppo(vec_env(action_space=BOX), seed=1)
    torch.testing.assert_close(begun(answer, student).targets(RAW), answers_of(donor))


def test_a_live_teachers_statistics_go_with_it():
    donor = small_ppo(normalized_env(actions=BOX))
    expected, answer = answers_of(donor), Frozen(agent=donor)
    donor.env.obs_rms.mean += 1.0
    torch.testing.assert_close(begun(answer, small_ppo(vec_env(action_space=BOX))).targets(RAW), expected)


# Refused


def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path):
    student = small_ppo()
    small_ppo().save(tmp_path / "agent")
    (tmp_path / "half.zip").write_bytes((tmp_path / "agent.zip").read_bytes()[:3000])
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("data", "{}")
    for name in ("half", "text", "empty"):
        with pytest.raises(ValueError, match=rf"teacher\.path: .*{name}\.zip is damaged or no agent of SB3") as caught:
            rlsd.distill(student, {"teacher": {"type": "frozen", "path": str(tmp_path / name)}})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"teacher\.path: there is no file '.*nowhere'"):
        rlsd.distill(student, {"teacher": Frozen(str(tmp_path / "nowhere"))})
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1]))
    for name, said in (("none", "there is no file"), ("other", "holds a list, no VecNormalize"), ("text", "damaged")):
        file = tmp_path / ("text.zip" if name == "text" else f"{name}.pkl")
        with pytest.raises(ValueError, match=rf"teacher\.vecnormalize: .*{said}"):
            rlsd.distill(student, {"teacher": Frozen(str(tmp_path / "agent"), vecnormalize=str(file))})
    assert type(student) is PPO, "a refused agent is as it was"


@pytest.mark.parametrize(
    ("donor", "student", "said"),
    [
        (lambda: small_ppo(vec_env(action_space=BOX)), small_ppo, "both spaces must be the same"),
        (lambda: small_ppo(vec_env(spaces.Box(-1, 1, (4,)))), small_ppo, "sees Box.*both spaces must be the same"),
        (lambda: small_agent("SAC"), lambda: small_agent("A2C"), "only one of the two squashes its actions"),
        (lambda: small_agent("TD3"), lambda: small_agent("SAC"), "it acts by Point of 2, the agent by Gaussian of 4"),
        (lambda: small_agent("PPO"), lambda: small_agent("DQN"), "acts by Categorical of 3, the agent by QValues of 3"),
        (lambda: small_agent("PPO"), lambda: small_agent("DQN"), "Use one trained by DQN"),
        (lambda: small_agent("RecurrentPPO"), lambda: small_agent("PPO"), "its memory of an episode"),
        (lambda: small_agent("RecurrentPPO"), lambda: small_agent("RecurrentPPO"), "Use one trained by PPO"),
    ],
)
def test_an_agent_that_cannot_teach_this_one_is_refused(donor, student, said):
    with pytest.raises(ValueError, match=said):
        rlsd.distill(student(), {"teacher": Frozen(agent=donor())})


@pytest.mark.parametrize("wrong", ["frozen", {"type": "frozen"}, {"type": "frozen", "path": ""}])
def test_a_bare_name_says_what_to_pass(wrong):
    with pytest.raises(ValueError, match=r'needs a trained agent.*rlsd\.Frozen\("teacher\.zip"\)'):
        rlsd.DistillConfig(teacher=wrong)
    with pytest.raises(ValueError, match=r"teacher\.agent must be an SB3 agent, got 3"):
        Frozen(agent=3)
    with pytest.raises(ValueError, match=r"teacher\.path must be a path, got 3"):
        Frozen(3)


# Saved


@pytest.mark.parametrize("door", ["path", "agent"])
def test_a_saved_student_goes_on_without_its_teachers_file(door, tmp_path):
    donor = small_ppo(normalized_env(actions=BOX), policy_kwargs={"net_arch": [20]})
    donor.save(tmp_path / "donor")
    donor.env.save(str(tmp_path / "vecnormalize.pkl"))
    answer = Frozen(str(tmp_path / "donor")) if door == "path" else Frozen(agent=donor)
    student = rlsd.distill(small_ppo(vec_env(action_space=BOX)), {"teacher": answer})
    student.learn(16)
    student.save(tmp_path / "student")
    for file in ("donor.zip", "vecnormalize.pkl"):
        (tmp_path / file).unlink()
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "student", env=vec_env(action_space=BOX), device="cpu")
    assert torch.equal(loaded.distiller.teacher.targets(RAW), student.distiller.teacher.targets(RAW))
    torch.testing.assert_close(loaded.distiller.teacher.targets(RAW), answers_of(donor))
    deposits = loaded.distiller.deposits
    loaded.learn(16)
    assert loaded.distiller.deposits > deposits
    loaded.save(tmp_path / "again")


def test_a_config_with_a_live_agent_names_it_and_cannot_be_used_from_a_file():
    answer = Frozen(agent=small_ppo())
    config = rlsd.DistillConfig(teacher=answer)
    again = rlsd.DistillConfig.from_json(config.to_json())
    assert again.teacher.agent == answer.agent.name
    assert answer == Frozen(agent=small_ppo()) != Frozen(agent=small_ppo(seed=1))
    assert json.loads(config.to_json())["teacher"]["agent"].startswith("PPO ")
    with pytest.raises(ValueError, match=r"was an agent in memory, PPO .*: pass rlsd\.Frozen\(agent=\.\.\.\)"):
        rlsd.distill(small_ppo(), again)


def test_nothing_of_the_live_teacher_is_kept():
    donor = small_ppo()
    student = rlsd.distill(small_ppo(seed=1), {"teacher": Frozen(agent=donor)})
    known = weakref.ref(donor)
    del donor
    gc.collect()
    assert known() is None
    student.learn(16)
