"""The file with a line per training episode."""

import csv
import json

from stable_baselines3 import A2C

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
