"""``rlsd evaluate``."""

from __future__ import annotations

import json

import numpy as np

from rlsd.cli.evaluate import EvaluateOptions
from rlsd.cli.main import main
from rlsd.cli.saved import find_agent


def test_an_evaluation_gives_return_length_and_interval(small_run, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert main(["evaluate", str(small_run), "--eval-episodes", "6", "--results", str(file)]) == 0
    said = capsys.readouterr().out
    found = json.loads(file.read_text())["episodes"]["agent"]
    assert len(found["return"]) == 6 and found["return"] == found["length"], "CartPole pays 1 a step"
    assert f"{np.mean(found['return']):.2f}" in said and "95 %" in said, said


def test_an_agent_is_compared_with_another(small_run, tmp_path, capsys):
    file = tmp_path / "found.json"
    words = ["--eval-episodes", "4", "--baseline", str(small_run / "CartPole-v1.zip"), "--results", str(file)]
    assert main(["evaluate", str(small_run), *words]) == 0
    data = json.loads(file.read_text())
    assert data["episodes"]["agent"] == data["episodes"]["baseline"], "the same agent in the same episodes"
    assert data["improvement"]["probability"] == 0.5, "no better than itself"
    assert "P(better than the baseline) 0.50" in capsys.readouterr().out


def test_actions_can_be_drawn_and_a_seed_repeats_them(small_run, tmp_path):
    def returns(name, *words):
        file = tmp_path / f"{name}.json"
        assert main(["evaluate", str(small_run), "--eval-episodes", "5", "--results", str(file), *words]) == 0
        return json.loads(file.read_text())["episodes"]["agent"]["return"]

    drawn = returns("drawn", "--stochastic", "--seed", "3")
    assert drawn == returns("again", "--stochastic", "--seed", "3"), "the same seed"
    assert drawn != returns("likely", "--seed", "3"), "--stochastic changed nothing"


def test_the_numbers_are_those_of_sb3s_own_evaluation(small_run):
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy

    from rlsd.cli.evaluation import play

    saved = find_agent(EvaluateOptions(agent=str(small_run)))
    mine, sb3s = saved.make_env(2, 5), saved.make_env(2, 5)
    returns, lengths = play(saved.policy(mine, "cpu", trust=False), mine, 4)
    expected = evaluate_policy(PPO.load(saved.file, device="cpu"), sb3s, 4, return_episode_rewards=True)
    assert (returns, lengths) == expected


def test_wrong_numbers_are_one_line(small_run, refused):
    assert "--eval-episodes" in refused("evaluate", str(small_run), "--eval-episodes", "0")
    assert "--results" in refused("evaluate", str(small_run), "--results", str(small_run))
    assert "no run" in refused("evaluate", str(small_run), "--baseline", "nowhere.zip")
