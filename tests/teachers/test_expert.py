"""A function or a module teaches: what it may answer, what it sees, and what is refused when the agent is built."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import VECTOR, observe, small_agent, small_ppo, vec_env
from stable_baselines3 import PPO, SAC, TD3
from torch import nn

import rlsd
from rlsd.actors import actor_for
from rlsd.observations import Beside
from rlsd.teachers import Expert

RAW = observe(VECTOR)
BOX = spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0]))
SIZE = VECTOR.shape[0]


def begun(answer, student):
    teacher = answer.build(actor_for(student))
    teacher.begin(student)
    assert teacher.refresh(student) and not teacher.refresh(student), "it never changes"
    return teacher


def upright(observations):
    """A controller: whole numbers, one action each."""
    return (observations[:, 0] > 0).astype(np.int64)


def off_policy(algorithm):
    return algorithm("MlpPolicy", vec_env(action_space=BOX), buffer_size=64, policy_kwargs={"net_arch": [8]}, seed=0)


def test_actions_become_choices_of_a_certainty():
    targets = begun(Expert(upright, certainty=0.9), small_ppo()).targets(RAW).exp()
    chosen = (RAW[:, 0] > 0).long()
    torch.testing.assert_close(targets.gather(1, chosen[:, None]).squeeze(1), torch.full((len(RAW),), 0.9))
    torch.testing.assert_close(targets.sum(-1), torch.ones(len(RAW)))


def test_every_choice_of_several_is_of_that_certainty():
    several = small_ppo(vec_env(action_space=spaces.MultiDiscrete([2, 3])))
    found = begun(Expert(lambda seen: np.full((len(seen), 2), 1), certainty=0.8), several).targets(RAW).exp()
    torch.testing.assert_close(found, torch.tensor([0.2, 0.8, 0.1, 0.8, 0.1]).expand(len(RAW), -1))
    bits = small_ppo(vec_env(action_space=spaces.MultiBinary(2)))
    found = begun(Expert(lambda seen: np.full((len(seen), 2), (0, 1)), certainty=0.8), bits).targets(RAW).sigmoid()
    torch.testing.assert_close(found, torch.tensor([0.2, 0.8]).expand(len(RAW), -1))


def test_parameters_are_taken_as_they_are_and_normalised():
    logits = torch.tensor([1.0, -2.0])
    teacher = begun(Expert(lambda seen: np.tile(logits.numpy(), (len(seen), 1))), small_ppo())
    torch.testing.assert_close(teacher.targets(RAW), logits.log_softmax(-1).expand(len(RAW), -1))


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
def test_continuous_actions_are_on_the_scale_on_which_the_student_acts(algorithm):
    action = np.float32([1.0, 0.25])  # on SB3's scale 0.5 and -0.5
    student = small_ppo(vec_env(action_space=BOX)) if algorithm is PPO else off_policy(algorithm)
    found = begun(Expert(lambda seen: np.tile(action, (len(seen), 1)), noise=0.2), student).targets(RAW)[0]
    mean = {PPO: [1.0, 0.25], SAC: [math.atanh(0.5), math.atanh(-0.5)], TD3: [0.5, -0.5]}[algorithm]
    expected = mean if algorithm is TD3 else [*mean, *[math.log(0.2)] * 2]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_module_is_copied_at_once_and_put_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(SIZE, 2), nn.Dropout(0.5))
    teacher = begun(Expert(module), small_ppo())
    before = teacher.targets(RAW)
    assert module.training and all(p.requires_grad for p in module.parameters()), "the user's own was changed"
    nn.init.zeros_(module[0].weight)
    assert torch.equal(teacher.targets(RAW), before)
    assert not before.requires_grad


def test_it_sees_raw_observations_of_the_keys_it_is_given():
    shown = []
    space = spaces.Dict({"state": VECTOR, "other": spaces.Box(0, 1, (3,))})
    student = PPO("MultiInputPolicy", vec_env(space), n_steps=8, batch_size=4, n_epochs=1, seed=0)
    student = rlsd.distill(
        student, {"teacher": Expert(lambda seen: shown.append(seen) or upright(seen), observations="state")}
    )
    student.learn(32)
    assert student.distiller.deposits > 0
    assert {one.shape[1:] for one in shown} == {VECTOR.shape}


def test_an_agents_masks_hold_for_it_too():
    student = small_agent("MaskablePPO")
    mask = torch.ones(len(RAW), 5, dtype=torch.uint8)
    mask[:, 0] = 0
    targets = begun(Expert(lambda seen: np.zeros((len(seen), 2), int)), student)
    found = targets.targets({Beside("@observation"): RAW, Beside("@mask"): mask}).exp()
    assert torch.all(found[:, 0] == 0) and torch.allclose(found[:, 1], torch.ones(len(RAW)))


def test_a_controller_teaches_cartpole():
    def controller(seen):
        return (seen[:, 2] + 0.3 * seen[:, 3] > 0).astype(int)

    agent = rlsd.SelfDistilled(PPO)(
        *("MlpPolicy", "CartPole-v1"), n_steps=256, learning_rate=3e-3, seed=0, distill={"teacher": Expert(controller)}
    )
    agent.learn(1024)
    assert agent.distiller.figures["distill/agreement"] > 0.8


@pytest.mark.parametrize("name", ["PPO", "SAC", "RecurrentPPO"])
def test_students_of_every_kind_are_taught(name):
    student = small_agent(name)
    size, box = actor_for(student).family.size, isinstance(student.action_space, spaces.Box)
    function = (lambda seen: np.zeros((len(seen), size), np.float32)) if box else upright
    rlsd.distill(student, {"teacher": Expert(function), "strength": 1.0})
    student.learn(64)
    assert student.distiller.deposits > 0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda seen: np.full((len(seen), 2), np.nan), "not finite"),
        (lambda seen: seen["state"], r"fails on 4 observations at once \(IndexError"),
        (lambda seen: np.zeros((len(seen), 3)), r"must return the parameters \(4, 2\) of a Categorical, or 4 actions"),
        (lambda seen: np.zeros(1), r"must return .*got torch.float64 of shape \(1,\)"),
        (lambda seen: np.zeros((len(seen), 2), int), "must return"),
    ],
)
def test_an_answer_that_cannot_teach_is_refused_when_the_agent_is_built(function, said):
    with pytest.raises(ValueError, match=said) as error:
        rlsd.distill(small_ppo(), {"teacher": Expert(function)})
    assert "\n" not in str(error.value)


def test_what_is_no_function_and_what_cannot_be_had_of_one_are_named():
    for wrong in ("expert", {"type": "expert", "function": 3}):
        with pytest.raises(ValueError, match=r"needs a function or a module: rlsd\.Expert\(function\)"):
            rlsd.DistillConfig(teacher=wrong)
    with pytest.raises(ValueError, match=r"gives no values of states: set divergence\.value_weight to 0"):
        rlsd.distill(small_ppo(), {"teacher": Expert(upright), "divergence": {"type": "kl", "value_weight": 1.0}})
    with pytest.raises(ValueError, match="a Q-learner compares values"):
        rlsd.distill(small_agent("DQN"), {"teacher": Expert(upright)})


def test_a_saved_student_goes_on_when_its_function_is_handed_over_again(tmp_path):
    config = rlsd.DistillConfig(teacher=Expert(upright), strength=1.0)
    agent = rlsd.distill(small_ppo(), config)
    agent.learn(16)
    agent.save(tmp_path / "student")
    with pytest.raises(ValueError, match=r"upright, which no file can hold: pass distill=\.\.\. with it again"):
        rlsd.SelfDistilled(PPO).load(tmp_path / "student")
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "student", env=vec_env(), distill=config)
    assert loaded.distiller.deposits == agent.distiller.deposits > 0
    loaded.learn(16)
    assert PPO.load(tmp_path / "student").predict(np.zeros(SIZE, np.float32))[0].shape == ()


def test_a_policy_exported_to_onnx_teaches(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    main = pytest.importorskip("rlsd.cli.main")
    small_ppo("CartPole-v1").save(tmp_path / "agent")
    file = tmp_path / "agent.onnx"
    assert main.main(["export", str(tmp_path / "agent.zip"), "--env", "CartPole-v1", "--trust"]) == 0
    session = runtime.InferenceSession(str(file))
    name = session.get_inputs()[0].name
    student = rlsd.distill(
        small_ppo("CartPole-v1", seed=1), {"teacher": Expert(lambda seen: session.run(None, {name: seen})[0])}
    )
    student.learn(32)
    assert student.distiller.deposits > 0


def test_whatever_has_predict_teaches_in_one_line():
    model = small_ppo()
    found = begun(Expert(lambda seen: model.predict(seen, deterministic=True)[0]), small_ppo(seed=1)).targets(RAW)
    assert torch.equal(found.argmax(-1), torch.as_tensor(model.predict(RAW.numpy(), deterministic=True)[0]))
