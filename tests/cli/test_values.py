"""Words on a command line become values, and never code."""

import pytest

from rlsd.cli.errors import UserError
from rlsd.cli.values import as_words, parse_pairs, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e5", 1e5),
        ("-3e-4", -3e-4),
        ("true", True),
        ("null", None),
        ("lin_0.001", "lin_0.001"),
        ("{net_arch: [64, 1e2]}", {"net_arch": [64, 100.0]}),
        (
            "dict(net_arch=dict(pi=[64], vf=(32, 32)), log_std_init=-2, activation_fn=nn.ReLU)",
            {"net_arch": {"pi": [64], "vf": [32, 32]}, "log_std_init": -2, "activation_fn": "ReLU"},
        ),
    ],
)
def test_a_value_is_read_as_a_person_means_it(text, value):
    assert parse_value(text) == value, f"{text} was misread"


@pytest.mark.parametrize("text", ["dict(a=open('x'))", "dict(a=[", "{a: [", "dict(**b)", "dict(a=1 + x)"])
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(UserError, match="cannot read"):
        parse_value(text)


def test_pairs_are_read_with_colon_equals_sign_or_as_json():
    pairs = {"gamma": 0.9, "policy_kwargs": {"net_arch": [8]}}
    assert parse_pairs("-params", ["gamma:0.9", "policy_kwargs:{net_arch: [8]}"]) == pairs, "rl_zoo3's way failed"
    assert parse_pairs("--distill", ["teacher.every=4096"]) == {"teacher.every": 4096}, "= failed"
    assert parse_pairs("-params", ['{"gamma": 0.9, "policy_kwargs": {"net_arch": [8]}}']) == pairs, "JSON failed"


def test_pairs_survive_being_written_as_words():
    pairs = {"gamma": 0.9, "learning_rate": "lin_0.1", "flag": None}
    assert parse_pairs("x", as_words(pairs)) == pairs, "pairs changed on the way through words"
    assert as_words({}) == (), "no pairs are no words"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--hyperparams", "--hyperparams takes key:value pairs such as gamma:0.99, "),
        ("--env-kwargs", "--env-kwargs takes key:value pairs such as map_name:8x8, "),
        ("--distill", "--distill takes key=value pairs such as strength=0.3, "),
        ("variant slow", "variant slow takes key=value pairs such as strength=0.3, "),
    ],
)
def test_what_is_no_pair_is_told_by_a_pair_that_the_flag_takes(flag, said):
    with pytest.raises(UserError, match=f"^{said}got 'strength'$"):
        parse_pairs(flag, ["strength"])
    with pytest.raises(UserError, match=f"^{said}or a JSON object, got "):
        parse_pairs(flag, ["{1: 2}"])


@pytest.mark.parametrize("words", [["gamma"], ["{1: 2}"], ["{[}"], ["=3"]])
def test_what_is_no_pair_is_refused(words):
    with pytest.raises(UserError):
        parse_pairs("--hyperparams", words)
