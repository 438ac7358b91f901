"""The file with a line per training episode."""

import csv
import errno
import itertools
import json

import pytest
from stable_baselines3 import A2C

from rlsd.cli import episodes
from rlsd.cli.episodes import EpisodeLog


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()[1:]))


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    path = tmp_path / "0.monitor.csv"
    agent = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    for session in (1, 2):
        log = EpisodeLog(path, "CartPole-v1")
        agent.learn(300, callback=log, reset_num_timesteps=session == 1)
        log.close()
    lines = path.read_text().splitlines()
    assert json.loads(lines[0][1:])["env_id"] == "CartPole-v1", "SB3's header is missing"
    assert sum(line.startswith("#") for line in lines) == 1, "a second header makes the file unreadable"
    found = rows(path)
    assert 400 < sum(int(row["l"]) for row in found) <= 600, "episodes of one session are missing"
    times = [float(row["t"]) for row in found]
    assert times == sorted(times), "time stepped back"
    assert all(float(row["r"]) == int(row["l"]) for row in found), "CartPole pays 1 a step"


def test_what_a_killed_run_wrote_after_its_checkpoint_is_not_there_twice(tmp_path):
    path = tmp_path / "0.monitor.csv"
    agent = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    log = EpisodeLog(path, "CartPole-v1")
    agent.learn(300, callback=log)
    log.close()
    with path.open("a") as file:
        file.write("11.0,1")  # the line it was writing when it was killed
    agent.num_timesteps = 150  # its last checkpoint
    agent.learn(150, callback=log, reset_num_timesteps=False)
    log.close()
    steps = [int(row["step"]) for row in rows(path)]
    assert steps == sorted(set(steps)), f"episodes are there twice: {steps}"
    assert any(step <= 150 for step in steps), "episodes from before the checkpoint are gone"
    assert any(step > 150 for step in steps), "episodes from after the checkpoint are missing"


def test_a_damaged_file_is_begun_anew(tmp_path):
    path = tmp_path / "0.monitor.csv"
    agent = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(100)
    for text in ("", "words"):
        path.write_text(text)
        log = EpisodeLog(path, "CartPole-v1")
        agent.learn(510, callback=log, reset_num_timesteps=False)  # the longest episode has 500 steps
        log.close()
        assert rows(path), "no episodes were written"


def test_a_clock_that_is_set_back_turns_no_time_around(tmp_path, monkeypatch):
    path = tmp_path / "0.monitor.csv"
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(episodes.time, "time", lambda: next(clock))
    log = EpisodeLog(path, "CartPole-v1")
    A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(300, callback=log)
    log.close()
    times = [float(row["t"]) for row in rows(path)]
    assert times == sorted(times), "time stepped back"
    assert times[0] >= 0, "before the start"


@pytest.mark.parametrize("when", [0, 3])
def test_training_goes_on_where_the_file_cannot_be_written(tmp_path, monkeypatch, capsys, when):
    class Full(episodes.ResultsWriter):
        room = when

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._take()

        def write_row(self, row):
            self._take()
            super().write_row(row)

        def _take(self):
            Full.room -= 1
            if Full.room < 0:
                self.file_handler.close()
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(episodes, "ResultsWriter", Full)
    log = EpisodeLog(tmp_path / "0.monitor.csv", "CartPole-v1")
    agent = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(300, callback=log)
    log.close()
    assert agent.num_timesteps == 300, "training ended"
    said = capsys.readouterr().err
    assert said.count("0.monitor.csv can no longer be written") == 1, f"it is to be said once: {said}"
