"""Several teachers as one: by task, by the critic, averaged; and what does not go together."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import VECTOR, disturb, observe, small_agent, small_ppo, vec_env
from stable_baselines3 import PPO, SAC, TD3

import rlsd
from rlsd.actors import actor_for
from rlsd.observations import Observations
from rlsd.teachers import Several, TargetSpec
from rlsd.teachers.several import SeveralTeacher

SIZE = VECTOR.shape[0]
LONGER = spaces.Box(-9.0, 9.0, (SIZE + 1,), np.float32)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
PLACES = [*range(SIZE)]
RAW = observe(VECTOR)


def other_ppo(seed: int, **kwargs: Any) -> PPO:
    agent = small_ppo(**kwargs)
    disturb(agent.policy, seed=seed)
    return agent


def begun(answer: Several, student: Any, **wants: bool) -> SeveralTeacher:
    teacher = answer.build(actor_for(student))
    teacher.wants = TargetSpec(weight=True, **wants)
    teacher.begin(student)
    teacher.refresh(student)
    return teacher


def answers_of(agent: Any, raw: Observations) -> torch.Tensor:
    actor = actor_for(agent)
    with torch.no_grad():
        return actor.family.normalized(actor.parameters(actor.module(agent.policy), raw))


def seen(agent: Any) -> rlsd.Frozen:
    return rlsd.Frozen(agent=agent, observations=PLACES)


@pytest.mark.parametrize("place", ["number", "one of as many", "key"])
def test_each_teaches_in_the_task_whose_number_is_its_own(place: str) -> None:
    first, second = other_ppo(1), other_ppo(2)
    tasks = torch.tensor([0, 1, 1, 0, 2, 1])
    if place == "number":
        student, raw, task = small_ppo(vec_env(LONGER)), torch.cat([RAW, tasks[:, None]], dim=1), SIZE
        members = [seen(first), seen(second)]
    else:
        many = spaces.Box(0.0, 1.0, (3,)) if place == "one of as many" else spaces.Discrete(3)
        numbers = torch.eye(3)[tasks] if place == "one of as many" else tasks[:, None]
        student = small_ppo(vec_env(spaces.Dict({"state": VECTOR, "task": many})), "MultiInputPolicy")
        raw, task = {"state": RAW, "task": numbers}, "task"
        members = [rlsd.Frozen(agent=one, observations="state") for one in (first, second)]
    rows = begun(Several(members, task=task), student).ask(raw)
    one, two = answers_of(first, RAW), answers_of(second, RAW)
    known = tasks < 2
    assert torch.equal(rows[:, -1], known.float()), "a task without a teacher weighs something"
    expected = torch.where(tasks[:, None] == 0, one, two)
    torch.testing.assert_close(rows[known, :-1], expected[known])


def test_a_teacher_left_out_pulls_nowhere_in_its_task() -> None:
    student = small_ppo(vec_env(LONGER))
    raw = torch.cat([RAW, torch.tensor([0.0, 1, 1, 0, 0, 1])[:, None]], dim=1)
    rows = begun(Several([None, seen(other_ppo(2))], task=SIZE), student).ask(raw)
    assert torch.equal(rows[:, -1], raw[:, -1]) and torch.isfinite(rows).all()


def test_states_of_no_task_have_no_gradient() -> None:
    student = small_ppo(vec_env(LONGER))
    config = {"teacher": Several([None, None, seen(other_ppo(2))], task=SIZE), "strength": 1.0}
    losses = []
    rlsd.distill(student, config).distiller.on_penalty.append(lambda batch, loss, _: losses.append((batch.hold, loss)))
    student.learn(16)
    assert losses
    for hold, loss in losses:
        assert bool(loss > 0) == bool((hold > 0).any())


def test_without_a_task_they_teach_their_mixture_by_weights() -> None:
    first, second = other_ppo(1), other_ppo(2)
    student = small_ppo()
    rows = begun(Several([first, second], weights=[3, 1]), student).ask(RAW)
    expected = 0.75 * answers_of(first, RAW).exp() + 0.25 * answers_of(second, RAW).exp()
    torch.testing.assert_close(rows[:, :-1].exp(), expected)
    rows = begun(Several([first, second]), student).ask(RAW)
    torch.testing.assert_close(rows[:, :-1].exp(), (answers_of(first, RAW).exp() + answers_of(second, RAW).exp()) / 2)


def test_agents_with_values_are_led_by_the_teacher_that_expects_most() -> None:
    first, second = other_ppo(1), other_ppo(2)
    rows = begun(Several([first, second], advised=True), small_ppo(), value=True).ask(RAW)
    with torch.no_grad():
        values = torch.stack([agent.policy.predict_values(RAW).squeeze(-1) for agent in (first, second)])
    best = values.argmax(0)
    torch.testing.assert_close(rows[:, -2], values.max(0).values)
    both = torch.stack([answers_of(first, RAW), answers_of(second, RAW)])
    torch.testing.assert_close(rows[:, :-2], both[best, torch.arange(len(RAW))])


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_by_the_students_critic_it_is_pulled_only_where_the_best_betters_it(algorithm: Any) -> None:
    def new(seed: int) -> Any:
        agent = algorithm(
            "MlpPolicy", vec_env(action_space=BOX), buffer_size=64, policy_kwargs={"net_arch": [8]}, seed=seed
        )
        disturb(agent.policy, 0.5, seed)
        return agent

    student, members = new(0), [new(1), new(2)]
    raw = observe(VECTOR, 200)
    rows = begun(Several(members, advised=True), student).ask(raw)

    def expected_of(agent: Any) -> torch.Tensor:
        with torch.no_grad():
            actions = agent.policy._predict(raw, deterministic=True)
            return torch.cat(student.policy.critic(raw, actions), dim=1).min(1).values

    own, each = expected_of(student), torch.stack([expected_of(agent) for agent in members])
    assert torch.equal(rows[:, -1] > 0, each.max(0).values > own)
    assert 0 < rows[:, -1].mean() < 1, "the test cannot tell"
    both = torch.stack([answers_of(agent, raw) for agent in members])
    torch.testing.assert_close(rows[:, :-1], both[each.argmax(0), torch.arange(len(raw))])


@pytest.mark.parametrize("kind", ["task", "advised"])
def test_a_saved_student_goes_on_with_all_of_them(kind: str, tmp_path: Any) -> None:
    if kind == "task":
        student, raw = small_ppo(vec_env(LONGER)), observe(LONGER)
        answer = Several([seen(other_ppo(1)), seen(other_ppo(2))], task=SIZE)
    else:
        settings = {"buffer_size": 64, "policy_kwargs": {"net_arch": [8]}, "learning_starts": 4, "seed": 0}
        made = [TD3("MlpPolicy", vec_env(action_space=BOX), **(settings | {"seed": seed})) for seed in range(3)]
        student, raw, answer = made[0], RAW, Several(made[1:], advised=True, every=8)
    rlsd.distill(student, {"teacher": answer, "strength": 1.0})
    student.learn(32)
    assert student.distiller.deposits > 0
    student.save(tmp_path / "student")
    space = LONGER if kind == "task" else VECTOR
    cls = rlsd.SelfDistilled(PPO if kind == "task" else TD3)
    loaded = cls.load(tmp_path / "student", env=vec_env(space, student.action_space), device="cpu")
    assert torch.equal(loaded.distiller.teacher.ask(raw), student.distiller.teacher.ask(raw))
    loaded.learn(16)


def test_several_schedules_are_several_distillations() -> None:
    student = small_ppo(vec_env(LONGER))
    one, two = (Several([None] * i + [seen(other_ppo(i))], task=SIZE) for i in (0, 1))
    first = {"name": "first", "teacher": one, "strength": rlsd.Schedule(1.0, end=0.0)}
    rlsd.distill(student, [first, {"name": "second", "teacher": two, "strength": 0.5}])
    student.learn(16)
    assert {*student.distiller.members} == {"first", "second"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"teachers": []}, "teacher.teachers must be a list of teachers, got []"),
        ({"teachers": [None]}, "teacher.teachers must be a list of teachers, got [None]"),
        ({"teachers": [3]}, "teacher must be a name, a mapping or an answer, got 3"),
        ({"teachers": [rlsd.Snapshot()]}, "teachers must be other agents"),
        ({"teachers": ["a.zip", "b.zip"], "weights": [1]}, "teacher.weights must have a number for each of 2 teachers"),
        ({"teachers": ["a.zip", "b.zip"], "weights": [1, 0]}, "teacher.weights[1] must be a number > 0, got 0"),
        ({"teachers": ["a.zip"], "weights": [1], "task": 0}, "each choose between teachers: give one of them"),
        ({"teachers": ["a.zip", None]}, "only where teacher.task says which task it is"),
        ({"teachers": ["a.zip"], "task": -1}, "teacher.task must be a key"),
    ],
)
def test_what_does_not_go_together_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Several(**arguments)


@pytest.mark.parametrize(
    ("members", "way", "said"),
    [
        (["PPO", "SAC"], {}, r"teacher 1 of several: .*both spaces must be the same"),
        (["PPO"], {"task": SIZE}, rf"takes the places \[{SIZE}\] of a vector"),
        (["PPO"], {"task": "task"}, "names the key 'task'"),
    ],
)
def test_one_that_does_not_fit_is_named_when_the_agent_is_built(members: list[str], way: Any, said: str) -> None:
    made = [small_agent(name) for name in members]
    with pytest.raises(ValueError, match=said) as error:
        rlsd.distill(small_agent("PPO", seed=1), {"teacher": Several(made, **way)})
    assert "\n" not in str(error.value)


def test_values_of_discrete_actions_are_no_advice() -> None:
    with pytest.raises(ValueError, match="this agent has neither"):
        rlsd.distill(small_agent("DQN"), {"teacher": Several([small_agent("DQN", seed=1)], advised=True)})
