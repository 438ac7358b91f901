"""What people do with SB3 works with distilled agents too; where nothing pulls it ends as in plain SB3."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from agents import copied, differences, optimizers, patches
from peoples_scripts import SCRIPTS

import rlsd
from rlsd import wrapping
from rlsd.presets import has_values
from rlsd.wrapping import resolve

#: Pairs that are refused when the agent is built: docs/recipes/README.md and kickstart.md.
REFUSED = {
    "phasic": ("resets", "own_q_learner", "goals"),
    "keeper": ("memory",),
    "reborn": ("memory",),
    "kickstart": ("memory",),  # with RecurrentPPO as the teacher
}
#: Recipes whose penalty is closed or nil while an agent does as well as it did, or has its pull beside the updates.
NOT_ALWAYS = ("selective", "remember", "keeper", "guard", "best", "retain", "phasic", "reborn")
#: Small enough for a script of some hundred steps.
OFTEN = {"teacher.every": 64, "states.batch_size": 16, "timing.stride": 1, "teacher.episodes": 2}
BESIDE = {
    "phasic": {"timing.every_rollouts": 2, "timing.epochs": 1},
    "reborn": {"timing.every": 100, "timing.steps": 20},
}

#: For the default run, with a recipe each.
QUICK = [script for script in SCRIPTS if script.__name__ not in ("zoo", "resets", "goals", "memory", "trials")]
PAIRS = [
    *zip(QUICK, ("selective", "guard", "churn", "phasic", "reborn", "cascade", "kickstart", "mirror"), strict=True)
]

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)


def plain(cls):
    return cls


@functools.cache
def ended_plainly(script):
    """What the script's agents are at its end, run with plain SB3, and the agents."""
    with tempfile.TemporaryDirectory() as folder:
        agents = script(plain, Path(folder))
    return [copied(ending(agent)) for agent in agents], agents


def ending(agent):
    """What training made of an agent."""
    buffer = getattr(agent, "replay_buffer", None)
    return {
        "policy": dict(agent.policy.state_dict()),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers(agent).items()},
        "steps": (agent.num_timesteps, agent._n_updates, agent._episode_num),
        "episodes": [(episode["r"], episode["l"]) for episode in agent.ep_info_buffer],
        "last": agent._last_obs,
        "buffer": None if buffer is None else [buffer.actions, buffer.rewards],
    }


def answers(name, script, **changes):
    """A recipe that fits a short script."""
    algorithm = SCRIPTS[script]
    teacher = {"teacher": ended_plainly(script)[1][0]} if name == "kickstart" else {}
    config = rlsd.recipe(name, values=has_values(algorithm), **teacher)
    fields = config.to_dict() if name != "kickstart" else {"teacher": {}, "states": {"batch_size": 1}, "timing": {}}
    often = {key: value for key, value in OFTEN.items() if key.split(".")[1] in fields[key.split(".")[0]]}
    if name in BESIDE:
        often = {key: value for key, value in often.items() if key != "teacher.every"} | BESIDE[name]
    return config.changed(often | changes)


def run(script, folder, monkeypatch, distill):
    """Run a script with wrapped algorithms, which are distilled by ``distill`` where the script says nothing of it."""
    asked = lambda given, *rest: resolve(distill if given is True else given, *rest)  # noqa: E731
    monkeypatch.setattr(wrapping, "resolve", asked)
    return script(rlsd.SelfDistilled, folder)


def check_recipe(name, script, folder, monkeypatch):
    distill = answers(name, script)
    if script.__name__ in REFUSED.get(name, ()):
        with pytest.raises((TypeError, ValueError)) as refused:
            run(script, folder, monkeypatch, distill)
        assert "\n" not in str(refused.value)
        return
    # A schedule of progress, as SB3's own, is at its end where each learn() asks for one rollout more.
    at_its_end = (name, script.__name__) == ("kickstart", "adversarial")
    for agent in run(script, folder, monkeypatch, distill):
        assert agent.distiller.config.teacher.name == distill.teacher.name
        judged = name not in ("remember", "keeper") and (name != "best" or len(agent.ep_info_buffer) > 3)
        assert not judged or agent.distiller.teacher.version > 0, "there never was a teacher"
        assert name in NOT_ALWAYS or at_its_end or agent.distiller.deposits > 0, "nothing pulled"
        assert not patches(agent)
        assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def check_nothing_pulls(distill, script, folder, monkeypatch):
    expected, _ = ended_plainly(script)
    agents = run(script, folder, monkeypatch, distill)
    assert not differences(expected, [ending(agent) for agent in agents])


@pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)
def test_a_script_ends_as_in_plain_sb3_where_nothing_pulls(script, tmp_path, monkeypatch):
    distill = None if QUICK.index(script) % 2 else answers("snapshot", script, strength=0.0)
    check_nothing_pulls(distill, script, tmp_path, monkeypatch)


@pytest.mark.parametrize(("script", "recipe"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_a_script_runs_with_a_recipe(script, recipe, tmp_path, monkeypatch):
    check_recipe(recipe, script, tmp_path, monkeypatch)


@pytest.mark.slow
@every_script
def test_every_script_ends_as_in_plain_sb3_without_distillation(script, tmp_path, monkeypatch):
    check_nothing_pulls(None, script, tmp_path, monkeypatch)


@pytest.mark.slow
@every_script
@pytest.mark.parametrize("recipe", rlsd.recipes())
def test_every_script_ends_as_in_plain_sb3_by_every_recipe_at_strength_nought(script, recipe, tmp_path, monkeypatch):
    if script.__name__ not in REFUSED.get(recipe, ()):
        check_nothing_pulls(answers(recipe, script, strength=0.0), script, tmp_path, monkeypatch)


@pytest.mark.slow
@every_script
@pytest.mark.parametrize("recipe", rlsd.recipes())
def test_every_script_runs_with_every_recipe(script, recipe, tmp_path, monkeypatch):
    check_recipe(recipe, script, tmp_path, monkeypatch)
