"""The settings of the trials of ``scripts/retention.py``: the tuned ones, fit for a task that changes unannounced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlsd.cli.checks import SCHEDULES, known_names, lin_start
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.options import parse as parse_train
from rlsd.cli.plan import plan_new
from rlsd.cli.probe import spaces_of
from rlsd.cli.trials import plain
from rlsd.cli.two_tasks import FLIP, Settings, flip_kwargs, new_agent
from rlsd.cli.values import as_words
from rlsd.cli.variants import Variant
from rlsd.several import each

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

#: Changes to the tuned hyperparameters. PPO's rates fall to nothing over its tuned run, and held at where they begin
#: they are not those it was tuned with: fewer epochs take their place.
CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "CartPole-v1"): {"n_epochs": 10, "learning_rate": 0.001, "clip_range": 0.2},
}
#: Entries that say how long or where to train, not how.
_NOT_SHOWN = ("n_timesteps",)
#: SB3's own replay buffer, where none is tuned.
_BUFFER = 1_000_000


def settle(
    variant: Variant,
    words: Sequence[str],
    changes: Mapping[str, Any],
    *,
    seed: int,
    rounds: int,
    eval_episodes: int,
) -> Settings:
    """Return the settings of a variant's trials, after building its agent once to see that it can be built.

    :param words: what all variants share, after ``rlsd train``, but for hyperparameters.
    :param changes: the hyperparameters that the command line changes for all variants.
    :raises UserError: for the first thing that is wrong.
    """
    plan = _plan(variant, words, changes)
    settings = Settings(
        env=plan.env_id,
        env_kwargs=plan.env_kwargs,
        algo=plan.options.algo,
        seed=seed,
        steps=plan.n_timesteps,
        rounds=rounds,
        eval_episodes=eval_episodes,
        hyperparams=plain(_constant(plan, {**changes, **variant.hyperparams})),
        distill=None if plan.distill is None else plain(plan.distill.to_dict()),
        device=plan.device,
    )
    with blame_input(f"variant {variant.name}"):
        agent = new_agent(settings.plan())
    env = agent.get_env()
    assert env is not None
    env.close()
    return settings


def describe(settings: Settings) -> str:
    """Return the hyperparameters on one line."""
    shown = {key: value for key, value in settings.hyperparams.items() if key not in _NOT_SHOWN}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def rehearses(settings: Settings) -> bool:
    """Whether the replay buffer still holds transitions of one task at the end of the next."""
    return bool(settings.hyperparams.get("buffer_size", 0) > settings.steps)


def _plan(variant: Variant, words: Sequence[str], changes: Mapping[str, Any]) -> Plan:
    options = parse_train([*words, *variant.flags(changes)])
    ours = {**CHANGES.get((options.algo, options.env or ""), {}), **changes}
    plan = plan_new(parse_train([*words, *variant.flags(ours)]))
    if any(config.strength.name == "schedule" for config in each(plan.distill)):
        raise UserError(
            f"variant {variant.name}: strength 'schedule' follows training's progress, which an agent that is not told "
            "of the change cannot have; give a constant strength"
        )
    spaces_of(FLIP, flip_kwargs(plan.env_id, plan.env_kwargs, "B"))
    return plan


def _constant(plan: Plan, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters without schedules, and with a replay buffer that holds half of a task's steps.

    :param asked: those that the command line sets, which are not changed but refused.
    """
    values = dict(plan.hyperparams.values)
    for key in SCHEDULES:
        start = lin_start(values.get(key))
        if start != values.get(key) and key in asked:
            raise UserError(
                f"{key} {values[key]} follows training's progress, which an agent that is not told of the change "
                f"cannot have; give a number, such as {start:g}"
            )
        if key in values:
            values[key] = start
    if "buffer_size" in known_names(plan.algorithm) and "buffer_size" not in asked:
        values["buffer_size"] = max(min(values.get("buffer_size", _BUFFER), plan.n_timesteps // 2), 1)
    return values


def words_of(env: str, algo: str, steps: int | None, env_kwargs: dict[str, Any], device: str, folder: str) -> list[str]:
    """Return what all variants share, after ``rlsd train``."""
    words = ["--env", env, "--algo", algo, "--device", device, "-f", folder, "--eval-freq", "0"]
    words += [] if steps is None else ["-n", str(steps)]
    return [*words, *(["--env-kwargs", *as_words(env_kwargs)] if env_kwargs else [])]
