"""Recipes: names for five answers."""

from __future__ import annotations

import pytest

from rlsd import Constant, DistillConfig, ReturnGate, Snapshot, recipe, recipes
from rlsd.config import DEFAULTS
from rlsd.recipes import DEFAULT, describe, resolve


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_config_that_says_what_it_is_in_one_line(name):
    assert isinstance(recipe(name), DistillConfig)
    assert describe(name).endswith(".")
    assert "\n" not in describe(name)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_survives_being_written_down(name):
    assert DistillConfig.from_yaml(recipe(name).to_yaml()) == recipe(name)
    assert DistillConfig.from_json(recipe(name).to_json()) == recipe(name)


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


@pytest.mark.parametrize("ask", [recipe, describe, resolve])
def test_an_unknown_name_is_an_error_that_lists_the_known(ask):
    with pytest.raises(
        ValueError, match="unknown recipe 'snapshoot'; did you mean 'snapshot'\\? known: guard, snapshot"
    ):
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


def test_true_is_the_default_recipe():
    assert DEFAULT == "guard"
    assert resolve(True) == recipe(DEFAULT)


def test_a_config_of_nothing_is_the_plain_answers():
    assert {question: getattr(DistillConfig(), question).name for question in DEFAULTS} == DEFAULTS
    assert resolve({}) == DistillConfig()


def test_the_default_pulls_only_while_the_agent_is_behind_its_teacher():
    config = recipe(DEFAULT)
    assert isinstance(config.teacher, Snapshot)
    assert [type(gate) for gate in config.strength.gates] == [ReturnGate]


def test_a_config_a_name_and_a_mapping_are_taken_as_they_are():
    config = DistillConfig(strength=0.5)
    assert resolve(config) is config
    assert resolve("snapshot") == recipe("snapshot")
    assert resolve({"strength": 0.5}) == config
    assert resolve(config.to_dict()) == config


@pytest.mark.parametrize("wrong", [3, 0.5, ["snapshot"], DistillConfig, object()])
def test_anything_else_is_an_error_that_says_what_is_taken(wrong):
    with pytest.raises(ValueError, match="distill must be a recipe's name, a DistillConfig, True or None, got "):
        resolve(wrong)
