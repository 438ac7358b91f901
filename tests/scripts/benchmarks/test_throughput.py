"""``scripts/benchmark.py throughput``: what each peer does, and what is refused before anything is timed."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from benchmarks import peers
from benchmarks.main import main
from benchmarks.pairs import RATE, Pair, Timing
from benchmarks.peers import PlainSB3, SingleFile
from benchmarks.single_file import Settings, Training
from benchmarks.throughput import ThroughputOptions
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

TINY = "--hyperparams n_envs=2 n_steps=16 batch_size=32 n_epochs=1"


@pytest.fixture(autouse=True)
def _no_garbage(monkeypatch):
    """Collecting the garbage of a whole test session takes its time."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def plan_of(**flags):
    return ThroughputOptions(**flags).plan()


def test_the_ratio_is_of_steps_per_second():
    pair = Pair(0, "rlsd", Timing(2.0, 1.0, 100), Timing(1.0, 1.0, 25), RATE)
    assert pair.wall == (50.0, 25.0), "steps per second"
    assert (pair.wall_ratio, pair.cpu_ratio) == (2.0, 4.0), "above 1 is faster"


@pytest.mark.parametrize("peer", ["sb3", "sb3 --peer-env same", "single-file"])
def test_a_peer_does_the_same_work_and_the_figures_are_written(peer, tmp_path, capsys):
    file = tmp_path / "throughput.json"
    assert main(f"throughput -n 64 --pairs 5 --peer {peer} {TINY} --json {file}".split()) == 0, "exit code"
    out = capsys.readouterr().out
    assert all(word in out for word in ("pair 5", "steps/s", "median", "Peer: ", "Machine", "Versions")), "report"
    data, name = json.loads(file.read_text()), peer.split()[0]
    assert data["distill"]["distillations"] and data["unit"] == "steps/s" and data["peer_versions"]["torch"], "settings"
    for pair in data["pairs"]:
        assert pair["rlsd"]["steps"] == pair[name]["steps"] == 64, "both sides do the same work"
        speeds = [pair[side]["steps"] / pair[side]["wall"] for side in ("rlsd", name)]
        assert pair["wall_ratio"] == pytest.approx(speeds[0] / speeds[1]), "rlsd's speed over the peer's"


def test_the_peer_sb3_is_plain_and_on_its_own_environments():
    plan = plan_of(
        env="Pendulum-v1",
        hyperparams=("n_envs=2", "n_steps=16", "batch_size=32", "normalize=true"),
        distill=("strength=1",),
    )
    agent, env = PlainSB3(plan, same_env=False).build(3)
    assert type(agent) is PPO and (agent.seed, agent.n_steps) == (3, 16), "agent"
    assert isinstance(env, VecNormalize) and type(env.venv) is DummyVecEnv and env.num_envs == 2, "environments"
    assert env.env_is_wrapped(Monitor) == [True, True], "Monitor"
    env.close()


@pytest.mark.parametrize("speed", ["exact", "max", "none"])
def test_the_speed_reaches_the_agent_of_rlsd(speed):
    plan = plan_of(speed=speed, n_envs=3)
    assert plan.acceleration["speed"] == (None if speed == "none" else speed), "speed"
    assert plan.hyperparams.n_envs == 3, "environments"


def test_the_single_file_gets_the_tuned_hyperparameters():
    settings = SingleFile(plan_of()).settings
    assert (settings.n_envs, settings.n_steps, settings.batch_size, settings.n_epochs) == (8, 32, 256, 20), "sizes"
    assert settings.learning_rate == 0.001 and settings.anneal_learning_rate, "learning rate"
    assert settings.clip_range == 0.2 and settings.anneal_clip_range, "clip range"
    assert (settings.gamma, settings.gae_lambda, settings.normalize) == (0.98, 0.8, False), "discount"
    wide = SingleFile(
        plan_of(hyperparams=("policy_kwargs:{net_arch: {pi: [8], vf: [8]}, activation_fn: ReLU}", "normalize=true"))
    ).settings
    assert (wide.hidden, wide.activation, wide.normalize) == ((8,), "ReLU", True), "network"


def test_the_advantages_of_the_single_file_are_those_of_sb3():
    settings = Settings(n_envs=2, n_steps=8, gamma=0.9, gae_lambda=0.7)
    training = Training("CartPole-v1", settings, seed=0)
    agent = PPO("MlpPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), n_steps=8,
                batch_size=16, gamma=0.9, gae_lambda=0.7, device="cpu")  # fmt: skip
    generator = np.random.default_rng(0)
    rewards, values = (generator.normal(size=(8, 2)).astype(np.float32) for _ in range(2))
    starts = generator.integers(2, size=(8, 2)).astype(np.float32)
    last, last_start = torch.randn(2, 4), generator.integers(2, size=2).astype(np.float32)
    buffer = agent.rollout_buffer
    buffer.rewards, buffer.values, buffer.episode_starts = rewards, values, starts
    last_value = training.agent.critic(last).flatten()
    buffer.compute_returns_and_advantage(last_value.detach(), last_start)
    own = training._advantages(*map(torch.as_tensor, (rewards, starts, values)), last, torch.as_tensor(last_start))
    torch.testing.assert_close(own, torch.as_tensor(buffer.advantages), msg="advantages")
    training.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_single_file_learns_from_every_rollout(env_id):
    training = Training(env_id, Settings(n_envs=2, n_steps=16, batch_size=16, n_epochs=2, normalize=True), seed=0)
    before = [p.detach().clone() for p in training.agent.parameters()]
    assert training.learn(40) == 64, "whole rollouts"
    assert all((p != q).any() for p, q in zip(training.agent.parameters(), before, strict=True)), "parameters"
    training.close()


def test_the_same_seed_gives_the_single_file_the_same_training():
    def trained():
        training = Training("CartPole-v1", Settings(n_envs=2, n_steps=16, n_epochs=1), seed=5)
        training.learn(64)
        training.close()
        return torch.cat([p.detach().flatten() for p in training.agent.parameters()])

    assert torch.equal(trained(), trained()), "another agent"


def test_sbx_and_rlsd_each_run_in_fresh_processes(monkeypatch, capsys):
    tasks = []

    def run(task, python=sys.executable):
        tasks.append((task["do"], task.get("library", "rlsd"), task["seed"], python))
        if task["do"] == "check":
            return {"versions": {"sbx-rl": "1", "jax": "2"}}
        return {"wall": 1.0, "cpu": 1.0, "steps": 64}

    monkeypatch.setattr(peers, "run_plain", run)
    monkeypatch.setattr(peers, "run_rlsd", run)
    words = f"throughput -n 64 --pairs 5 --seed 7 --peer sbx --peer-python other {TINY}"
    assert main(words.split()) == 0, "exit code"
    assert tasks[0] == ("check", "sbx", 7, "other"), "asked whether it can, before anything is timed"
    assert tasks[1:3] == [("learn", "rlsd", 7, sys.executable), ("learn", "sbx", 7, "other")], "the first pair"
    assert [seed for _, _, seed, _ in tasks[1::2]] == [7, 8, 9, 10, 11], "a seed for each pair"
    assert "sbx 1 on JAX 2" in capsys.readouterr().out, "what was measured"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--peer sbxx", "did you mean sbx"),
        ("--peer-env sames", "did you mean same?"),
        ("--peer single-file --peer-env same", "--peer-env same is of the peer sb3"),
        ("--peer-python python", "--peer-python is for the peer sbx"),
        ("--peer sbx --peer-python /nowhere/python", "/nowhere/python cannot be run"),
        ("--peer sbx --algo a2c", "ppo and sac, not a2c"),
        ("--peer single-file --algo a2c", "PPO alone, not a2c"),
        ("--peer single-file --env Pendulum-v1", "use_sde"),
        ("--peer single-file -params policy_kwargs:'{net_arch: {pi: [8], vf: [9]}}'", "two shapes"),
        ("--pairs 4", "--pairs must be 5 or more, got 4"),
        ("--speed fast", "unknown --speed 'fast'"),
        ("--n-envs 0", "--n-envs must be 1 or more, got 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    import shlex

    assert main(["throughput", *shlex.split(words)]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not said.out, "something was begun"


def test_a_missing_sbx_names_the_package(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["throughput", "--peer", "sbx"]) == 2, "exit code"
    assert "needs the package sbx-rl: pip install sbx-rl" in capsys.readouterr().err, "message"
