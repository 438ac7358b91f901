import numpy as np

from rlsd_envs.scoring import AleScoring, EnvPoolAtariScoring, Scoring

REWARDS = np.array([4.0, -2.0, 0.0])
TERMINATED, TRUNCATED = np.array([True, False, False]), np.array([False, True, False])


def test_usually_training_and_statistics_see_the_same():
    score = Scoring()(REWARDS, TERMINATED, TRUNCATED, {})
    assert score.rewards is score.true_rewards is REWARDS
    assert score.game_over.tolist() == [True, True, False]


def test_ale_is_clipped_for_training_only():
    info = {"game_over": np.array([False, True, False])}
    score = AleScoring(clip=True)(REWARDS, TERMINATED, TRUNCATED, info)
    assert score.rewards.tolist() == [1.0, -1.0, 0.0]
    assert score.true_rewards.tolist() == [4.0, -2.0, 0.0]
    assert score.game_over.tolist() == [False, True, False]
    assert AleScoring(clip=False)(REWARDS, TERMINATED, TRUNCATED, info).rewards.tolist() == [4.0, -2.0, 0.0]


def test_envpool_says_what_is_true_in_its_info():
    info = {"reward": np.array([40.0, -20.0, 0.0]), "terminated": np.array([0, 0, 0])}
    score = EnvPoolAtariScoring()(REWARDS, TERMINATED, TRUNCATED, info)
    assert score.true_rewards.tolist() == [40.0, -20.0, 0.0]
    assert score.game_over.tolist() == [False, True, False], "a lost life is not the end, a time limit is"
