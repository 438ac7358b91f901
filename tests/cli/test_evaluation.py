"""Evaluation during training, and at the end."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C

import rlsd.cli.evaluation
from rlsd.cli.environments import evaluation_env, training_env
from rlsd.cli.evaluation import Evaluation, evaluate
from rlsd.cli.options import TrainOptions
from rlsd.cli.plan import plan_new
from rlsd.cli.runfolder import RunFolder
from rlsd_envs import make_vec_env


@pytest.fixture
def parts(tmp_path):
    plan = plan_new(TrainOptions(env="CartPole-v1", algo="a2c", n_envs=4, log_folder=str(tmp_path)))
    env = training_env(plan)
    agent = A2C("MlpPolicy", env, seed=0, device="cpu")
    return plan, agent, RunFolder.create(tmp_path, "a2c", "CartPole-v1")


def evaluation(parts, announce=lambda step, mean: None):
    plan, agent, folder = parts
    return Evaluation(evaluation_env(plan, 7, agent.get_env()), folder, 200, 2, seed=7, announce=announce)


def stored(folder):
    with np.load(folder.evaluations) as found:
        return {key: found[key].tolist() for key in found.files}


def test_evaluations_of_a_run_in_two_parts_are_those_of_a_run_in_one(parts, tmp_path):
    _, agent, folder = parts
    agent.learn(400, callback=evaluation(parts))
    second = evaluation(parts)
    agent.learn(400, callback=second, reset_num_timesteps=False)
    found = stored(folder)
    assert found["timesteps"] == [200, 400, 600, 800], "evaluations are missing or at other steps"
    assert second.best_mean_reward == max(np.mean(found["results"], axis=1)), "the best so far was forgotten"


def test_an_evaluation_depends_on_the_step_and_not_on_what_came_before(parts):
    _, agent, _ = parts
    seen = []
    agent.learn(400, callback=evaluation(parts, lambda step, mean: seen.append((step, mean))))
    once = list(seen)
    assert [step for step, _ in once] == [200, 400], "steps"
    fresh = evaluation(parts)
    fresh.eval_env.seed(7 + 400)
    again = evaluate(agent, fresh.eval_env, 2)
    assert again.mean == once[-1][1], "the same agent at the same step scored differently"


def test_what_was_evaluated_after_the_checkpoint_is_evaluated_anew(parts):
    _, agent, folder = parts
    agent.learn(600, callback=evaluation(parts))
    agent.num_timesteps = 300  # as if the run had been killed at 600, with its last checkpoint at 300
    agent.learn(300, callback=evaluation(parts), reset_num_timesteps=False)
    assert stored(folder)["timesteps"] == [200, 400, 600], "steps are there twice"


@pytest.mark.parametrize("damage", [lambda whole: b"PK cut short", lambda whole: whole[: len(whole) // 2]])
def test_a_damaged_record_does_not_stop_the_run(parts, capsys, damage):
    _, agent, folder = parts
    np.savez(folder.evaluations, timesteps=[100], results=[[1.0]], ep_lengths=[[1]])
    folder.evaluations.write_bytes(damage(folder.evaluations.read_bytes()))
    agent.learn(200, callback=evaluation(parts))
    assert "evaluations.npz" in capsys.readouterr().err, "nobody was told"
    assert stored(folder)["timesteps"] == [200], "no new record"


def test_the_score_counts_every_episode(parts):
    plan, agent, _ = parts
    score = evaluate(agent, evaluation_env(plan, 3, agent.get_env()), 20)
    assert score.episodes == 20, "episodes"
    assert 1 <= score.mean <= 500, "CartPole's range"
    assert "over 20 episodes" in str(score), "for people"


@pytest.mark.parametrize("kind", ["dummy", pytest.param("subproc", marks=pytest.mark.slow), "gymnasium"])
def test_an_episode_without_end_is_cut_off_and_said(parts, monkeypatch, capsys, kind):
    _, agent, folder = parts
    monkeypatch.setattr(rlsd.cli.evaluation, "LONGEST_EPISODE", 30)
    rlsd.cli.evaluation._warn_of_endless.cache_clear()
    env = make_vec_env(Endless, 2, kind, seed=0)
    try:
        score = evaluate(agent, env, 5)
        assert (score.mean, score.episodes) == (30.0, 5), "not the return so far"
        announced = []
        agent.learn(200, callback=Evaluation(env, folder, 100, 3, 7, lambda step, mean: announced.append(mean)))
        assert announced == [30.0, 30.0], "evaluations during training"
        assert [len(successes) for successes in stored(folder)["successes"]] == [3, 3], "successes"
        said = capsys.readouterr().err
        assert said.count("cut off after 30 steps") == 1, f"it is to be said once: {said}"
    finally:
        env.close()


class Endless(gym.Env):
    """A reward of 1 a step, and no last step."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 1.0, False, False, {"is_success": False}


def test_a_kill_while_the_file_is_written_leaves_the_evaluations_so_far(parts, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    _, agent, folder = parts
    agent.learn(200, callback=evaluation(parts))
    before = stored(folder)
    monkeypatch.setattr("os.replace", kill)  # the last moment before it is in its place
    with pytest.raises(Killed):
        agent.learn(200, callback=evaluation(parts), reset_num_timesteps=False)
    assert stored(folder) == before, "they are lost"


def test_an_agent_that_is_not_finite_is_never_the_best_whatever_it_earns(parts, capsys, monkeypatch):
    _, agent, folder = parts
    agent.learn(200, callback=evaluation(parts))
    best = folder.best_agent.read_bytes()
    monkeypatch.setattr(Evaluation, "_load", lambda self, step: None)  # nothing was earned before
    monkeypatch.setattr(A2C, "train", lambda self: None)
    agent.policy.value_net.bias.data.fill_(float("nan"))  # acts as well as before
    callback = evaluation(parts)
    agent.learn(200, callback=callback, reset_num_timesteps=False)
    assert np.isfinite(callback.last_mean_reward), "it acts"
    assert folder.best_agent.read_bytes() == best, "it replaced the best"
    assert callback.best_mean_reward == -np.inf, "a better one could not become the best any more"
    said = capsys.readouterr().err
    assert "'value_net.bias' is not finite at 400 steps" in said, said
    assert said.count("\n") == 1, f"more than one line: {said}"
