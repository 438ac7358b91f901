"""What is said while a run is trained."""

import pytest

import rlsd
from rlsd.cli.session import _Changes
from rlsd.hooks import announce


@pytest.mark.parametrize("progress", [False, True])
def test_a_change_of_the_task_is_a_line_unless_it_would_tear_a_progress_bar_apart(progress, capsys):
    announce(_Changes(progress), "on_change", None, rlsd.ChangeEvent(2048, 1200, "change", 3141.5, 2000.0))
    said = "  step     2,048  the task changed at about step 1,200 (evidence 3.14e+03, bound 2e+03)\n"
    assert capsys.readouterr().out == ("" if progress else said)
