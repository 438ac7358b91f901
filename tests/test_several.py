"""The configs of several distillations: from a list to plain data and back, and what is no such list."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from stable_baselines3 import DQN

import rlsd
from rlsd.presets import recipe, resolve
from rlsd.several import DistillConfigs, by_name, config_from, each


def names(distill: Any) -> list[str]:
    found = resolve(distill)
    assert isinstance(found, DistillConfigs)
    return [*found.members]


def test_a_list_names_each_by_its_recipe_or_its_teacher_or_as_told() -> None:
    assert names(["remember", "guard"]) == ["remember", "guard"]
    assert names("remember+guard") == ["remember", "guard"]
    assert names([rlsd.DistillConfig(teacher="ema"), {"teacher": "best"}]) == ["ema", "best"]
    told = [{"name": "slow", "recipe": "snapshot", "strength": 0.3}, {"name": "fast", "teacher": "ema"}, "snapshot"]
    assert names(told) == ["slow", "fast", "snapshot"]
    found = resolve(told)
    assert isinstance(found, DistillConfigs)
    assert found.members["slow"] == recipe("snapshot", strength=0.3)
    assert found.members["fast"] == rlsd.DistillConfig(teacher="ema")


def test_recipes_are_fitted_to_the_algorithm() -> None:
    found = resolve(["selective", "phasic"])
    fitted = resolve(["selective", {"recipe": "guard"}], DQN)
    assert isinstance(fitted, DistillConfigs) and isinstance(found, DistillConfigs)
    assert fitted.members["selective"] == recipe("selective", values=False) != found.members["selective"]


def test_plain_data_and_yaml_give_back_the_same() -> None:
    configs = resolve(["remember", {"name": "belt", "recipe": "guard"}])
    assert configs is not None
    for data in (configs.to_dict(), yaml.safe_load(yaml.safe_dump(configs.to_dict()))):
        assert config_from(data) == configs
        assert resolve(data) == configs
    assert resolve(configs) is configs
    single = recipe("guard")
    assert config_from(single.to_dict()) == single
    assert each(configs) == [*configs.members.values()]
    assert (each(single), each(None)) == ([single], [])


def test_a_change_is_for_the_one_that_it_names() -> None:
    configs = resolve(["snapshot", "guard"])
    assert isinstance(configs, DistillConfigs)
    changed = configs.changed({"snapshot.strength.value": 0.3, "snapshot.teacher": "ema"})
    assert changed.members["guard"] == configs.members["guard"]
    assert changed.members["snapshot"] == configs.members["snapshot"].changed({"strength.value": 0.3, "teacher": "ema"})
    assert by_name({"a.b.c": 1}, ["a", "b"]) == {"a": {"b.c": 1}, "b": {}}


def test_a_change_without_a_name_is_for_each_but_where_one_is_named() -> None:
    configs = resolve(["snapshot", "guard"], changes={"guard.strength": 0.5, "strength": 0.3, "timing.stride": 8})
    assert isinstance(configs, DistillConfigs)
    values = {name: config.to_dict()["strength"]["value"] for name, config in configs.members.items()}
    assert values == {"snapshot": 0.3, "guard": 0.5}
    assert [config.to_dict()["timing"]["stride"] for config in each(configs)] == [8, 8]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "distill is an empty list"),
        (["guard", "guard"], "distill names 'guard' twice: leave one out, or call them otherwise"),
        (["phasic", "reborn"], "distillations 'phasic' and 'reborn' would both train the policy beside"),
        (["guard", "nonsense"], "unknown recipe 'nonsense'"),
        (
            ["guard", 3],
            "each of several distillations must be a recipe's name, a mapping of answers or a DistillConfig, got 3",
        ),
        ([{"name": "a/b", "recipe": "guard"}], "must be a word without '/', '.' and '+', got 'a/b'"),
        ([{"name": "", "teacher": "ema"}], "must be a word"),
        ({"distillations": 3}, "distillations must be a list of distillations, and nothing beside it"),
        ({"distillations": ["guard"], "teacher": "ema"}, "and nothing beside it"),
        ("guard+", "must be a word without '/', '.' and '+', got ''"),
    ],
    ids=str,
)
def test_what_is_no_such_list_is_refused_in_a_line(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        resolve(wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["teacher.every", "teacher", "snapshot", "other.strength"])
def test_a_change_that_names_none_is_refused(key: str) -> None:
    configs = resolve(["snapshot", "guard"])
    assert configs is not None
    with pytest.raises(ValueError, match=r"does not say which distillation it changes: begin it with snapshot\. or"):
        configs.changed({key: 1})


def test_saved_data_without_names_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a mapping with a name, got 'guard'"):
        config_from({"distillations": ["guard"]})
