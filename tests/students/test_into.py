"""An agent is taught offline, by other agents, functions and data sets, and says how it went."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, build, copied, differences, make_env, untouched_generators
from gymnasium import spaces
from helpers import VECTOR, disturb, normalized_env, small_ppo, vec_env
from stable_baselines3 import DQN, PPO, SAC

import rlsd
from rlsd import distill_into

SMALL: dict[str, Any] = {"states": 40, "steps": 8, "rounds": 2, "batch_size": 8}
SIZE = VECTOR.shape[0]
OBSERVATIONS = np.random.default_rng(0).uniform(-1.0, 1.0, (400, SIZE)).astype(np.float32)
ACTIONS = (OBSERVATIONS[:, 0] > 0).astype(np.int64)


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}


def follows(agent: Any) -> float:
    """The share of observations on which an agent does as the data set."""
    return float((agent.predict(OBSERVATIONS, deterministic=True)[0] == ACTIONS).mean())


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO", "SAC", "TD3", "DQN", "ARS"])
def test_a_student_of_every_kind_is_taught_in_place_and_trains_on(name: str) -> None:
    kind = "box" if name in ("SAC", "TD3") else "discrete"
    teacher, student = (build(ALL_ALGORITHMS[name], kind, seed=seed) for seed in (1, 2))
    before, theirs = weights(student), weights(teacher)
    with untouched_generators():
        found = distill_into(student, teacher, **SMALL)
    assert differences(before, weights(student)), "nothing was learned"
    assert not differences(theirs, weights(teacher)), "the teacher changed"
    assert (found.steps, found.mean_return) == (8, None) and found.states >= 40 and student.num_timesteps == 0
    student.learn(32)


def test_a_student_does_what_its_teacher_does_and_so_says_the_report() -> None:
    teacher, student = small_ppo(), small_ppo(seed=1)
    disturb(teacher.policy)
    found = distill_into(student, teacher, states=OBSERVATIONS, steps=300, batch_size=64, learning_rate=1e-2)
    assert found.agreement > 0.9 and 0.0 <= found.kl < 0.2
    both = [agent.predict(OBSERVATIONS, deterministic=True)[0] for agent in (teacher, student)]
    assert np.mean(both[0] == both[1]) > 0.9


def test_teacher_and_student_each_see_by_their_own_statistics() -> None:
    box = spaces.Box(-1.0, 1.0, (2,))
    teacher, student = small_ppo(normalized_env(actions=box)), small_ppo(vec_env(action_space=box), seed=1)
    disturb(teacher.policy, 0.3)
    distill_into(student, teacher, states=OBSERVATIONS, steps=500, batch_size=64, learning_rate=1e-2)
    wanted = teacher.predict(teacher.env.normalize_obs(OBSERVATIONS.copy()), deterministic=True)[0]
    found = student.predict(OBSERVATIONS, deterministic=True)[0]
    assert np.abs(found - wanted).mean() < 0.25 * np.abs(wanted - wanted.mean(0)).mean()


@pytest.mark.parametrize("given", ["agent of another kind", "path", "function", "answer"])
def test_teachers_may_be_of_another_kind(given: str, tmp_path: Any) -> None:
    donor = small_ppo(policy_kwargs={"net_arch": [4]})
    donor.save(tmp_path / "donor")
    teacher = {
        "agent of another kind": DQN("MlpPolicy", vec_env(), buffer_size=64, policy_kwargs={"net_arch": [4]}),
        "path": tmp_path / "donor",
        "function": lambda seen: (seen[:, 0] > 0).astype(int),
        "answer": rlsd.Frozen(agent=donor),
    }[given]
    student = small_ppo(seed=1)
    value_net = student.policy.value_net.weight.clone()
    distill_into(student, teacher, **SMALL)
    assert torch.equal(value_net, student.policy.value_net.weight), "a critic of another kind was imitated"


def test_no_environment_steps_but_those_asked_for() -> None:
    env = make_env()
    student, steps = build(PPO), []
    student.set_env(env)
    taken = env.step_wait
    env.step_wait = lambda: steps.append(1) or taken()  # type: ignore[assignment]
    distill_into(student, build(PPO, seed=1), states=OBSERVATIONS[:, :3], steps=4)
    assert not steps
    found = distill_into(student, build(PPO, seed=1), states=OBSERVATIONS[:, :3], steps=4, episodes=2, env=env)
    assert steps and found.mean_return is not None


def test_learning_ends_early_where_nothing_is_gained() -> None:
    student = small_ppo()
    found = distill_into(student, copied(student), states=OBSERVATIONS, steps=200, patience=2, learning_rate=1e-6)
    assert found.steps < 200


@pytest.mark.parametrize("kind", ["pair", "transitions", "trajectories", "minari", "episodes"])
def test_a_data_set_is_cloned_whatever_its_layout(kind: str) -> None:
    halves = [(OBSERVATIONS[:200], ACTIONS[:200]), (OBSERVATIONS[200:], ACTIONS[200:])]
    longer = [(np.concatenate([seen, seen[:1]]), acts) for seen, acts in halves]  # one observation more than actions
    minari = [SimpleNamespace(observations=seen, actions=acts) for seen, acts in longer]
    data: Any = {
        "pair": (OBSERVATIONS, ACTIONS),
        "transitions": SimpleNamespace(obs=OBSERVATIONS, acts=ACTIONS),
        "trajectories": [SimpleNamespace(obs=seen, acts=acts) for seen, acts in longer],
        "minari": SimpleNamespace(iterate_episodes=lambda: iter(minari)),
        "episodes": minari,
    }[kind]
    student = small_ppo()
    student.env = None
    found = distill_into(student, states=data, steps=200, batch_size=64, learning_rate=1e-2)
    assert follows(student) > 0.9 and found.states == len(ACTIONS)


def test_continuous_actions_are_cloned_in_the_environments_units() -> None:
    space = spaces.Box(np.float32([-2.0]), np.float32([4.0]))
    settings = {"buffer_size": 64, "policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    student = SAC("MlpPolicy", vec_env(action_space=space), **settings)
    actions = 1.0 + 2.0 * OBSERVATIONS[:, :1]
    distill_into(student, states=(OBSERVATIONS, actions), steps=300, learning_rate=1e-2, divergence={"type": "mse"})
    assert np.abs(student.predict(OBSERVATIONS, deterministic=True)[0] - actions).mean() < 0.4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"needs a teacher, or states with actions and no teacher"),
        ({"teachers": build, "states": (OBSERVATIONS, ACTIONS)}, "and no teacher"),
        ({"states": (OBSERVATIONS, ACTIONS[:9])}, r"as many observations as actions, got \[400\] and int64 of shape"),
        ({"states": (OBSERVATIONS, np.array(["a"] * 400))}, "as many observations as actions, got"),
        ({"states": (OBSERVATIONS, np.zeros((400, 2)))}, r"the data set must return .* or 8 actions|the data set must"),
        ({"teachers": "snapshot.zip"}, "there is no file"),
        ({"teachers": rlsd.Snapshot()}, "teachers must be other agents, paths, functions or answers such as Frozen"),
        ({"teachers": lambda seen: seen * np.nan}, "must return|not finite"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"patience": -1}, "patience must be"),
        ({"divergence": "no"}, "unknown divergence"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        distill_into(small_ppo(), **arguments)
    assert "\n" not in str(error.value)


def test_what_cannot_be_taught_offline_is_named() -> None:
    with pytest.raises(TypeError, match="takes an SB3 agent as the student, got 3"):
        distill_into(3, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a RecurrentPPO cannot be taught offline"):
        distill_into(build(ALL_ALGORITHMS["RecurrentPPO"], "box"), small_ppo())
    other = build(DQN)
    with pytest.raises(ValueError, match=re.escape("both spaces must be the same")):
        distill_into(small_ppo(vec_env(spaces.Box(-1, 1, (9,)))), other, states=OBSERVATIONS)
