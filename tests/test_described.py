"""What the doors tell: signatures, docstrings, the words they keep, and what a second distillation drops."""

import inspect

import pytest
from helpers import small_agent
from stable_baselines3 import DQN, PPO

import rlsd


def test_help_shows_the_arguments_of_both():
    cls = rlsd.SelfDistilled(PPO)
    known = inspect.signature(cls).parameters
    assert list(known)[:3] == ["policy", "env", "learning_rate"], "the base's come first"
    assert {"distill", "speed", "rollout_device", "strength"} <= set(known)
    assert ":param learning_rate:" in cls.__doc__ and ":param distill:" in cls.__doc__
    assert "learning_starts" in inspect.signature(rlsd.SelfDistilled(DQN)).parameters, "each class has its own"


def test_a_subclass_keeps_its_own_signature_and_its_own_words():
    class Mine(PPO):
        def __init__(self, policy, env, teacher, **kwargs):
            self.mine = teacher
            super().__init__(policy, env, **kwargs)

    agent = rlsd.SelfDistilled(Mine)("MlpPolicy", "CartPole-v1", teacher="mine", n_steps=8, batch_size=8, strength=0.5)
    assert agent.mine == "mine"
    assert [member.config.strength.value for member in agent.distiller.members.values()] == [0.5, 0.5]

    class Below(rlsd.SelfDistilled(PPO)):
        def __init__(self, only):
            super().__init__("MlpPolicy", "CartPole-v1")

    assert list(inspect.signature(Below).parameters) == ["only"]


@pytest.mark.parametrize("change", [{"strength": 0.3}, {"teacher.every": 7}, {"teacher": rlsd.Snapshot(every=7)}])
def test_every_door_takes_the_same_changes(change):
    wanted = rlsd.recipe("snapshot", **change)
    built = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, distill="snapshot", **change)
    assert built.distiller.config == wanted, "the class"
    assert rlsd.distill(small_agent("PPO"), "snapshot", **change).distiller.config == wanted, "the function"
    assert rlsd.SelfDistillation("snapshot", **change).config == wanted, "the callback"
    assert rlsd.SelfDistillation(rlsd.recipe("snapshot"), **change).config == wanted, "the callback, of a config"


def test_the_class_takes_changes_to_one_of_several_by_its_name():
    change = {"snapshot.strength.value": 0.3}
    agent = rlsd.SelfDistilled(PPO)(
        "MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, distill="ema+snapshot", **change
    )
    assert agent.distiller.members["snapshot"].config.strength.value == 0.3


def test_a_change_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="strength changes a distillation, and there is none"):
        rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", distill=None, strength=0.3)


def test_a_second_distill_says_what_it_drops(recwarn):
    agent = rlsd.distill(small_agent("PPO"), "snapshot")
    rlsd.distill(agent, "ema")
    assert not recwarn.list, "nothing had been learned yet"
    agent.learn(64)
    with pytest.warns(UserWarning, match="starts over with teacher 'snapshot': its teacher 'ema' and .* are dropped"):
        rlsd.distill(agent, "snapshot")
