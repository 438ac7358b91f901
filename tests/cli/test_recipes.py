"""``rlsd recipes``."""

import pytest

import rlsd
from rlsd.cli.main import main
from rlsd.cli.recipes import WHEN


def test_the_recipes_are_listed_with_a_line_each(capsys):
    assert main(["recipes"]) == 0, "exit code"
    *lines, empty, default = capsys.readouterr().out.splitlines()
    assert not empty and "The default is remember+guard" in default, "which of them an agent gets"
    assert [line.split()[0] for line in lines] == list(rlsd.recipes()), "names"
    assert all(len(line.split()) > 3 for line in lines), "descriptions"
    assert main(["recipes", "--help"]) == 0, "help"


@pytest.mark.parametrize("name", rlsd.recipes())
def test_a_recipe_is_told_with_answers_that_can_be_read_back(name, capsys):
    assert main(["recipes", name]) == 0, "exit code"
    head, answers = capsys.readouterr().out.split("\n\n", 1)
    expected = rlsd.recipe(name, **({"teacher": "TEACHER.zip"} if name == "kickstart" else {}))
    assert rlsd.DistillConfig.from_yaml(answers) == expected, "answers"
    assert "Source" in head and f"--recipe {name}" in head and WHEN[name] in head, head


def test_several_recipes_at_once_are_told_one_after_the_other(capsys, refused):
    assert main(["recipes", "guard"]) == main(["recipes", "remember"]) == 0
    apart = capsys.readouterr().out
    assert main(["recipes", "guard+remember"]) == 0, "as the first line of a run names them"
    assert capsys.readouterr().out.replace("\n\nremember,", "\nremember,") == apart
    assert "did you mean 'guard'" in refused("recipes", "remember+gard"), "and nothing of the other"


def test_a_recipe_that_is_none_is_one_line(refused):
    assert "selective" in refused("recipes", "selectiv")
    assert "one name" in refused("recipes", "guard", "best")
