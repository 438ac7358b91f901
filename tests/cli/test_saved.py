"""Saved agents are found where people leave them, and act as they did."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import ALGORITHMS, OBSERVATION_SPACES, observe, small_agent, vec_env
from stable_baselines3 import A2C, PPO

from rlsd.cli.errors import UserError
from rlsd.cli.saved import AgentOptions, find_agent
from rlsd.cli.saved_policy import algorithm_of, read_policy

CPU = torch.device("cpu")


def acts_alike(agent, file):
    """Compare what an agent and the policy read from its zip do on the same observations."""
    env = agent.get_env()
    policy = read_policy(file, env, CPU)
    seen = observe(env.observation_space)
    seen = {key: value.numpy() for key, value in seen.items()} if isinstance(seen, dict) else seen.numpy()
    # gSDE keeps its noise, drawn when the policy is made, from one action to the next.
    for deterministic in (True, False)[: 1 if getattr(agent, "use_sde", False) else 2]:
        torch.manual_seed(3)
        expected = agent.policy.predict(seen, deterministic=deterministic)[0]
        torch.manual_seed(3)
        np.testing.assert_array_equal(policy.predict(seen, deterministic=deterministic)[0], expected)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_policy_read_from_a_zip_acts_as_the_agent_that_was_saved(name, tmp_path):
    agent = small_agent(name)
    agent.save(tmp_path / "agent.zip")
    acts_alike(agent, tmp_path / "agent.zip")
    assert algorithm_of(tmp_path / "agent.zip") == name.replace("DDPG", "TD3")


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_kwargs": {"net_arch": [5], "activation_fn": torch.nn.ELU, "optimizer_class": torch.optim.SGD}},
        {"use_sde": True, "policy_kwargs": {"net_arch": [5], "log_std_init": -1.0}},
    ],
    ids=["classes", "gSDE"],
)
def test_the_policys_arguments_are_read_without_unpickling(changes, tmp_path):
    agent = small_agent("A2C", **changes)
    agent.save(tmp_path / "agent.zip")
    acts_alike(agent, tmp_path / "agent.zip")


def test_dicts_of_images_are_seen(tmp_path):
    env = vec_env(OBSERVATION_SPACES["dict"])
    agent = small_agent("PPO", env, policy="MultiInputPolicy", policy_kwargs={"net_arch": [4]})
    agent.save(tmp_path / "agent.zip")
    acts_alike(agent, tmp_path / "agent.zip")


def test_code_in_a_zip_does_not_run(tmp_path):
    class Own(torch.nn.ReLU):
        pass

    agent = small_agent("A2C", policy_kwargs={"net_arch": [5], "activation_fn": Own})
    agent.save(tmp_path / "own.zip")
    with pytest.raises(UserError, match=r"own\.zip: its policy has arguments of its own .* --trust unpickles them"):
        read_policy(tmp_path / "own.zip", agent.get_env(), CPU)
    policy = read_policy(tmp_path / "own.zip", agent.get_env(), CPU, trust=True)
    assert [layer for layer in policy.modules() if type(layer).__name__ == "Own"], "not unpickled"


def test_the_run_of_an_environment_is_found_by_its_names(small_run):
    logs = str(small_run.parents[1])
    agent = find_agent(AgentOptions(env="CartPole-v1", folder=logs))
    assert agent.file == small_run / "CartPole-v1.zip", "the final agent of the latest run"
    assert agent.statistics == small_run / "CartPole-v1" / "vecnormalize.pkl", "its statistics"
    assert find_agent(AgentOptions(agent=str(small_run))) == agent, "by its folder"
    assert find_agent(AgentOptions(agent=str(agent.file))) == agent, "by its zip"
    best = find_agent(AgentOptions(agent=str(small_run), load_best=True))
    assert best.file.name == "best_model.zip" and best.statistics.name == "best_vecnormalize.pkl"
    last = find_agent(AgentOptions(agent=str(small_run), load_last_checkpoint=True))
    assert last.file == small_run / "checkpoints" / "256" / "agent.zip" and last.statistics.is_file()
    assert last == find_agent(AgentOptions(agent=str(small_run), load_checkpoint=256))


def test_observations_are_normalised_by_the_saved_statistics(small_run):
    agent = find_agent(AgentOptions(agent=str(small_run)))
    env = agent.make_env(1, 7)
    raw = gym.make("CartPole-v1").reset(seed=7)[0]
    assert not np.allclose(env.reset()[0], raw), "not normalised"
    np.testing.assert_allclose(env.unnormalize_obs(env.normalize_obs(raw)), raw, atol=1e-5)
    assert not env.training and not env.norm_reward, "statistics or rewards would change"
    env.close()


def test_statistics_beside_a_zip_of_sb3s_callback_are_found(small_run, tmp_path):
    shutil.copy(small_run / "CartPole-v1.zip", tmp_path / "rl_model_1000_steps.zip")
    shutil.copy(small_run / "CartPole-v1" / "vecnormalize.pkl", tmp_path / "rl_model_vecnormalize_1000_steps.pkl")
    found = find_agent(AgentOptions(agent=str(tmp_path / "rl_model_1000_steps.zip"), env="CartPole-v1"))
    assert found.statistics == tmp_path / "rl_model_vecnormalize_1000_steps.pkl"


def test_a_run_of_rl_zoo3_is_read_by_its_names(small_run, tmp_path):
    run = tmp_path / "ppo" / "CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    shutil.copy(small_run / "CartPole-v1.zip", run)
    for name in ("args.yml", "config.yml"):
        (run / "CartPole-v1" / name).write_text("!!python/object/apply:collections.OrderedDict\n- - - env\n    - x\n")
    shutil.copy(small_run / "CartPole-v1" / "vecnormalize.pkl", run / "CartPole-v1")
    found = find_agent(AgentOptions(agent=str(run)))
    assert (found.env_id, found.statistics) == ("CartPole-v1", run / "CartPole-v1" / "vecnormalize.pkl")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, small_run) -> Path:
    """Files and folders that hold no agent to be played."""
    folder = tmp_path_factory.mktemp("wrong")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(folder / "whole.zip")
    A2C("MlpPolicy", "Pendulum-v1", device="cpu").save(folder / "pendulum.zip")
    data = (folder / "whole.zip").read_bytes()
    (folder / "cut.zip").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(folder / "library.zip", "w") as archive:
        archive.writestr("model.json", "{}")
    begun = folder / "ppo" / "CartPole-v1_1"
    shutil.copytree(small_run, begun)
    for name in ("CartPole-v1.zip", "best_model.zip"):
        (begun / name).unlink()
    shutil.copytree(begun, begun.with_name("CartPole-v1_2"))
    shutil.rmtree(begun.with_name("CartPole-v1_2") / "checkpoints")
    unseen = begun.with_name("CartPole-v1_3")
    shutil.copytree(small_run, unseen)
    (unseen / "CartPole-v1" / "vecnormalize.pkl").unlink()
    return folder


WRONG = {
    "nothing": ("", ["which agent"]),
    "no such run": ("nowhere_1", ["no run 'nowhere_1'"]),
    "a folder that is no run": ("FOLDER", ["not the folder of a run"]),
    "no run of that environment": ("--env Acrobot-v1 -f FOLDER", ["no run of Acrobot-v1", "rlsd train"]),
    "no run of that number": ("--env CartPole-v1 -f FOLDER --exp-id 9", ["no run 9", "1, 2, 3"]),
    "a half-written run": ("FOLDER/ppo/CartPole-v1_1", ["has no CartPole-v1.zip", "--load-last-checkpoint"]),
    "a run that was just begun": ("FOLDER/ppo/CartPole-v1_2", ["stopped before it saved any"]),
    "a run without its statistics": ("FOLDER/ppo/CartPole-v1_3", ["statistics is missing"]),
    "no such checkpoint": ("FOLDER/ppo/CartPole-v1_1 --load-checkpoint 7", ["no checkpoint at step 7", "256"]),
    "a zip of another library": ("FOLDER/library.zip --env CartPole-v1", ["no whole zip of Stable-Baselines3"]),
    "half a zip": ("FOLDER/cut.zip --env CartPole-v1", ["cut.zip is no whole zip"]),
    "a zip that does not say its environment": ("FOLDER/whole.zip", ["give --env"]),
    "another environment": ("FOLDER/pendulum.zip --env CartPole-v1", ["cannot act in this environment"]),
    "an unknown environment": ("FOLDER/whole.zip --env CartPol-v1", ["CartPole-v1"]),
    "an unknown device": ("FOLDER/whole.zip --env CartPole-v1 --device tpu9", ["tpu9"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_agent_is_told_in_one_line(case, wrong, refused):
    words, hints = WRONG[case]
    said = refused("evaluate", *words.replace("FOLDER", str(wrong)).split())
    assert all(hint in said for hint in hints), said
