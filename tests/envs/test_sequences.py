import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from rlsd_envs import Offsets, TaskSequence, make_vec_env

TASKS = [{}, {"flipped": True}, {"gravity": 20.0}]


def test_both_are_environments_as_sb3_wants_them():
    check_env(TaskSequence("CartPole-v1", TASKS), warn=False)
    check_env(TaskSequence("Pendulum-v1", [{}, {"flipped": True}], visible=False), warn=False)
    check_env(Offsets(gym.make("CartPole-v1")), warn=False)
    for task, kwargs in (
        ("rlsd_envs/Sequence-v1", {"tasks": TASKS}),
        ("rlsd_envs/Offsets-v1", {"env_id": "Acrobot-v1"}),
    ):
        env = make_vec_env(task, n_envs=2, seed=0, env_kwargs=kwargs)
        env.reset()
        env.step(np.zeros(2, int))
        env.close()


def test_each_task_is_its_variant_and_the_next_begins_with_an_episode_after_its_steps():
    env = TaskSequence("CartPole-v1", TASKS, steps=40)
    plain = [gym.make("CartPole-v1").unwrapped for _ in TASKS]
    plain[2].gravity = 20.0
    met, episodes = [], 0
    observation, _ = env.reset(seed=5)
    for taken in range(1, 300):
        task = env.task
        assert observation[-3:].tolist() == [float(task == number) for number in range(3)], "the task is not told"
        twin = plain[task]
        twin.reset()
        twin.state = np.array(env._envs[task].unwrapped.state)
        action = taken % 3 % 2
        expected = twin.step(1 - action if task == 1 else action)[0]
        observation, _, terminated, truncated, _ = env.step(action)
        assert observation[:-3] == pytest.approx(expected), f"task {task} is another"
        assert env.task == task, "it changed within an episode"
        if terminated or truncated:
            episodes += 1
            observation, _ = env.reset()
            assert env.task == taken // 40 % 3, "the next task did not begin in its time"
        met.append(env.task)
    assert [task for task, before in zip(met, [None, *met[:-1]], strict=True) if task != before][:4] == [0, 1, 2, 0]
    assert episodes > 6


def test_an_evaluation_stays_at_its_task():
    env = TaskSequence("CartPole-v1", TASKS, steps=0, start=2)
    for seed in range(3):
        env.reset(seed=seed)
        while not env.step(0)[2]:
            assert env.task == 2


def test_levels_add_a_constant_the_first_none_and_all_copies_the_same():
    one, other = (Offsets(gym.make("CartPole-v1"), steps=50, levels=3, seed=7) for _ in range(2))
    seen = {}
    observation, _ = one.reset(seed=0)
    for _ in range(260):
        raw = np.array(one.unwrapped.state, np.float32)
        seen.setdefault(one.level, []).append(observation - raw)
        observation, _, terminated, truncated, _ = one.step(one.taken % 2)
        if terminated or truncated:
            observation, _ = one.reset()
    assert sorted(seen) == [0, 1, 2], "the last level stays"
    offsets = [np.array(some) for some in seen.values()]
    assert all(np.allclose(some, some[0], atol=1e-5) for some in offsets), "an offset is not constant"
    assert np.allclose(offsets[0], 0.0) and not np.allclose(offsets[1][0], offsets[2][0], atol=0.1)
    assert all(np.array_equal(a, b) for a, b in zip(one._offsets, other._offsets, strict=True))
    drawn = Offsets(gym.make("CartPole-v1"), levels=400, scale=2.0)._offsets[1:]
    assert np.std(drawn) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TaskSequence(tasks=[]), "tasks must be a list"),
        (lambda: TaskSequence(start=2), "number start=2"),
        (lambda: TaskSequence(tasks=[{"gravty": 3}]), "CartPole-v1 has no attribute 'gravty'"),
        (lambda: TaskSequence("FrozenLake-v1", [{}]), "observations must be vectors"),
        (lambda: Offsets(gym.make("FrozenLake-v1")), "observations must be vectors"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(make, said):
    with pytest.raises(ValueError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)
