"""The contract: whatever runs the environments, SB3 must not be able to tell the difference."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from toy_environments import Counter

from rlsd_envs import UnsupportedByBackend, VectorEnvAdapter, make_vec_env

N_ENVS = 3
MODES = list(AutoresetMode)
KINDS = ["box", "dict", "image"]


def adapted(mode=AutoresetMode.SAME_STEP, n_envs=N_ENVS, **kwargs):
    fns = [lambda: Counter(render_mode="rgb_array", **kwargs)] * n_envs
    env = VectorEnvAdapter(SyncVectorEnv(fns, autoreset_mode=mode))
    env.seed(3)
    return env


def reference(n_envs=N_ENVS, **kwargs):
    return sb3_make_vec_env(Counter, n_envs, seed=3, env_kwargs={"render_mode": "rgb_array", **kwargs})


def assert_same(left, right):
    if isinstance(right, dict):
        assert left.keys() == right.keys()
        for key in right:
            assert_same(left[key], right[key])
    else:
        assert np.array_equal(left, right)
        assert np.asarray(left).dtype == np.asarray(right).dtype


def assert_same_run(env, expected, n_steps=60):
    """Step both with the same actions, and compare all that SB3 looks at."""
    assert env.observation_space == expected.observation_space
    assert env.action_space == expected.action_space
    generator = np.random.default_rng(0)
    assert_same(env.reset(), expected.reset())
    assert env.reset_infos == expected.reset_infos
    truncations = 0
    for _ in range(n_steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        actions = generator.permutation(actions)
        observations, rewards, ends, infos = env.step(actions)
        known_observations, known_rewards, known_ends, known_infos = expected.step(actions)
        assert_same(observations, known_observations)
        assert_same(rewards, known_rewards)
        assert_same(ends, known_ends)
        for info, known in zip(infos, known_infos, strict=True):
            truncations += known["TimeLimit.truncated"]
            assert_same_info(info, known)
        assert list(env.reset_infos) == list(expected.reset_infos)
    assert truncations > 0, "the run must have seen a truncated episode"


def assert_same_info(info, known):
    known = dict(known)
    if "episode" in known:
        assert {**info["episode"], "t": 0} == {**known["episode"], "t": 0}
        assert_same(info["terminal_observation"], known["terminal_observation"])
        assert info["TimeLimit.truncated"] is known["TimeLimit.truncated"]
    else:
        assert not info.get("TimeLimit.truncated", False)
        assert "episode" not in info
        assert "terminal_observation" not in info
    assert info["count"] == known["count"], "what the environment itself says"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_every_autoreset_mode_becomes_sb3s(mode, kind):
    assert_same_run(adapted(mode, kind=kind), reference(kind=kind))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_box_actions(mode):
    assert_same_run(adapted(mode, actions="box"), reference(actions="box"))


def test_what_was_returned_is_not_overwritten_by_later_steps():
    env = adapted(kind="dict")
    env.reset()
    kept = [env.step(np.zeros(N_ENVS, np.int64)) for _ in range(8)]
    copies = [(o["vector"].copy(), r.copy(), d.copy()) for o, r, d, _ in kept]
    finals = [
        {i: info["terminal_observation"]["vector"].copy() for i, info in enumerate(s[3]) if s[2][i]} for s in kept
    ]
    for _ in range(8):
        env.step(np.zeros(N_ENVS, np.int64))
    for (observations, rewards, ends, infos), copy, final in zip(kept, copies, finals, strict=True):
        assert np.array_equal(observations["vector"], copy[0])
        assert np.array_equal(rewards, copy[1])
        assert np.array_equal(ends, copy[2])
        for index, vector in final.items():
            assert np.array_equal(infos[index]["terminal_observation"]["vector"], vector)


def test_one_environments_info_never_reaches_another():
    env = VectorEnvAdapter(SyncVectorEnv([Counter] * N_ENVS, autoreset_mode=AutoresetMode.SAME_STEP), step_infos=False)
    env.seed(0)
    env.reset()
    for _ in range(20):
        _, _, ends, infos = env.step(np.ones(N_ENVS, np.int64))
        assert [("episode" in info) for info in infos] == ends.tolist()
        assert all("mine" not in info for info in infos)
        infos[0]["mine"] = True


def test_an_environment_that_ignores_the_mask_is_refused():
    env = VectorEnvAdapter(gym.make_vec("CartPole-v1", 4))  # next-step, and its reset knows no mask
    env.seed(0)
    env.reset()
    env.env.state[0, 2] = 9.0  # only the third pole has fallen
    with pytest.raises(UnsupportedByBackend, match=r"CartPoleVectorEnv ignores .*reset_mask"):
        env.step(np.array([0, 1, 0, 1]))
    env.close()


def test_attributes_and_methods_of_single_environments():
    env = adapted()
    env.reset()
    assert env.get_attr("kind") == ["box"] * N_ENVS
    assert env.get_attr("start", [2, 0]) == [env.reset_infos[2]["start"], env.reset_infos[0]["start"]]
    env.set_attr("bonus", 5.0, indices=[1])
    assert env.get_attr("bonus") == [0.0, 5.0, 0.0]
    env.set_attr("bonus", 1.0)
    assert env.get_attr("bonus") == [1.0] * N_ENVS
    assert env.env_method("shifted", 10) == [start + 10 for start in env.get_attr("start")]
    assert env.env_method("shifted", 10, indices=1) == [env.get_attr("start", 1)[0] + 10]
    assert env.has_attr("kind")
    assert not env.has_attr("no_such_thing")


def test_compiled_environments_say_that_they_have_no_single_ones():
    env = make_vec_env("CartPole-v1", 4, "gymnasium")
    assert not env.has_attr("gravity")
    for access in (
        lambda: env.get_attr("gravity"),
        lambda: env.set_attr("gravity", 1.0),
        lambda: env.env_method("gravity"),
        lambda: env.env_method("gravity", indices=[0]),
    ):
        with pytest.raises(AttributeError, match=r"'gravity' of a single one. Make them with backend='dummy'"):
            access()
    assert env.get_attr("render_mode") == ["rgb_array"] * 4


def test_sb3_finds_its_monitor():
    assert adapted().env_is_wrapped(Monitor) == [True] * N_ENVS
    assert adapted().env_is_wrapped(gym.wrappers.TimeLimit, indices=[0]) == [False]


def test_pictures():
    env = adapted()
    env.reset()
    env.step(np.zeros(N_ENVS, np.int64))
    assert [int(image.max()) for image in env.get_images()] == [1] * N_ENVS
    assert env.render("rgb_array").shape == (16, 16, 3)


def test_seeds_are_used_once_and_repeat_the_run():
    env = adapted()
    starts = []
    for seed in (3, None, 3):
        if seed is not None:
            env.seed(seed)
        env.reset()
        run = []
        for _ in range(30):
            env.step(np.zeros(N_ENVS, np.int64))
            run.append([info["start"] for info in env.reset_infos])
        starts.append(run)
    assert starts[0] == starts[2]
    assert starts[0] != starts[1]


def test_options_must_be_the_same_for_all():
    env = adapted()
    env.set_options([{"a": 1}, {"a": 2}, {"a": 1}])
    with pytest.raises(ValueError, match="same for all"):
        env.reset()


def test_close_may_be_called_twice():
    env = adapted()
    env.close()
    env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_and_frame_stacks_see_the_same(kind):
    keys = ["vector"] if kind == "dict" else None
    for wrap in (
        lambda e: VecNormalize(e, norm_obs_keys=keys, norm_obs=kind != "image"),
        lambda e: VecFrameStack(e, 2),
    ):
        env, expected = wrap(adapted(kind=kind)), wrap(reference(kind=kind))
        assert_same(env.reset(), expected.reset())
        for _ in range(20):
            step, known = env.step(np.ones(N_ENVS, np.int64)), expected.step(np.ones(N_ENVS, np.int64))
            assert_same(step[0], known[0])
            assert_same(step[1], known[1])
            for info, other in zip(step[3], known[3], strict=True):
                if "terminal_observation" in other:
                    assert_same(info["terminal_observation"], other["terminal_observation"])


def parameters(model):
    return [p.detach().numpy().copy() for p in model.policy.parameters()]


@pytest.mark.parametrize("kind", ["box", "dict"])
def test_ppo_learns_the_very_same_policy(kind):
    trained = []
    for env in (adapted(kind=kind), reference(kind=kind)):
        policy = "MlpPolicy" if kind == "box" else "MultiInputPolicy"
        model = PPO(policy, env, n_steps=8, batch_size=12, n_epochs=1, seed=1, device="cpu")
        model.learn(48)
        trained.append(model)
    for mine, theirs in zip(*map(parameters, trained), strict=True):
        assert np.array_equal(mine, theirs)
    assert [e["r"] for e in trained[0].ep_info_buffer] == [e["r"] for e in trained[1].ep_info_buffer]


def test_sac_learns_the_very_same_policy():
    trained = []
    for env in (adapted(actions="box"), reference(actions="box")):
        model = SAC("MlpPolicy", env, learning_starts=30, batch_size=16, seed=1, device="cpu")
        model.learn(60)
        trained.append(model)
    assert np.array_equal(trained[0].replay_buffer.timeouts, trained[1].replay_buffer.timeouts)
    assert trained[0].replay_buffer.timeouts.any()
    for mine, theirs in zip(*map(parameters, trained), strict=True):
        assert np.array_equal(mine, theirs)


def test_evaluation_gives_the_same_returns():
    model = PPO("MlpPolicy", reference(), device="cpu", seed=0)
    results = [
        evaluate_policy(model, env, n_eval_episodes=9, return_episode_rewards=True) for env in (adapted(), reference())
    ]
    assert results[0] == results[1]
