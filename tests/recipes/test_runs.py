"""Every recipe with PPO, SAC and DQN: it goes on to the bit after a stop, or is refused with what works instead."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import agents
import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, TinyEnv, build, copied, differences, distillation_state, distilled, scramble
from agents import training_state as of_training
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import rlsd
from rlsd.presets import has_values

KINDS = {"PPO": "discrete", "SAC": "box", "DQN": "discrete", "ARS": "box", "RecurrentPPO": "discrete"}
SOON = 2 * ROLLOUT
_SMALL = {"states.capacity": 64, "states.batch_size": 8}
#: A gate that opens at once. It is asked about the latest episode alone, which has no standard error.
_OPEN = {"strength.gates": [{"type": "return", "margin": 0.0, "width": 0.01}]}
#: What is shortened so that in a few rollouts all of it happens: copies, crownings, phases, rebirths.
SHORTER: dict[str, dict[str, Any]] = {
    "selective": {"teacher.every": ROLLOUT, "teacher.threshold": 0.9, **_SMALL},
    "remember": {"teacher.every": ROLLOUT, "teacher.level": 0.5, **_SMALL},
    "keeper": {"teacher.every": ROLLOUT, "teacher.level": 0.5, "timing.steps": 5, "timing.batch_size": 8, **_SMALL},
    "guard": {"teacher.every": 3 * ROLLOUT, **_OPEN, **_SMALL},
    "snapshot": {"teacher.every": SOON, **_SMALL},
    "churn": {"teacher.every": SOON, **_SMALL},
    "phasic": {"timing.every_rollouts": 4, "timing.epochs": 2, "timing.batch_size": 8, **_SMALL},
    "reborn": {
        "timing.every": 4 * ROLLOUT,
        "timing.steps": 5,
        "timing.batch_size": 8,
        "timing.episodes": 4,
        "timing.kl_bound": 1e6,
        **_SMALL,
    },
    "rehearse": {
        "states.parts": [{"type": name, "capacity": 40, "batch_size": 8} for name in ("recent", "reservoir")],
        "states.batch_size": 8,
        "strength.value": 1.0,
    },
    "cascade": {"teacher.n": 3, "teacher.omega": 2.0, **_SMALL},
    "ema": {"timing.stride": 3, **_SMALL},
    "best": {"teacher.every": SOON, "teacher.episodes": 2, **_OPEN, **_SMALL},
    "ensemble": {"teacher.every": ROLLOUT, "teacher.k": 3, **_SMALL},
    "kickstart": dict(_SMALL),
    "retain": {**_OPEN, **_SMALL},
    "mirror": {},
}
#: Those that wait for another task.
CHANGED = ("remember", "keeper")
#: Those that wait for a fall of the return.
GATED = ("guard", "best", "retain")
REFUSED = {
    ("phasic", "SAC"): "a phase needs rollouts with value targets, and SAC keeps none: use timing 'every_step'",
    ("phasic", "DQN"): "a phase needs rollouts with value targets, and DQN keeps none: use timing 'every_step'",
    ("phasic", "ARS"): "a phase needs rollouts with value targets, and ARS keeps none: use timing 'every_step'",
    ("churn", "ARS"): "has none: use 'adaptive', 'constant' or 'schedule'",
    ("cascade", "ARS"): "ARS has none: use 'ema' or 'snapshot'",
    ("mirror", "ARS"): "does not: use 'recent'",
    ("remember", "ARS"): "does not tell: use teacher 'selective' with states 'reservoir'",
    ("keeper", "ARS"): "does not tell: use teacher 'selective' with states 'reservoir'",
    ("keeper", "RecurrentPPO"): "use timing 'every_step'",
    ("reborn", "RecurrentPPO"): "use timing 'phase' or 'every_step'",
}
#: The nearest combination that works, as the refusals say.
INSTEAD = {
    ("phasic", "SAC"): {"timing": "every_step", "teacher.every": SOON},
    ("phasic", "DQN"): {"timing": "every_step", "teacher.every": SOON},
    ("phasic", "ARS"): {"timing": "every_step", "teacher.every": 4},
    ("churn", "ARS"): {"strength": "adaptive", "teacher.every": 4},
    ("cascade", "ARS"): {"teacher": {"type": "ema", "every": 4}},
    ("mirror", "ARS"): {"states": "recent", "teacher.every": 4},
    ("remember", "ARS"): {"teacher": {"type": "selective", "every": 4, "visited": 1.0}, "states": "reservoir"},
    ("keeper", "ARS"): {
        "teacher": {"type": "selective", "every": 4, "visited": 1.0},
        "states": "reservoir",
        "timing": "every_step",
    },
    ("keeper", "RecurrentPPO"): {
        "teacher": {"type": "snapshot", "every": SOON},
        "states": "reservoir",
        "timing": "every_step",
    },
    ("reborn", "RecurrentPPO"): {"timing": "every_step", "teacher.every": SOON},
}
WORKING = [
    (recipe, name) for recipe in rlsd.recipes() for name in ("PPO", "SAC", "DQN") if (recipe, name) not in REFUSED
]


class Tidal(TinyEnv):
    """Rewards that fall and rise whatever is done, three rollouts each."""

    _taken = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        self._taken += 1
        return observation, float(self._taken // (3 * agents.N_STEPS) % 2 == 0), *rest


class Moved(TinyEnv):
    """Episodes of two steps, which begin elsewhere from the fifth rollout on."""

    _taken = 0

    def reset(self, **kwargs: Any) -> Any:
        self.length = 2
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._taken += 1
        return super().step(action)

    def _observe(self) -> Any:
        return super()._observe() + np.float32(9.0 * (self._taken >= 4 * agents.N_STEPS))


def answers(recipe: str, name: str, **changes: Any) -> rlsd.DistillConfig:
    cls = ALL_ALGORITHMS[name]
    if recipe == "kickstart":
        changes["teacher"] = build(cls, KINDS[name], seed=8)
    return rlsd.recipe(recipe, values=has_values(cls), **changes)


def agent_of(recipe: str, name: str, **changes: Any) -> Any:
    distill = answers(recipe, name, **(SHORTER[recipe] | changes))
    kind = KINDS[name]
    make = Tidal if recipe in GATED else Moved if recipe in CHANGED else TinyEnv
    env = DummyVecEnv([lambda: Monitor(make(agents.KINDS[kind].observations, agents.KINDS[kind].actions))] * 2)
    return distilled(ALL_ALGORITHMS[name], kind, distill, env=env, stats_window_size=5)


def whole(agent: Any) -> Any:
    return copied((of_training(agent), distillation_state(agent)))


def done(agent: Any) -> int:
    """How often the recipe did what it is for."""
    metrics = agent.distiller.present_metrics()
    return int(
        agent.distiller.deposits
        + sum(metrics.get(f"distill/{key}", 0) for key in ("phases", "rebirths", "keeper_fits"))
    )


@pytest.mark.parametrize(("recipe", "name"), WORKING)
def test_stopped_in_the_middle_and_resumed_it_is_as_never_stopped(recipe: str, name: str, tmp_path: Path) -> None:
    # In the middle of an interval of phases and of rebirths.
    middle, total = 6 * ROLLOUT, 10 * ROLLOUT
    agent = agent_of(recipe, name).learn(middle)
    before = done(agent)
    assert before, "nothing was distilled before the stop"
    _check_saved(agent, ALL_ALGORITHMS[name], tmp_path)
    rlsd.save_checkpoint(agent, tmp_path)
    agent.learn(total - middle, reset_num_timesteps=False)
    # The task changes once, and a keeper is fitted once for that.
    assert done(agent) > before or recipe == "keeper", "nothing was distilled after the stop"
    expected = whole(agent)
    scramble()
    again = rlsd.resume(tmp_path).learn(total - middle, reset_num_timesteps=False)
    assert not differences(expected, whole(again))


def _check_saved(agent: Any, algorithm: type[Any], folder: Path) -> None:
    """What was saved is the recipe, and the zip is plain SB3's."""
    agent.save(folder / "agent")
    again = type(agent).load(folder / "agent")
    assert again.distiller.config.to_dict() == agent.distiller.config.to_dict()
    assert not differences(copied(distillation_state(agent)), distillation_state(again))
    plain = algorithm.load(folder / "agent")
    assert not differences(dict(plain.policy.state_dict()), dict(agent.policy.state_dict()))


# A gate asks no more; what waits for another task has tests of its own for each kind.
_ELSEWHERE = [
    (recipe, kind)
    for kind, recipe in itertools.product(
        ("multibinary", "gsde", "dict", "image_chw", "normalized"),
        (name for name in rlsd.recipes() if name not in (*GATED, *CHANGED)),
    )
]


# Every recipe with two of the kinds, every kind with four or more of the recipes; the slow run takes all.
@pytest.mark.parametrize(
    ("recipe", "kind"),
    [pytest.param(*case, marks=[pytest.mark.slow] if i % 5 not in (0, 2) else []) for i, case in enumerate(_ELSEWHERE)],
)
def test_it_works_with_other_actions_and_observations(recipe: str, kind: str) -> None:
    changes = SHORTER[recipe] | ({"teacher": build(PPO, kind, seed=8)} if recipe == "kickstart" else {})
    agent = distilled(PPO, kind, rlsd.recipe(recipe, **changes)).learn(6 * ROLLOUT)
    assert done(agent) > 0
    assert agent.distiller.present_metrics()["distill/skipped_nonfinite"] == 0


@pytest.mark.parametrize(("recipe", "name"), REFUSED)
def test_where_it_has_no_meaning_it_is_refused_in_a_line_that_says_why_and_what_works(recipe: str, name: str) -> None:
    with pytest.raises(TypeError, match=re.escape(REFUSED[recipe, name])) as raised:
        distilled(ALL_ALGORITHMS[name], KINDS[name], recipe)
    assert "\n" not in str(raised.value)
    nearest = answers(recipe, name, **INSTEAD[recipe, name], **({"states.batch_size": 8} if recipe != "mirror" else {}))
    agent = distilled(ALL_ALGORITHMS[name], KINDS[name], nearest)
    assert agent.learn(16 * ROLLOUT).distiller.deposits > 0


@pytest.mark.parametrize("recipe", rlsd.recipes())
def test_from_its_bare_name_it_trains_saves_loads_and_resumes(recipe: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "seed": 0, "device": "cpu"}
    if recipe == "kickstart":
        PPO("MlpPolicy", "CartPole-v1", **settings).save(tmp_path / "teacher")
        distill: Any = rlsd.recipe("kickstart", teacher=tmp_path / "teacher.zip")
    else:
        distill = recipe
    cls = rlsd.SelfDistilled(PPO)
    agent = cls("MlpPolicy", "CartPole-v1", distill=distill, **settings).learn(128)
    assert agent.distiller.config == rlsd.recipe(
        recipe, **({} if distill is recipe else {"teacher": tmp_path / "teacher.zip"})
    )
    agent.save(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent")
    assert all(torch.equal(a, b) for a, b in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True))
    assert loaded.distiller.config.to_dict() == agent.distiller.config.to_dict()
    rlsd.save_checkpoint(agent, tmp_path / "checkpoint")
    agent.learn(64, reset_num_timesteps=False)
    again = rlsd.resume(tmp_path / "checkpoint").learn(64, reset_num_timesteps=False)
    assert all(torch.equal(a, b) for a, b in zip(agent.policy.parameters(), again.policy.parameters(), strict=True))


def test_kickstart_without_a_teacher_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"needs a trained agent, either teacher\.path or teacher\.agent") as raised:
        distilled(PPO, "discrete", "kickstart")
    assert "\n" not in str(raised.value)
