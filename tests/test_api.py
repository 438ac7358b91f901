"""The public names: each is there, documented, and stands once."""

import pytest

import rlsd


def test_the_public_list_is_free_of_repeats():
    assert len(set(rlsd.__all__)) == len(rlsd.__all__), "a name stands twice in rlsd.__all__"


def test_the_package_shows_few_names_and_keeps_the_others():
    shown = dir(rlsd)
    assert len(shown) < 30 and "Snapshot" not in shown, "more than one screen"
    assert all(getattr(rlsd, name) is not None for name in shown), "what is shown is not there"
    assert rlsd.teachers.Snapshot is rlsd.Snapshot and rlsd.students.Phase is rlsd.Phase


@pytest.mark.parametrize("name", rlsd.__all__)
def test_a_public_name_exists_and_is_documented(name):
    thing = getattr(rlsd, name)
    if isinstance(thing, str):  # __version__
        return
    doc = thing.__doc__ or ""
    assert doc.strip(), f"rlsd.{name} has no docstring"
    # A dataclass without a docstring is given its own signature as one.
    assert not doc.startswith(f"{name}("), f"rlsd.{name} has no docstring of its own"
