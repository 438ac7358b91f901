"""``rlsd train`` from the first flag to the last line."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
import yaml
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlsd
from rlsd.cli import session
from rlsd.cli.evaluation import FINAL_EPISODES
from rlsd.cli.main import main

pytestmark = pytest.mark.usefixtures("short_end")

SMALL = ["--env", "CartPole-v1", "-n", "512", "--no-progress", "--eval-freq", "256", "--n-eval-envs", "2"]
#: Long episodes cost time and show nothing here.
QUICK = [*SMALL, "--eval-episodes", "2"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(folder, *words):
    return main(["train", *QUICK, "-f", str(folder), *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    logs = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "FINAL_EPISODES", FINAL_EPISODES)
        assert train(logs) == 0, "a plain run failed"
    return logs / "ppo" / "CartPole-v1_1"


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.policy.parameters(), b.policy.parameters(), strict=True))


def test_a_run_leaves_rl_zoo3s_layout(finished):
    for name in (
        *("CartPole-v1.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv", "results.json"),
        *(f"CartPole-v1/{file}" for file in ("args.yml", "config.yml", "command.txt", "distill.yml", "run.yml")),
    ):
        assert (finished / name).is_file(), f"{name} is missing"
    assert not list(finished.rglob("*.tmp")), "something half-written was left"


def test_a_run_leaves_its_settings(finished):
    config = yaml.safe_load((finished / "CartPole-v1" / "config.yml").read_text())
    assert config["n_timesteps"] == 512, "the command line's steps"
    assert config["learning_rate"] == "lin_0.001", "the tuned learning rate"
    distill = yaml.safe_load((finished / "CartPole-v1" / "distill.yml").read_text())
    assert [one["name"] for one in distill["distillations"]] == ["remember", "guard"]
    run = yaml.safe_load((finished / "CartPole-v1" / "run.yml").read_text())
    assert run["sessions"][0]["last_step"] == 512, "where it ended"
    assert "rlsd train --env CartPole-v1" in (finished / "CartPole-v1" / "command.txt").read_text(), "command"


def test_the_result_is_of_20_episodes_at_least(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["n_eval_episodes"] == 20, "episodes"
    assert results["timesteps"] == 512, "steps"
    assert results["wall_clock_seconds"] > 0, "time"
    assert 1 <= results["mean_reward"] <= 500, "return"


def test_evaluations_are_at_the_asked_steps(finished):
    with np.load(finished / "evaluations.npz") as found:
        assert found["timesteps"].tolist() == [256, 512], "steps"
        assert found["results"].shape == (2, 2), "episodes"


def test_tensorboard_shows_training_evaluation_and_distillation(finished):
    (events,) = (finished / "tensorboard").iterdir()
    tags = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {"rollout/ep_rew_mean", "eval/mean_reward", "train/loss"} <= set(tags), "SB3's own"
    assert any(tag.startswith("distill/") for tag in tags), "ours"


def test_the_agents_load_in_plain_sb3(finished):
    for name in ("CartPole-v1.zip", "best_model.zip"):
        assert PPO.load(finished / name, device="cpu").num_timesteps > 0, f"{name} does not load"


def test_the_end_says_what_came_of_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session, "FINAL_EPISODES", FINAL_EPISODES)
    assert train(tmp_path, "--eval-freq", "0") == 0, "exit code"
    out = capsys.readouterr().out
    for text in ("over 20 episodes", "Wall-clock", "steps/s", "best_model.zip", "tensorboard --logdir"):
        assert text in out, f"{text!r} is not said"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    assert (run / "best_model.zip").is_file(), "without evaluations the final agent is the best there is"


def test_an_average_is_judged_and_saved_and_changes_nothing(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session, "FINAL_EPISODES", FINAL_EPISODES)
    assert train(tmp_path, "--average") == 0, "exit code"
    out, run = capsys.readouterr().out, tmp_path / "ppo" / "CartPole-v1_1"
    assert ", average " in out, "an evaluation does not tell of the average"
    assert "of the average of its weights" in out, "the end does not tell of the average"
    whole, average = (PPO.load(run / name, device="cpu") for name in ("CartPole-v1.zip", "average_model.zip"))
    assert same(whole, PPO.load(finished / "CartPole-v1.zip", device="cpu")), "the training is another"
    kept = rlsd.SelfDistilled(PPO).load(run / "CartPole-v1.zip", device="cpu").weight_average
    assert same(average, kept.agent()), "what is saved is not the average"
    with np.load(run / "evaluations.npz") as found, np.load(finished / "evaluations.npz") as before:
        assert found["average_results"].shape == found["results"].shape, "evaluations of the average"
        assert np.array_equal(found["results"], before["results"]), "the evaluations are others"
    results, before = (json.loads((folder / "results.json").read_text()) for folder in (run, finished))
    assert results["average"]["mean_reward"] > 0, "result"
    assert results["mean_reward"] == before["mean_reward"], "the result of the agent is another"
    assert before["average"] is None, "an average that nobody kept"
    (events,) = (run / "tensorboard").iterdir()
    assert "average/mean_reward" in EventAccumulator(str(events)).Reload().Tags()["scalars"], "TensorBoard"


def test_the_evaluation_can_be_left_out(tmp_path, capsys):
    assert main(["train", *SMALL, "--eval-episodes", "0", "-f", str(tmp_path)]) == 0, "exit code"
    said = capsys.readouterr().out
    assert "not evaluated (--eval-episodes 0)" in said and "  evaluation" not in said, said
    run = tmp_path / "ppo" / "CartPole-v1_1"
    results = json.loads((run / "results.json").read_text())
    assert (results["mean_reward"], results["n_eval_episodes"], results["timesteps"]) == (None, 0, 512), results
    assert f"{run / 'best_model.zip'}: the final one" in said, "nobody was the best"
    assert main(["train", "--resume", str(run)]) == 0 and "is finished" in capsys.readouterr().out


def test_a_number_of_steps_that_is_no_whole_rollout_is_told(tmp_path, capsys):
    assert train(tmp_path, "-n", "300", "-params", "n_steps:64", "n_envs:2", "batch_size:64") == 0, "exit code"
    assert "whole rollouts, of 128 steps here: 384 steps in all" in capsys.readouterr().out
    assert train(tmp_path, "-params", "n_steps:64", "n_envs:2", "batch_size:64") == 0, "exit code"
    assert "whole rollouts" not in (said := capsys.readouterr().out), said
    assert "steps/s, 0:00:0" in said, "no pace is told at an evaluation"


def test_evaluations_decide_who_is_the_best_when_asked_to(tmp_path):
    best = ["--recipe", "best", "--distill", "teacher.by=evaluation"]
    assert train(tmp_path, *best) == 0, "exit code"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    with np.load(run / "evaluations.npz") as found:
        expected = found["results"].mean(axis=1).max()
    agent = rlsd.SelfDistilled(PPO).load(run / "CartPole-v1.zip", device="cpu")
    assert agent.distiller.teacher.mark == pytest.approx(expected)


def test_a_run_too_short_for_a_teacher_says_so(tmp_path, capsys):
    assert train(tmp_path, "--recipe", "snapshot", "--distill", "teacher.every=4000") == 0, "exit code"
    assert "no teacher was taken in so few steps. Train for longer, or take" in capsys.readouterr().err
    assert train(tmp_path, "--recipe", "snapshot", "--distill", "teacher.every=256") == 0, "exit code"
    assert "Nothing was distilled" not in capsys.readouterr().err, "there was a teacher"


@pytest.mark.parametrize(
    ("words", "changes", "reason"),
    [
        ("--env CartPole-v1 -n 256", "teacher.every=99999", "so few steps"),
        ("--env Pendulum-v1 --algo td3 -n 60 --distill teacher.every=8", "gamma:0.9", "learns only after 10,000 steps"),
    ],
)
def test_what_a_run_without_a_teacher_advises_gives_it_one(tmp_path, capsys, words, changes, reason):
    quick = ["--no-progress", "--eval-freq", "0", "--eval-episodes", "1"]
    words = ["train", *words.split(), *quick, "--recipe", "snapshot", "-f", str(tmp_path)]
    flag = "--distill" if "=" in changes else "-params"
    assert main([*words, flag, changes]) == 0, "exit code"
    said = capsys.readouterr().err
    assert reason in said, said
    assert main([*words, *said.split(": ")[-1].split()]) == 0, "exit code"
    assert "Nothing was distilled" not in capsys.readouterr().err, f"it did not help to follow: {said}"


def test_the_command_for_tensorboard_can_be_typed_where_it_is_not_on_the_path(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert train(tmp_path) == 0, "exit code"
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("TensorBoard"))
    assert line.split()[1].endswith("bin/tensorboard"), line


def test_the_same_seed_gives_the_same_agent_and_another_another(finished, tmp_path):
    assert train(tmp_path) == 0, "exit code"
    assert train(tmp_path, "--seed", "1") == 0, "exit code"
    first = PPO.load(finished / "CartPole-v1.zip", device="cpu")
    again, other = (PPO.load(tmp_path / "ppo" / f"CartPole-v1_{k}" / "CartPole-v1.zip", device="cpu") for k in (1, 2))
    assert same(first, again), "the same seed gave another agent"
    assert not same(first, other), "another seed gave the same agent"


def test_baseline_is_plain_sb3_bit_for_bit(tmp_path):
    from rlsd_envs import make_vec_env

    constant = ["-params", "learning_rate:0.001", "clip_range:0.2", "n_steps:32", "batch_size:64", "n_epochs:4"]
    assert train(tmp_path, "--baseline", *constant, "--num-threads", "1") == 0, "exit code"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    assert not (run / "CartPole-v1" / "distill.yml").exists(), "there is no distillation to describe"
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    settings = {"learning_rate": 0.001, "clip_range": 0.2, "n_steps": 32, "batch_size": 64}
    settings |= {"gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 4, "ent_coef": 0.0}
    plain = PPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(512)
    assert same(PPO.load(run / "CartPole-v1.zip", device="cpu"), plain), "--baseline is not plain SB3"


def test_a2c_with_normalisation_saves_its_statistics(tmp_path):
    words = ["--algo", "a2c", "-params", "normalize:true", "n_steps:8", "--recipe", "snapshot"]
    assert train(tmp_path, *words, "--distill", "strength.value=0.3") == 0, "exit code"
    run = tmp_path / "a2c" / "CartPole-v1_1"
    A2C.load(run / "CartPole-v1.zip", device="cpu")
    for name in ("vecnormalize.pkl", "best_vecnormalize.pkl"):
        assert (run / "CartPole-v1" / name).is_file(), f"{name} is missing"
    config = rlsd.DistillConfig.from_yaml((run / "CartPole-v1" / "distill.yml").read_text())
    assert config.strength.value == 0.3, "--distill was not followed"


def test_training_starts_from_a_trained_agent(finished, tmp_path):
    words = ["-i", str(finished / "CartPole-v1.zip"), "-params", "learning_rate:0", "--distill", "strength.value=0"]
    assert train(tmp_path, *words) == 0, "exit code"
    after = PPO.load(tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu")
    assert same(after, PPO.load(finished / "CartPole-v1.zip", device="cpu")), "it started from other weights"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("where", ["data", "kwargs"])
def test_code_in_a_trained_agent_runs_only_where_it_is_trusted(where, trusted, finished, tmp_path):
    agent, trace = PPO.load(finished / "CartPole-v1.zip", device="cpu"), tmp_path / "ran"
    if where == "data":
        agent.evil = Evil(trace)
    else:
        agent.policy_kwargs = {**agent.policy_kwargs, "features_extractor_kwargs": {}, "note": Evil(trace)}
    agent.save(tmp_path / "evil.zip")
    words = ["-i", str(tmp_path / "evil.zip"), *(["--trust"] if trusted else [])]
    code = train(tmp_path / "logs", *words)
    assert code == 0 or where == "kwargs", "exit code"
    assert trace.exists() == trusted, "code ran" if trace.exists() else "the test tests nothing"


def test_code_in_statistics_beside_a_trained_agent_is_never_run(tmp_path):
    assert train(tmp_path, "-params", "normalize:true") == 0, "exit code"
    zip_file = tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip"
    (zip_file.parent / "CartPole-v1" / "vecnormalize.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert train(tmp_path, "-params", "normalize:true", "-i", str(zip_file)) == 2, "exit code"
    assert not (tmp_path / "ran").exists(), "code ran"


@pytest.mark.parametrize("door", ["--distill", "--config"])
def test_a_teacher_is_unpickled_only_where_it_is_trusted(door, finished, tmp_path, capsys):
    agent, trace = PPO.load(finished / "CartPole-v1.zip", device="cpu"), tmp_path / "ran"
    agent.policy_kwargs = {"net_arch": [64, 64], "optimizer_kwargs": {"eps": 1e-5}, "evil": Evil(trace)}
    agent.save(tmp_path / "evil.zip")
    (tmp_path / "distill.yml").write_text(f"teacher: {{type: frozen, path: {tmp_path / 'evil.zip'}}}")
    words = {
        "--distill": ["--recipe", "kickstart", "--distill", f"teacher.path={tmp_path / 'evil.zip'}"],
        "--config": ["--config", str(tmp_path / "distill.yml")],
    }[door]
    assert train(tmp_path / "logs", *words) == 2, "exit code"
    assert "give --trust if you trust the file" in capsys.readouterr().err
    assert not trace.exists(), "code ran"
    train(tmp_path / "logs", "--trust", *words)
    assert trace.exists(), "the test tests nothing"


def test_statistics_beside_a_trained_agent_are_taken_up(tmp_path):
    assert train(tmp_path, "-params", "normalize:true") == 0, "exit code"
    zip_file = tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip"
    assert train(tmp_path, "-params", "normalize:true", "-i", str(zip_file)) == 0, "exit code"
    from rlsd_envs import make_vec_env

    files = [tmp_path / "ppo" / f"CartPole-v1_{k}" / "CartPole-v1" / "vecnormalize.pkl" for k in (1, 2)]
    counts = [VecNormalize.load(str(file), make_vec_env("CartPole-v1")).obs_rms.count for file in files]
    assert counts[1] > 1.9 * counts[0], f"the statistics started anew: {counts}"


def test_a_config_file_of_another_run_is_taken(finished, tmp_path):
    file = finished / "CartPole-v1" / "distill.yml"
    assert train(tmp_path, "--config", str(file)) == 0, "exit code"
    copy = tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1" / "distill.yml"
    assert copy.read_text() == file.read_text(), "another config was used"


def test_tensorboard_can_be_elsewhere(tmp_path):
    assert train(tmp_path / "logs", "-tb", str(tmp_path / "tb")) == 0, "exit code"
    assert list((tmp_path / "tb" / "ppo" / "CartPole-v1_1").rglob("events*")), "nothing was logged there"


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_run_that_its_last_update_broke_replaces_nothing_and_says_so_in_one_line(tmp_path, capsys, monkeypatch, algo):
    from stable_baselines3 import DQN

    net = "policy_kwargs:{net_arch: [8]}"
    params = {
        "ppo": ["n_steps:32", "n_envs:2", "batch_size:64"],
        "dqn": ["learning_starts:20", "train_freq:4", "gradient_steps:1", "batch_size:8", "buffer_size:500"],
    }[algo]
    common = ["--no-progress", "--eval-freq", "64", "--eval-episodes", "1", "--save-freq", "64", "--n-eval-envs", "1"]
    words = ["--algo", algo, "--env", "CartPole-v1", "-n", "128", "-f", str(tmp_path), *common, "--speed", "none"]
    assert main(["train", *words, "-params", net, *params]) == 0, "first part"
    run = tmp_path / algo / "CartPole-v1_1"
    kept = {path: path.read_bytes() for path in (run / "CartPole-v1.zip", run / "results.json")}
    algorithm = {"ppo": PPO, "dqn": DQN}[algo]
    own = algorithm.train

    def train(self, *args, **kwargs):
        own(self, *args, **kwargs)
        if self.num_timesteps >= 256:
            next(self.policy.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(algorithm, "train", train)
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "-n", "256"]) == 2, "exit code"
    said = capsys.readouterr().err
    assert said.count("\n") == 1, f"more than one line: {said}"
    assert "is not finite at 256 steps" in said, said
    last = rlsd.latest_checkpoint(run / "checkpoints")
    assert f"Kept as they were: {run / 'best_model.zip'}, {run / 'CartPole-v1.zip'}, {last}" in said, said
    assert {path: path.read_bytes() for path in kept} == kept, "a file was replaced"
    assert not [path for path in (run / "checkpoints").iterdir() if path.name == "256"], "a broken checkpoint"
    monkeypatch.undo()
    assert main(["train", "--resume", str(run), "-n", "256"]) == 0, "it could not go on"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "snapshot", "--distill", "teacher.every=64"], "snapshot: pulled in "),
        (["--recipe", "remember"], "remember: idle in all 2 updates: episodes began as they always did"),
        (
            ["--distill", "guard.teacher.every=64"],
            "did\n              guard: idle in all 2 updates: the return never fell behind the teacher's\n"
            "              Idle, it trained as plain SB3 would. What it is for: rlsd demo\n",
        ),
        (["-n", "256", "--distill", "guard.teacher.every=64"], "guard: idle in its one update: too few episodes ended"),
        (["--recipe", "phasic"], "phasic: 0 phases beside 2 updates"),
        (
            ["--recipe", "remember+snapshot", "--distill", "snapshot.teacher.every=64"],
            "as they always did\n              snapshot: pulled in ",
        ),
        (["--baseline"], ""),
    ],
    ids=["pulled", "remember", "guard", "few-episodes", "phasic", "several", "plain"],
)
def test_a_run_says_at_its_end_what_distillation_did(tmp_path, capsys, words, said):
    one = ["-params", "n_steps:128", "n_envs:2", "batch_size:128", "n_epochs:1"]
    assert train(tmp_path, *words, *one) == 0
    captured = capsys.readouterr()
    _, _, after = captured.out.partition("Distillation  ")
    told = after.partition("Run  ")[0]
    written = json.loads((tmp_path / "ppo" / "CartPole-v1_1" / "results.json").read_text())["distillation"]
    assert said in told, told
    assert bool(told) == bool(said) == (written is not None), "plain SB3 has no such line"
    if written is not None:
        assert written["said"].replace("; ", "\n              ") in told and written["updates"] == (
            1 if "-n" in words else 2
        )
        assert written["changes"] == []
    assert "no teacher was taken" not in captured.err or "remember" not in words, (
        "it waits for a change, not for a teacher"
    )
