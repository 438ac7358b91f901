"""``rlsd train`` with every algorithm that it knows."""

import csv
import json
import sys
from contextlib import nullcontext
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.cli import saving
from rlsd.cli.main import main
from rlsd.cli.options import TrainOptions
from rlsd.cli.plan import ALGORITHMS, algorithm_class, plan_new

pytestmark = pytest.mark.usefixtures("short_end")

QUICK = ["--no-progress", "--eval-episodes", "1", "--n-eval-envs", "1"]
NET = "policy_kwargs:{net_arch: [8]}"
OFF_POLICY = ["learning_starts:20", "batch_size:8", "buffer_size:1000", NET]
#: What makes a run of each algorithm short, and the environment it is in.
RUNS = {
    "ppo": ("CartPole-v1", ["n_steps:16", "batch_size:64", "n_epochs:2", NET]),
    "a2c": ("CartPole-v1", [NET]),
    "dqn": ("CartPole-v1", ["train_freq:4", "gradient_steps:1", *OFF_POLICY]),
    "qrdqn": ("CartPole-v1", ["train_freq:4", "gradient_steps:1", *OFF_POLICY]),
    "sac": ("Pendulum-v1", ["train_freq:4", *OFF_POLICY]),
    "td3": ("Pendulum-v1", ["train_freq:[4,step]", *OFF_POLICY]),
    "ddpg": ("Pendulum-v1", ["train_freq:[1,episode]", "gradient_steps:8", *OFF_POLICY]),
    "tqc": ("Pendulum-v1", ["train_freq:4", *OFF_POLICY]),
    "crossq": ("Pendulum-v1", ["train_freq:4", *OFF_POLICY]),
    "trpo": ("CartPole-v1", ["n_steps:64", "batch_size:64", "n_critic_updates:2", NET]),
    "ppo_lstm": ("CartPole-v1", ["n_steps:16", "batch_size:64", "n_epochs:2", "policy_kwargs:{lstm_hidden_size: 8}"]),
    "ars": ("CartPole-v1", ["n_delta:2"]),
    "ppo_mask": ("MaskedChoice-v0", ["n_steps:16", "batch_size:64", "n_epochs:2", NET]),
}


class MaskedChoice(gym.Env):
    """Episodes of ten steps, in each of which one action of four is forbidden, and an error."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._next(), {}

    def step(self, action):
        assert self.action_masks()[action], "it took what is forbidden"
        self._steps += 1
        return self._next(), float(action), self._steps == 10, False, {}

    def action_masks(self):
        return np.arange(4) != self._forbidden

    def _next(self):
        self._forbidden = int(self.np_random.integers(4))
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


if "MaskedChoice-v0" not in gym.registry:
    gym.register("MaskedChoice-v0", MaskedChoice)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(folder, algo, steps, *words, params=()):
    env, own = RUNS[algo]
    flags = ["--algo", algo, "--env", env, "-n", str(steps), "-f", str(folder), "-params", *own, *params]
    return main(["train", *QUICK, "--eval-freq", "120", *flags, *words])


def run_folder(logs, algo, number=1):
    return logs / algo / f"{RUNS[algo][0]}_{number}"


def final_agent(run, cls):
    return cls.load(run / f"{run.name.rpartition('_')[0]}.zip", device="cpu")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.policy.parameters(), b.policy.parameters(), strict=True))


def episodes(run):
    return list(csv.DictReader((run / "0.monitor.csv").read_text().splitlines()[1:]))


def checkpoints(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_every_algorithm_has_a_run_here():
    assert RUNS.keys() == ALGORITHMS.keys(), "an algorithm is not tested"


@pytest.mark.parametrize("algo", RUNS)
def test_an_algorithm_trains_is_evaluated_and_saved(algo, tmp_path):
    assert train(tmp_path, algo, 240) == 0, "exit code"
    run = run_folder(tmp_path, algo)
    results = json.loads((run / "results.json").read_text())
    assert results["algo"] == algo, "name"
    assert results["timesteps"] >= 240, "it stopped early"
    with np.load(run / "evaluations.npz") as found:
        assert found["timesteps"].tolist()[:2] == [120, 240], "evaluations"
    assert episodes(run), "no training episode was logged"
    assert max(checkpoints(run)) == results["timesteps"], "there is no checkpoint to go on from"
    agent = final_agent(run, algorithm_class(algo))
    assert type(agent) is algorithm_class(algo), "plain SB3 cannot load it"
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters()), "weights"


def test_masks_hold_in_enjoy_and_evaluate_too(tmp_path):
    assert train(tmp_path, "ppo_mask", 120) == 0, "exit code"
    run = str(run_folder(tmp_path, "ppo_mask"))
    assert main(["evaluate", run, "--eval-episodes", "4", "--stochastic"]) == 0
    assert main(["enjoy", run, "-n", "25", "--no-render", "--stochastic"]) == 0


def test_an_environment_without_masks_is_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["train", "--env", "CartPole-v1", "--algo", "ppo_mask", "-f", str(tmp_path / "logs")]) == 2
    assert "CartPole-v1 has no method action_masks()" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists(), "something was written"


@pytest.mark.parametrize("algo", ["sac", "dqn", "ars"])
def test_a_run_in_two_parts_is_the_run_in_one(algo, tmp_path):
    # SAC's first part ends within an episode: the replay buffer and the environment are in the middle of it.
    # DQN explores by how much of the run is over, so its first part must know how long the whole is.
    fixed = ["exploration_initial_eps:0.3", "exploration_final_eps:0.3"] if algo == "dqn" else []
    steps = (100, 200) if algo == "ars" else (120, 240)
    assert train(tmp_path, algo, steps[1], params=fixed) == 0, "in one"
    assert train(tmp_path, algo, steps[0], params=fixed) == 0, "first part"
    one, two = (run_folder(tmp_path, algo, number) for number in (1, 2))
    assert main(["train", "--resume", str(two), "-n", str(steps[1]), "--no-progress"]) == 0, "second part"
    cls = algorithm_class(algo)
    assert same(final_agent(one, cls), final_agent(two, cls)), "the agents differ"
    rows = [[(row["r"], row["l"], row["step"]) for row in episodes(run)] for run in (one, two)]
    assert rows[0] == rows[1], "the training episodes differ"
    scores = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    for key in ("mean_reward", "best_mean_reward", "timesteps"):
        assert scores[0][key] == scores[1][key], f"{key} differs"


def test_baseline_of_an_off_policy_algorithm_is_plain_sb3_bit_for_bit(tmp_path):
    from rlsd_envs import make_vec_env

    assert train(tmp_path, "sac", 200, "--baseline", params=["learning_rate:0.001"]) == 0, "exit code"
    settings = {"learning_starts": 20, "batch_size": 8, "buffer_size": 1000, "train_freq": 4, "learning_rate": 0.001}
    env = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
    plain = SAC("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **settings).learn(200)
    assert same(final_agent(run_folder(tmp_path, "sac"), SAC), plain), "--baseline is not plain SB3"


def test_ars_logs_each_candidates_episode_at_its_step(tmp_path):
    assert train(tmp_path, "ars", 100) == 0, "exit code"
    run = run_folder(tmp_path, "ars")
    rows = episodes(run)
    assert len(rows) % 4 == 0, "two candidates each way, an episode each"
    ends = np.cumsum([int(row["l"]) for row in rows])
    assert [int(row["step"]) for row in rows] == ends.tolist(), "steps"
    assert ends[-1] == json.loads((run / "results.json").read_text())["timesteps"], "an episode is missing"


def test_ars_follows_new_hyperparameters_from_a_trained_agent(tmp_path):
    assert train(tmp_path, "ars", 100) == 0, "a trained agent"
    start = run_folder(tmp_path, "ars") / "CartPole-v1.zip"
    assert train(tmp_path, "ars", 100, "-i", str(start), params=["n_delta:3", "n_top:1"]) == 0, "exit code"
    assert len(episodes(run_folder(tmp_path, "ars", 2))) % 6 == 0, "three candidates each way"


def test_a_trained_off_policy_agent_starts_another_run(tmp_path):
    assert train(tmp_path, "dqn", 200) == 0, "a trained agent"
    start = run_folder(tmp_path, "dqn") / "CartPole-v1.zip"
    assert train(tmp_path, "dqn", 100, "-i", str(start), params=["learning_rate:0", "learning_starts:1000"]) == 0, "run"
    first, second = (final_agent(run_folder(tmp_path, "dqn", number), DQN).q_net.state_dict() for number in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first), "it started from other weights"


def test_an_entropy_coefficient_cannot_stop_or_begin_to_be_learned(tmp_path, capsys):
    for number, (first, then, cure) in enumerate(
        [("auto_0.2", 0.1, "ent_coef:auto"), (0.1, "auto", "ent_coef:NUMBER")]
    ):
        assert train(tmp_path, "sac", 40, params=[f"ent_coef:{first}"]) == 0, "a trained agent"
        start = run_folder(tmp_path, "sac", number + 1) / "Pendulum-v1.zip"
        capsys.readouterr()
        assert train(tmp_path, "sac", 40, "-i", str(start), params=[f"ent_coef:{then}"]) == 2, "exit code"
        err = capsys.readouterr().err
        assert cure in err and err.count("\n") == 1, err


def test_a_stop_saves_the_replay_buffer_and_the_run_goes_on(tmp_path, monkeypatch):
    class Impatient(BaseCallback):
        """Asks for a stop, as Ctrl-C does."""

        def __init__(self, *args):
            super().__init__()

        def _on_step(self):
            if self.num_timesteps == 150:
                handlers[0]()
            return True

        def close(self):
            pass

    handlers = []
    monkeypatch.setattr(
        "rlsd.cli.session.stop_on_signals", lambda stop: handlers.append(stop) or nullcontext(lambda: False)
    )
    with monkeypatch.context() as patched:
        patched.setattr("rlsd.cli.session.EpisodeLog", Impatient)
        assert train(tmp_path, "sac", 200) == 130, "exit code"
    run = run_folder(tmp_path, "sac")
    (kept,) = checkpoints(run)
    assert kept == 152, "it did not stop at the end of the four steps it was in"
    assert (run / "checkpoints" / "152" / "replay_buffer.pkl").is_file(), "the buffer was not saved"
    assert main(["train", "--resume", str(run), "--no-progress"]) == 0, "it could not go on"
    assert json.loads((run / "results.json").read_text())["timesteps"] == 200, "steps"


def test_only_one_replay_buffer_stays_on_the_disk(tmp_path):
    assert train(tmp_path, "dqn", 400, "--save-freq", "100") == 0, "exit code"
    assert checkpoints(run_folder(tmp_path, "dqn")) == [400], "with a buffer"
    assert train(tmp_path, "a2c", 400, "--save-freq", "100") == 0, "exit code"
    assert len(checkpoints(run_folder(tmp_path, "a2c"))) > 1, "without one"


class Agent:
    """As much of an agent as is asked for its replay buffer."""

    def __init__(self, size):
        self.replay_buffer = None
        if size:
            self.replay_buffer = Agent(0)
            # Memory that is never touched is never taken.
            self.replay_buffer.__dict__ = {"observations": {"a": np.empty(size // 2, np.uint8)}}
            self.replay_buffer.__dict__["rewards"] = np.empty(size - size // 2, np.uint8)


@pytest.mark.parametrize(
    ("size", "every"), [(0, 1000), (2**20, 1000), (2**28, 1250), (2**29, 2500), (2**30, 5000), (2**31, sys.maxsize)]
)
def test_large_replay_buffers_are_saved_less_often(size, every, tmp_path):
    plan = plan_new(TrainOptions(env="CartPole-v1", n_timesteps=10_000, log_folder=str(tmp_path)))
    assert saving.replay_bytes(Agent(size)) == size, "bytes"
    assert saving.save_every(plan, Agent(size)) == every, f"{size} bytes"


def test_a_large_replay_buffer_is_told_and_its_disk_checked(tmp_path, capsys, monkeypatch):
    plan = plan_new(TrainOptions(env="CartPole-v1", n_timesteps=10_000, log_folder=str(tmp_path)))
    saving.say_size(plan, Agent(2**20), tmp_path)
    assert not capsys.readouterr().out, "a small one is not worth a line"
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**28}))
    saving.say_size(plan, Agent(2**29), tmp_path)
    said = capsys.readouterr()
    assert "0.5 GB: one every 2,500 steps and at the end" in said.out, said.out
    assert "too little" in said.err, said.err


def test_a_missing_library_is_named_with_its_cure(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    assert train(tmp_path, "tqc", 100) == 2, "exit code"
    err = capsys.readouterr().err
    assert "--algo tqc needs sb3-contrib: pip install 'rlsd[contrib]'" in err, err
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--algo sac --env CartPole-v1", ["sac", "CartPole-v1", "Discrete"]),
        ("--algo dqn --env Pendulum-v1", ["dqn", "Pendulum-v1", "Box"]),
        ("--algo sca --env Pendulum-v1", ["'sca'", "did you mean sac"]),
        ("--algo sac --env Pendulum-v1 -params train_freq:0", ["train_freq", "[n, episode]", "0"]),
        ("--algo sac --env Pendulum-v1 -params train_freq:[1,episode] n_envs:2", ["train_freq", "n_envs 1"]),
        ("--algo dqn --env CartPole-v1 -params target_update_intervl:3", ["did you mean target_update_interval"]),
        ("--algo ars --env CartPole-v1 -params n_delta:1 n_top:2", ["n_top 2", "n_delta 1"]),
        ("--algo ppo_lstm --env CartPole-v1 -params policy:MlpPolicy", ["RecurrentPPO", "MlpLstmPolicy"]),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(words, parts, tmp_path, capsys):
    assert main(["train", *QUICK, *words.split(), "-f", str(tmp_path / "logs")]) == 2, "exit code"
    err = capsys.readouterr().err
    assert err.count("\n") == 1, f"more than one line: {err}"
    for part in parts:
        assert part in err, f"{part!r} is not in: {err}"
    assert not list(tmp_path.rglob("*.zip")), "something was written"
