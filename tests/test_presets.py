"""Recipes: names for five answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ALGORITHMS, small_agent
from sb3_contrib import ARS
from stable_baselines3 import PPO

from rlsd import (
    KL,
    Constant,
    DistillConfig,
    Frozen,
    Mixture,
    ReturnGate,
    SelfDistilled,
    Snapshot,
    distill,
    recipe,
    recipes,
)
from rlsd.config import DEFAULTS, QUESTIONS
from rlsd.presets import _RECIPES, DEFAULT, describe, has_values, resolve

VALUES = ("PPO", "A2C", "TRPO", "MaskablePPO")


def whole(name, **changes):
    """A recipe, with a teacher where it needs one."""
    return recipe(name, **({"teacher": "teacher.zip"} if name == "kickstart" else {}), **changes)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_config_that_says_what_it_is_in_one_line(name):
    assert isinstance(whole(name), DistillConfig)
    assert "\n" not in describe(name)
    assert len(describe(name)) < 120
    assert _RECIPES[name].source, "whose method is it?"
    assert set(_RECIPES[name].answers) <= set(QUESTIONS)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_survives_being_written_down(name):
    assert DistillConfig.from_yaml(whole(name).to_yaml()) == whole(name)
    assert DistillConfig.from_json(whole(name).to_json()) == whole(name)


def test_every_recipe_is_another():
    configs = [whole(name) for name in recipes()]
    assert all(configs.count(config) == 1 for config in configs)


@pytest.mark.parametrize("name", [name for name in recipes() if name not in ("selective", "remember")])
@pytest.mark.parametrize("values", [True, False])
def test_without_values_of_states_a_recipe_leaves_out_their_term_and_nothing_else(name, values):
    config = whole(name, values=values)
    assert config.changed({"divergence.value_weight": 0.0}) == whole(name).changed({"divergence.value_weight": 0.0})
    assert values or config.divergence.value_weight == 0.0


def test_without_values_of_states_selective_pulls_harder_and_only_where_the_agent_no_longer_goes():
    config = whole("selective", values=False)
    assert (config.teacher.visited, config.teacher.average) == (0.0, 0.0)
    assert config.strength.value > whole("selective").strength.value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_agent_built_with_a_recipes_name_knows_whether_it_has_values(algorithm):
    agent = small_agent(algorithm, wrap=SelfDistilled, distill="rehearse")
    assert has_values(type(agent)) == has_values(type(small_agent(algorithm))) == (algorithm in VALUES)
    assert agent.distiller.config == recipe("rehearse", values=algorithm in VALUES)
    assert agent.distiller.config.divergence == KL(value_weight=0.5 if algorithm in VALUES else 0.0)
    assert distill(agent, "rehearse").distiller.config == recipe("rehearse", values=algorithm in VALUES), "once more"


@pytest.mark.parametrize("given", ["teacher.zip", Path("teacher.zip"), {"path": "teacher.zip"}, Frozen("teacher.zip")])
def test_kickstart_takes_its_teacher_in_every_form(given):
    assert recipe("kickstart", teacher=given).teacher == Frozen("teacher.zip")
    assert recipe("kickstart", **{"teacher.path": "teacher.zip"}).teacher == Frozen("teacher.zip")


def test_kickstart_takes_a_live_agent_too():
    agent = small_agent("PPO")
    assert recipe("kickstart", teacher=agent).teacher == Frozen(agent=agent)


def test_kickstart_takes_the_statistics_that_its_teacher_saw_through():
    changes = {"teacher": "teacher.zip", "teacher.vecnormalize": "statistics.pkl"}
    assert recipe("kickstart", **changes).teacher == Frozen("teacher.zip", vecnormalize="statistics.pkl")


def test_kickstart_takes_another_kind_of_teacher():
    assert recipe("kickstart", teacher="origin").teacher.name == "frozen", "a name is a path here"
    assert recipe("kickstart", teacher=Snapshot(every=5)).teacher == Snapshot(every=5)


def test_kickstart_without_a_teacher_says_how_to_give_one():
    with pytest.raises(ValueError, match=r"^teacher 'frozen' needs a trained agent, either teacher\.path or .*zip"):
        recipe("kickstart")
    with pytest.raises(ValueError, match=r"^teacher 'frozen' needs a trained agent"):
        resolve("kickstart")


def test_half_of_what_rehearse_draws_is_new():
    states = recipe("rehearse").states
    assert isinstance(states, Mixture)
    assert states.counts() == [64, 64]


def test_snapshot_is_a_recipe():
    assert "snapshot" in recipes()
    assert isinstance(recipe("snapshot").teacher, Snapshot)


def test_a_recipe_takes_whole_answers_and_single_fields():
    changed = recipe("snapshot", strength=0.3, **{"teacher.every": 4096, "states.capacity": 500})
    assert changed.strength == Constant(0.3)
    assert changed.teacher == Snapshot(every=4096)
    assert changed.states.capacity == 500
    assert changed.states.batch_size == recipe("snapshot").states.batch_size
    assert recipe("snapshot") == recipe("snapshot", strength=recipe("snapshot").strength), "a recipe was changed"


@pytest.mark.parametrize("ask", [recipe, describe])
def test_what_is_no_name_is_an_unknown_one(ask):
    with pytest.raises(ValueError, match=r"unknown recipe \['x'\]; known: selective"):
        ask(["x"])


@pytest.mark.parametrize("ask", [recipe, describe, resolve])
def test_an_unknown_name_is_an_error_that_lists_the_known(ask):
    known = re.escape(", ".join(recipes()))
    with pytest.raises(ValueError, match=f"unknown recipe 'snapshoot'; did you mean 'snapshot'\\? known: {known}$"):
        ask("snapshoot")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teachr": "snapshot"}, "unknown key teachr = 'snapshot'; did you mean 'teacher'?"),
        ({"teacher.evry": 5}, "unknown key teacher.evry = 5 for 'snapshot'; did you mean 'every'?"),
        ({"teacher.every": 0}, "teacher.every must be a whole number >= 1, got 0"),
        ({"teachr.every": 5}, "unknown key teachr.every = 5; did you mean 'teacher'?"),
    ],
)
def test_a_wrong_change_is_an_error_that_names_key_and_value(changes, said):
    with pytest.raises(ValueError, match="^" + said.replace("?", r"\?").replace(".", r"\.")):
        recipe("snapshot", **changes)


@pytest.mark.parametrize("off", [None, False])
def test_no_distillation_is_no_config(off):
    assert resolve(off) is None


def test_true_is_the_default_recipes_and_arss_is_the_one_that_needs_no_episodes():
    assert DEFAULT == "remember+guard"
    assert resolve(True) == resolve(True, PPO) == resolve(DEFAULT)
    assert resolve(True, ARS) == resolve(True, SelfDistilled(ARS)) == recipe("guard")


def test_a_config_of_nothing_is_the_plain_answers():
    assert {question: getattr(DistillConfig(), question).name for question in DEFAULTS} == DEFAULTS
    assert resolve({}) == DistillConfig()


def test_the_default_pulls_only_after_a_change_or_while_the_agent_is_behind_its_teacher():
    remember, guard = resolve(True).members.values()
    assert isinstance(guard.teacher, Snapshot)
    assert [type(gate) for gate in guard.strength.gates] == [ReturnGate]
    assert remember == recipe("remember") and guard.states == remember.states, "each state is stored twice"


def test_a_config_a_name_and_a_mapping_are_taken_as_they_are():
    config = DistillConfig(strength=0.5)
    assert resolve(config) is config
    assert resolve("snapshot") == recipe("snapshot")
    assert resolve({"strength": 0.5}) == config
    assert resolve(config.to_dict()) == config


@pytest.mark.parametrize("wrong", [3, 0.5, {1}, DistillConfig, object()])
def test_anything_else_is_an_error_that_says_what_is_taken(wrong):
    with pytest.raises(
        ValueError, match="distill must be a recipe's name, a DistillConfig, a list of them, True or None, got "
    ):
        resolve(wrong)
