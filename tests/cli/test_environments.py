"""The environments of a run, and what its agent is evaluated in."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from rlsd.cli import environments
from rlsd.cli.options import TrainOptions
from rlsd.cli.plan import plan_new


def planned(tmp_path, *pairs, **options):
    return plan_new(TrainOptions(env="CartPole-v1", hyperparams=pairs, log_folder=str(tmp_path), **options))


def test_evaluation_sees_normalised_observations_and_plain_rewards(tmp_path):
    plan = planned(tmp_path, "normalize:true", "n_envs:2")
    env = environments.training_env(plan)
    env.reset()
    for _ in range(50):
        env.step(np.array([0, 1]))
    evaluation = environments.evaluation_env(plan, 5, env)
    assert isinstance(evaluation, VecNormalize), "it is not normalised"
    assert np.array_equal(evaluation.obs_rms.mean, env.obs_rms.mean), "other statistics"
    evaluation.reset()
    before = evaluation.obs_rms.mean.copy()
    _, rewards, _, _ = evaluation.step(np.ones(plan.options.n_eval_envs, dtype=int))
    assert np.array_equal(rewards, np.ones(plan.options.n_eval_envs)), "rewards are changed"
    assert np.array_equal(evaluation.obs_rms.mean, before), "evaluating changed the statistics"


def test_evaluation_does_not_meet_the_episodes_of_the_training(tmp_path):
    plan = planned(tmp_path, "n_envs:2")
    env = environments.training_env(plan)
    evaluation = environments.evaluation_env(plan, environments.EVALUATION_SEED, env)
    first, other = env.reset(), evaluation.reset()
    assert not np.isclose(first[:, None], other[None]).all(axis=2).any(), "an episode begins as one of the training"


def test_images_are_evaluated_as_they_are_trained_on(tmp_path, monkeypatch):
    import gymnasium as gym

    class Picture(gym.Env):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it
        observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, True, {}

    monkeypatch.setitem(gym.registry, "Picture-v0", gym.envs.registration.EnvSpec("Picture-v0", entry_point=Picture))
    plan = plan_new(TrainOptions(env="Picture-v0", n_envs=1, log_folder=str(tmp_path)))
    assert plan.hyperparams.policy == "CnnPolicy", "policy"
    evaluation = environments.evaluation_env(plan, 0, environments.training_env(plan))
    assert isinstance(evaluation, VecTransposeImage), "SB3 would warn, and could not copy statistics"


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_ctrl_c_works_again_after_the_environments_are_made(tmp_path, kind):
    import signal

    before = signal.getsignal(signal.SIGINT)
    environments.training_env(planned(tmp_path, "n_envs:1", vec_env=kind)).close()
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C stayed switched off"


def test_atari_is_trained_and_evaluated_on_what_shows_four_pictures(tmp_path):
    pytest.importorskip("ale_py", reason="pip install 'rlsd[envs]' brings it")
    plan = plan_new(TrainOptions(env="ALE/Pong-v5", n_envs=2, log_folder=str(tmp_path)))
    assert (plan.options.vec_env, plan.hyperparams.policy) == ("ale", "CnnPolicy")
    assert plan.hyperparams.source == "tuned for atari" and plan.hyperparams.values["n_epochs"] == 4
    env = environments.training_env(plan)
    evaluation = environments.evaluation_env(plan, 0, env)
    assert env.observation_space == evaluation.observation_space and env.observation_space.shape == (4, 84, 84)
    bare = plan_new(TrainOptions(env="ALE/Pong-v5", n_envs=2, vec_env="dummy", log_folder=str(tmp_path)))
    assert environments.training_env(bare).observation_space.shape == (210, 160, 3)
