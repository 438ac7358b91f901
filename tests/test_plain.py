"""Plain data of anybody's: read within bounds, and shown on one short line."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import rlsd
from rlsd.cli.errors import UserError
from rlsd.cli.values import parse_pairs, parse_value
from rlsd.plain import DEPTH, read_json, read_yaml, shown

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 9)}], k{new}: 1}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "aliases of aliases": (LAUGHS, "stands for more than 100,000 values"),
    "a teacher of aliases": (LAUGHS + "teacher: {type: snapshot, every: *i}", "stands for more than 100,000 values"),
    "merges of merges": (MERGES, "stands for more than 100,000 values"),
    "keys and values": (
        "a: &a [" + "x," * 999 + "]\n" + "".join(f"k{i}: *a\n" for i in range(150)),
        "more than 100,000 values",
    ),
    "a list of itself": ("teacher: &a [*a]", "refers to itself"),
    "a mapping of itself": ("&a teacher: {x: &b {y: *b}}", "refers to itself"),
    "two of each other": ("a: &a {b: &b [*a, *b]}", "refers to itself"),
    "deep lists": ("[" * 3000, "more than 50 levels deep"),
    "deep mappings": ("".join(" " * i + f"k{i}:\n" for i in range(60)) + " " * 61 + "x", "more than 50 levels deep"),
    "deep JSON": ('{"a":' * 5000 + "1" + "}" * 5000, "more than 50 levels deep"),
    "an unknown name": ("a: *b", "undefined alias"),
    "a day that is none": ("teacher: 2020-99-99", "month must be in"),
    "a number too long": ("teacher: " + "1" * 5000, "Exceeds the limit"),
    "a tag that does not fit": ("teacher: !!timestamp no", "AttributeError"),
    "code": ("teacher: !!python/object/apply:os.mkdir [x]", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "said"), BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_one_short_line_at_every_door(text, said, tmp_path):
    doors = {
        "a config": lambda: rlsd.DistillConfig.from_yaml(text),
        "a value": lambda: parse_value(text),
        "a pair": lambda: parse_pairs("--distill", [f"teacher={text}"]),
    }
    for name, door in doors.items():
        if name == "a pair" and not text.startswith(("[", "{", '{"')):
            continue
        with pytest.raises((ValueError, UserError), match=said) as caught:
            door()
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 1000, name


def test_aliases_and_merges_of_people_are_read():
    text = "base: &b {every: 5, type: snapshot}\nteacher: {<<: *b, every: 7}\nboth: [*b, *b]\n"
    assert read_yaml(text) == yaml.safe_load(text)
    nested = "[" * DEPTH + "]" * DEPTH
    assert read_yaml(nested) == yaml.safe_load(nested)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(value=plain)
def test_what_is_written_is_read_back(value):
    assert read_yaml(yaml.safe_dump(value)) == yaml.safe_load(yaml.safe_dump(value))
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "[" * 51 + "]" * 51, '{"a":' * 60 + "1" + "}" * 60, "[" + "[]," * 2 * 10**6 + "1]", "9" * 5000],
)
def test_json_without_bounds_is_a_valueerror(text):
    for given_as in (text, text.encode()):
        with pytest.raises(ValueError, match=r"levels deep|more than 2,000,000 values|Exceeds the limit"):
            read_json(given_as)
    with pytest.raises(ValueError, match="the distillation config is not valid JSON"):
        rlsd.DistillConfig.from_json(text)


@given(value=plain)
def test_a_short_value_is_shown_as_python_writes_it(value):
    written = repr(value)
    if len(written) < 100 and str(value).count(",") < 20:
        assert shown(value) == " ".join(written.split())
    assert "\n" not in shown(value)
    assert len(shown(value)) <= 303


def test_a_long_value_is_shown_by_its_beginning():
    loop: list[object] = [1]
    loop.append(loop)
    wide = ["x" * 1000] * 10
    for _ in range(30):
        wide = [wide] * 10
    many = {i: list(range(1000)) for i in range(1000)}
    for value in ("y" * 10**7, 10**100_000, -(10**100_000), loop, wide, many, {"a": wide}, (wide,), ["z\n"] * 10**6):
        assert len(shown(value)) <= 303
        assert "\n" not in shown(value)
    assert shown([1, 2.5, "a", None, True, (1,), {"k": -3}]) == "[1, 2.5, 'a', None, True, (1,), {'k': -3}]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": {"every": "x" * 10**6}},
        {"teacher": {"x" * 10**6: 1}},
        {"x" * 10**6: 1},
        {"teacher": "x" * 10**6},
        {"teacher": ["x" * 10**6] * 10},
        {"strength": {"type": "constant", "value": 10**5000}},
        {"strength": {"gates": [["x"] * 10**5]}},
        ["x" * 10**6],
    ],
)
def test_a_message_about_a_long_value_is_short(wrong):
    with pytest.raises(ValueError, match=r".") as caught:
        rlsd.DistillConfig.from_dict(wrong)
    assert len(str(caught.value)) < 1500
