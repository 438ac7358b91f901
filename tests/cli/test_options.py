"""The flags of ``rlsd train``."""

import pytest

from rlsd.cli.errors import UserError
from rlsd.cli.options import TrainOptions, parse


def test_rl_zoo3s_short_flags_work():
    words = "--env A -n 1e5 -f out -i a.zip -tb tb -P -params gamma:0.9 n_steps:8"
    options = parse(words.split())
    assert (options.n_timesteps, options.log_folder, options.trained_agent) == (100_000, "out", "a.zip"), "short flags"
    assert (options.tensorboard_log, options.progress) == ("tb", True), "short flags"
    assert options.hyperparams == ("gamma:0.9", "n_steps:8"), "pairs"


def test_options_survive_args_yml():
    options = parse(["--env", "A", "-params", "gamma:0.9", "--env-kwargs", "a:1", "--distill", "strength.value=0.3"])
    again = TrainOptions.from_dict(options.to_dict())
    assert again.to_dict() == options.to_dict(), "options changed on the way through args.yml"
    assert options.to_dict()["env_kwargs"] == {"a": 1}, "rl_zoo3 reads env_kwargs as a mapping"


def test_a_key_of_another_version_is_ignored():
    assert TrainOptions.from_dict({"env": "A", "from_the_future": 1}).env == "A", "an unknown key broke reading"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--env is missing"),
        ("--env A --env B", "--env is there twice"),
        ("--env=A -n 64 --env B", "--env is there twice"),
        ("--env A --sed 3", "--sed.*did you mean --seed"),
        ("--env A -n abc", "abc"),
        ("--env A -n 1.5", "1.5"),
        ("--env A -n inf", "inf"),
        ("--env A -n 0", "--n-timesteps must be 1 or more, got 0"),
        ("--env A --eval-freq -1", "--eval-freq must be 0 or more, got -1"),
        ("--env A --save-freq -5", "--save-freq must be 0 or more, got -5"),
        ("--env A --n-envs 0", "--n-envs must be 1 or more, got 0"),
        ("--env A --num-threads 0", "--num-threads"),
        ("--env A --seed -2", "--seed must be -1 or more"),
        ("--env A --baseline --recipe snapshot", "--baseline"),
        ("--env A --recipe a --config b", "exclude"),
        ("--resume a -i b", "exclude"),
        ("--env", "env"),
        ("stray --env A", "stray"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(words.split())
    assert "\n" not in str(caught.value), "the message has several lines"
    assert "│" not in str(caught.value), "the message is still in tyro's box"


def test_help_documents_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0, "help is no error"
    text = capsys.readouterr().out
    for name in TrainOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text, f"{name} is not in the help"


def test_no_default_in_the_help_is_empty(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = capsys.readouterr().out
    assert "--env-kwargs" in said and "(default: )" not in said
