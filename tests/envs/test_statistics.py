import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from toy_environments import Counter

from rlsd_envs.statistics import EpisodeStatistics


def test_returns_and_lengths_are_those_of_monitor():
    env = Monitor(Counter())
    env.reset(seed=0)
    statistics = EpisodeStatistics(2)
    ended, info = False, {}
    while not ended:
        _, reward, terminated, truncated, info = env.step(1)
        statistics.add(np.array([0.0, reward]))
        ended = terminated or truncated
    episode = statistics.finish(1)
    assert episode["r"] == info["episode"]["r"]
    assert episode["l"] == info["episode"]["l"]
    assert episode["t"] >= 0


def test_one_environment_ends_without_touching_the_other():
    statistics = EpisodeStatistics(2)
    statistics.add(np.array([1.0, 2.0]))
    statistics.finish(0)
    statistics.add(np.array([1.0, 2.0]))
    assert statistics.finish(0)["r"] == 1.0
    assert statistics.finish(1) == pytest.approx({"r": 4.0, "l": 2, "t": 0}, abs=60)


def test_a_reset_forgets_what_was_running():
    statistics = EpisodeStatistics(1)
    statistics.add(np.array([5.0]))
    statistics.restart()
    statistics.add(np.array([1.0]))
    episode = statistics.finish(0)
    assert (episode["r"], episode["l"]) == (1.0, 1)


def test_the_file_is_read_by_sb3(tmp_path):
    pytest.importorskip("pandas")
    from stable_baselines3.common.results_plotter import load_results

    statistics = EpisodeStatistics(2, tmp_path / "0", "CartPole-v1")
    statistics.add(np.array([1.0, 2.0]))
    statistics.finish(1)
    statistics.close()
    assert load_results(str(tmp_path))["r"].tolist() == [2.0]


def test_the_file_has_monitors_header(tmp_path):
    statistics = EpisodeStatistics(1, tmp_path / "0", "CartPole-v1")
    statistics.add(np.array([1.0]))
    statistics.finish(0)
    statistics.close()
    header, names, line = (tmp_path / "0.monitor.csv").read_text().splitlines()
    assert header.startswith("#{")
    assert '"env_id": "CartPole-v1"' in header
    assert names == "r,l,t"
    assert line.startswith("1.0,1,")
