"""Action masks where an agent is evaluated."""

import numpy as np
import pytest
from agents import build, make_env
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rlsd.cli.errors import UserError
from rlsd.cli.masks import check_masks, masked_prediction, takes_masks


def test_a_masked_policy_is_shown_the_masks_of_the_moment_and_another_none():
    masked, plain = build(MaskablePPO), build(PPO)
    assert takes_masks(masked.policy) and not takes_masks(plain.policy)
    assert masked_prediction(plain.policy, plain.env) == {}
    masked.env.reset()
    predict = masked_prediction(masked.policy, masked.env)["predict"]
    for _ in range(20):
        seen = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
        actions, _ = predict(seen)
        allowed = get_action_masks(masked.env)
        assert allowed[np.arange(2), actions].all(), "it took what is forbidden"
        masked.env.step(actions)


def test_an_environment_without_masks_is_refused_and_closed():
    check_masks(make_env(), "Tiny-v0")
    import gymnasium as gym

    env, closed = DummyVecEnv([lambda: gym.make("CartPole-v1")]), []
    env.close = lambda: closed.append(True)
    with pytest.raises(UserError, match=r"CartPole-v1 has no method action_masks\(\)"):
        check_masks(env, "CartPole-v1")
    assert closed
