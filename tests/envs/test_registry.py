import gymnasium as gym
import pytest

from rlsd_envs import UnknownEnvironment
from rlsd_envs.registry import find_spec, nearest_ids, unknown_message


def test_a_registered_id_is_found():
    assert find_spec("CartPole-v1").id == "CartPole-v1"


def test_a_module_named_in_the_id_is_imported_first():
    assert find_spec("gymnasium.envs:CartPole-v1").id == "CartPole-v1"


@pytest.mark.parametrize("wrong", ["Cartpole-v1", "CartPol-v1", "CartPole-v7", "CartPole"])
def test_a_misspelt_id_gets_the_nearest_in_one_line(wrong):
    with pytest.raises(UnknownEnvironment, match=r"Did you mean .*CartPole-v1") as caught:
        find_spec(wrong)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_id_like_no_other_gets_no_suggestion():
    assert unknown_message("zzzz", gym.registry) == "Unknown environment 'zzzz'."


def test_the_newer_of_two_versions_comes_first():
    assert nearest_ids("HalfCheetah-v9", ["HalfCheetah-v4", "HalfCheetah-v5"])[0] == "HalfCheetah-v5"


def test_a_module_that_is_missing_is_named():
    with pytest.raises(UnknownEnvironment, match="no_such_module"):
        find_spec("no_such_module:My-v0")


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "package 'minigrid', which is not installed: pip install 'rlsd[envs]'." in unknown_message(
        "MiniGrid-Nowhere-v0", []
    )


def test_an_id_of_envpool_is_sent_there():
    pytest.importorskip("envpool")
    with pytest.raises(UnknownEnvironment, match="EnvPool has it: use backend='envpool'"):
        find_spec("CoinrunEasy-v0")


def test_atari_ids_are_registered_on_the_way():
    pytest.importorskip("ale_py")
    assert find_spec("ALE/Pong-v5").id == "ALE/Pong-v5"
    assert find_spec("PongNoFrameskip-v4").id == "PongNoFrameskip-v4"


def test_minatar_ids_are_registered_on_the_way():
    pytest.importorskip("minatar")
    assert find_spec("MinAtar/Breakout-v1").id == "MinAtar/Breakout-v1"
