"""One agent that does what several do."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, build, copied, differences, distilled, generators, training_state
from gymnasium import spaces
from helpers import disturb
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd

FEW: dict[str, Any] = {"states": 40, "steps": 8, "batch_size": 8, "rounds": 2}


class Task(gym.Env[Any, Any]):
    """Random numbers, after them the number of the task."""

    observation_space: Any = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space: Any = spaces.Discrete(3)

    def __init__(self, number: float) -> None:
        self._number, self._steps = number, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self._seen(), 1.0, False, self._steps >= 10, {}

    def _seen(self) -> Any:
        return np.append(self.np_random.uniform(-1, 1, 2), self._number).astype(np.float32)


def task(number: float) -> DummyVecEnv:
    return DummyVecEnv([lambda: Task(number)] * 2)


def teacher(number: float, algorithm: Any = PPO, normalized: bool = False) -> Any:
    env: Any = VecNormalize(task(number)) if normalized else task(number)
    agent = build(algorithm, env=env, seed=int(10 + number)).learn(ROLLOUT)
    disturb(agent.policy, 0.5)
    return agent


def apart(agent: Any, student: Any, number: float, of_teacher: Any = lambda seen: seen) -> float:
    """The KL from the student to a teacher, over states of a task as the student sees them."""
    states = torch.rand(400, 3) * 2 - 1
    states[:, 2] = number
    shown = of_teacher(states)
    normalizer = agent.get_vec_normalize_env()
    if normalizer is not None:
        shown = torch.as_tensor(normalizer.normalize_obs(shown.numpy()))
    with torch.no_grad():
        p = agent.policy.get_distribution(shown).distribution
        q = student.policy.get_distribution(states).distribution
    return float(torch.distributions.kl_divergence(p, q).mean())


LONGER: dict[str, Any] = {"states": 400, "steps": 300, "learning_rate": 0.02, "batch_size": 64, "rounds": 2}


def test_the_student_does_in_each_task_what_its_teacher_does() -> None:
    agents = [teacher(-1.0, A2C), teacher(1.0, normalized=True)]
    before = [copied(training_state(agent)) for agent in agents]
    student = rlsd.merge(agents, {"net_arch": [16]}, **LONGER)
    assert not differences(before, [training_state(agent) for agent in agents]), "a teacher has changed"
    assert type(student) is A2C
    assert student.get_env() is None
    for agent, number in zip(agents, (-1.0, 1.0), strict=True):
        assert apart(agent, student, number) < 0.03
    assert apart(agents[0], student, 1.0) > 0.2, "the teachers do the same, so this shows nothing"


def test_a_weight_of_0_leaves_a_teacher_out() -> None:
    agents = [teacher(1.0), teacher(1.0)]
    disturb(agents[1].policy, 1.0)
    student = rlsd.merge(agents, weights=[0, 2], **LONGER)
    assert apart(agents[1], student, 1.0) < 0.03 < 0.2 < apart(agents[0], student, 1.0)


class Pair(Task):
    """A task whose observation is a Dict."""

    observation_space = spaces.Dict({"two": spaces.Box(-1, 1, (2,), np.float32), "task": spaces.Box(-1, 1, (1,))})

    def _seen(self) -> Any:
        seen = super()._seen()
        return {"two": seen[:2], "task": seen[2:]}


class Two(Task):
    """A task that shows no number."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def _seen(self) -> Any:
        return super()._seen()[:2]


def test_each_teacher_may_see_a_part_of_what_the_student_sees() -> None:
    blind = build(PPO, env=VecNormalize(DummyVecEnv([lambda: Two(0.0)] * 2))).learn(ROLLOUT)
    disturb(blind.policy, 0.5)
    seeing, student = teacher(1.0), build(PPO, env=task(0.0))
    of_blind = lambda seen: seen[:, :2]  # noqa: E731
    merged = rlsd.merge(
        [blind, seeing], student, observations=[of_blind, None], envs=[task(-1.0), None], seed=1, **LONGER
    )
    assert merged is student
    assert apart(blind, student, -1.0, of_blind) < 0.03 < 0.2 < apart(blind, student, 1.0, of_blind)
    assert apart(seeing, student, 1.0) < 0.03


@pytest.mark.parametrize("keys", ["two", ["task", "two"]])
def test_a_teacher_may_see_a_key_or_some_keys_of_a_dict(keys: Any) -> None:
    own = Two if isinstance(keys, str) else Pair
    kind = "MlpPolicy" if isinstance(keys, str) else "MultiInputPolicy"
    agent = PPO(kind, DummyVecEnv([lambda: own(0.0)]), n_steps=8, batch_size=8, device="cpu").learn(8)
    pairs = DummyVecEnv([lambda: Pair(1.0)])
    student = PPO("MultiInputPolicy", pairs, n_steps=8, batch_size=8, device="cpu")
    before = copied(dict(student.policy.state_dict()))
    rlsd.merge([agent], student, observations=[keys], envs=[pairs], **FEW)
    assert differences(before, dict(student.policy.state_dict()))


@pytest.mark.parametrize(
    ("name", "kind"), [("DQN", "discrete"), ("SAC", "box"), ("MaskablePPO", "multidiscrete"), ("ARS", "box")]
)
def test_a_merged_agent_is_one_of_plain_sb3_that_trains_on(name: str, kind: str) -> None:
    cls = ALL_ALGORITHMS[name]
    steps = ROLLOUT * (20 if name == "ARS" else 2)
    agents = [distilled(cls, kind).learn(steps), build(cls, kind).learn(steps)]
    student = rlsd.merge(agents, {"net_arch": [4]}, **FEW)
    student.set_env(agents[1].get_env())
    start = copied(dict(student.policy.state_dict()))
    student.learn(steps)
    assert type(student) is cls
    assert differences(start, dict(student.policy.state_dict()))


def test_given_states_need_no_environment_and_the_same_seed_gives_the_same_student() -> None:
    agents = [teacher(-1.0), teacher(1.0)]
    for agent in agents:
        agent.env = None
    states = [np.random.default_rng(seed).uniform(-1, 1, (50, 3)) for seed in (0, 1)]
    before = generators()
    one, again, other = (rlsd.merge(agents, states=states, steps=8, seed=seed) for seed in (0, 0, 1))
    assert not differences(before, generators())
    assert not differences(dict(one.policy.state_dict()), dict(again.policy.state_dict()))
    assert differences(dict(one.policy.state_dict()), dict(other.policy.state_dict()))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no agents": ({"agents": []}, "merge takes a list of SB3 agents"),
    "no agent": ({"agents": ["a.zip"]}, r"agents\[0\] must be an SB3 agent, got 'a.zip'"),
    "weights": ({"weights": [1.0]}, "weights must be a list with one for each of 2 agents, got 1"),
    "negative": ({"weights": [1.0, -1.0]}, r"weights\[1\] must be"),
    "nothing": ({"weights": [0, 0]}, "weights must not all be 0"),
    "views": ({"observations": ["two", None]}, "give the student as an SB3 agent"),
    "space": ({"envs": [None, DummyVecEnv([lambda: Two(0.0)])]}, r"environment of agents\[1\] shows .* student sees"),
    "states": ({"states": [np.zeros((5, 2)), np.zeros((5, 3))]}, r"states must be numbers of shape \(n, 3\)"),
    "steps": ({"steps": 0}, "steps must be"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_merged_is_refused_in_one_line(case: str) -> None:
    given, said = REFUSED[case]
    given = {"agents": [build(PPO, env=task(0.0)), build(PPO, env=task(1.0))]} | FEW | given
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        rlsd.merge(**given)
    assert "\n" not in str(caught.value)


def test_agents_that_act_otherwise_are_named() -> None:
    with pytest.raises(ValueError, match=re.escape("agents[1] acts otherwise than the student: SAC in Box")):
        rlsd.merge([build(PPO, "box"), build(SAC, "box")], **FEW)
    with pytest.raises(TypeError, match=r"agents\[0\] is a RecurrentPPO"):
        rlsd.merge([build(ALL_ALGORITHMS["RecurrentPPO"])], **FEW)
    agent = build(PPO)
    agent.env = None
    with pytest.raises(ValueError, match=r"agents\[0\] needs an environment to act in, but it has none: pass envs="):
        rlsd.merge([agent], **FEW)
