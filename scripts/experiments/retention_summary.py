"""From the trials of ``scripts/retention.py`` to what was kept, and to the table that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlsd.cli.tables import table
from rlsd.cli.two_tasks import ACTIONS, Outcome

#: The share of its return on task A that an agent must still have to count as having kept it.
KEPT = 0.9
#: Environments where nothing is earned by failing at once, so that what is kept can be measured from 0.
_FROM_ZERO = ("CartPole-v0", "CartPole-v1")
#: The distillation's figures that are shown, and their heads.
_FIGURES = {
    "distill/kl": "KL",
    "distill/coef": "strength",
    "distill/frozen_share": "frozen",
    "distill/agreement": "agreement",
}
#: Of how many seeds it is told whether it is so.
_COUNTED = ("a_solved", "b_solved", "both", "all")


@dataclass(frozen=True)
class Scale:
    """What returns of an environment are worth.

    :param random: mean return of the random policy.
    :param origin: where what is kept is measured from.
    :param level: the return from which a task counts as solved, None where the environment names none.
    """

    random: float
    origin: float
    level: float | None

    @classmethod
    def of(cls, env: str, random: float) -> Scale:
        """Return the scale of an environment, given the random policy's return."""
        from rlsd_envs.registry import find_spec

        level = find_spec(env).reward_threshold
        origin = 0.0 if env.rpartition(":")[2] in _FROM_ZERO else random
        return cls(random, origin, None if level is None else float(level))

    def kept(self, before: float, after: float) -> float | None:
        """Return the share of a return that is left; None when there was nothing to lose."""
        return None if before <= self.origin else (after - self.origin) / (before - self.origin)

    def solved(self, value: float, reference: float) -> bool:
        """Whether a return solves its task: reaches the level, or else :data:`KEPT` of what A's return was."""
        if self.level is not None:
            return value >= self.level
        return (self.kept(reference, value) or 0.0) >= KEPT

    def explain(self) -> list[str]:
        """Return what kept and solved mean here, in lines for people."""
        since = "A after B / A after A" if self.origin == 0.0 else "(A after B - random) / (A after A - random)"
        if self.level is None:
            solved = f"B after B: {KEPT:.0%} of A after A, measured from random"
        else:
            solved = f"A after A, B after B: at least {self.level:g}"
        return [
            f"kept      {since}, seed by seed; the random policy's return is {self.random:.1f}",
            f"solved    {solved}",
            f"both      seeds that kept {KEPT:.0%} of A and solved B; all: and had solved A",
        ]


def measure(outcome: Outcome, scale: Scale, actions: str) -> dict[str, Any]:
    """Return the figures of one trial, of its last round, with actions chosen one way."""
    before, after = outcome.mean(-2, "A", actions), outcome.mean(-1, "A", actions)
    b = outcome.mean(-1, "B", actions)
    kept, solved = scale.kept(before, after), scale.solved(b, before)
    both = kept is not None and kept >= KEPT and solved
    # Without a level there is nothing to judge A by: it is what B is judged by.
    first = None if scale.level is None else before >= scale.level
    return {
        "a_after_a": before,
        "a_after_b": after,
        "b_after_b": b,
        "kept": kept,
        "a_solved": first,
        "b_solved": solved,
        "both": both,
        "all": None if first is None else first and both,
    }


def summarise(outcomes: Mapping[str, Sequence[Outcome]], scale: Scale) -> dict[str, dict[str, Any]]:
    """Return the figures by variant, as plain data; None stands for what cannot be said."""
    found: dict[str, dict[str, Any]] = {}
    for variant, mine in outcomes.items():
        found[variant] = {
            "seeds": len(mine),
            "seconds": _mean([outcome.seconds for outcome in mine]),
            **{actions: _summary([measure(outcome, scale, actions) for outcome in mine]) for actions in ACTIONS},
            "figures": {key: _mean([outcome.figures.get(key) for outcome in mine]) for key in _keys(mine)},
        }
    return found


def show(summary: Mapping[str, Mapping[str, Any]], scale: Scale, episodes: int) -> str:
    """Return the tables."""
    head = ("actions  variant", "seeds", "A after A", "A after B", "worst", "B after B", "worst")
    rows = []
    for actions in ACTIONS:
        for variant, found in summary.items():
            rows.append([f"{actions:<9}{variant}", str(found["seeds"]), *_cells(found[actions], found["seeds"])])
    parts = [table((*head, "kept", "worst", "A solved", "B solved", "both", "all"), rows), ""]
    shown = [key for key in _FIGURES if any(key in found["figures"] for found in summary.values())]
    if shown:
        rows = [
            [variant, *(_number(found["figures"].get(key), 4) for key in shown), _number(found["seconds"], 1)]
            for variant, found in summary.items()
        ]
        parts += [table(("distillation", *(_FIGURES[key] for key in shown), "seconds"), rows), ""]
    parts += [f"returns   mean over {episodes} episodes, then over the seeds; worst is the lowest seed's"]
    return "\n".join([*parts, *scale.explain(), "greedy    the most likely action; sampled: as in training"])


def _summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("a_after_a", "a_after_b", "b_after_b", "kept"):
        values = [trial[key] for trial in trials if trial[key] is not None]
        found[key] = {"mean": _mean(values), "worst": min(values, default=None)}
    for key in _COUNTED:
        answers = [trial[key] for trial in trials]
        found[key] = None if None in answers else sum(answers)
    return found


def _cells(found: Mapping[str, Any], seeds: int) -> list[str]:
    cells = [_number(found["a_after_a"]["mean"], 1)]
    for key in ("a_after_b", "b_after_b"):
        cells += [_number(found[key]["mean"], 1), _number(found[key]["worst"], 1)]
    kept = [_percent(found["kept"][which]) for which in ("mean", "worst")]
    counts = ["-" if found[key] is None else f"{found[key]}/{seeds}" for key in _COUNTED]
    return [*cells, *kept, *counts]


def _keys(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(key for outcome in outcomes for key in outcome.figures))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
