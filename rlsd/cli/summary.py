"""From the results of many trainings to the figures of a comparison, and to the table that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlsd.cli.statistics import (
    Floats,
    bootstrap_interval,
    interquartile_mean,
    mean_probability_of_improvement,
)
from rlsd.cli.tables import table
from rlsd.cli.trials import TRAINING_EPISODES, Result
from rlsd.cli.variants import BASELINE

#: Below this many seeds the intervals are themselves guesses.
FEW_SEEDS = 6
_MEASURES = ("final", "training")
_HEAD = ("mean", "worst", "std", "IQM", "95 %", "P(better)", "95 %")


def summarise(results: Sequence[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures by environment and variant, as plain data; None stands for what cannot be said."""
    return {
        env: {variant: _figures(results, env, variant) for variant in _unique(r.variant for r in results)}
        for env in _unique(result.env for result in results)
    }


def improvement_over_all(results: Sequence[Result]) -> dict[str, Any]:
    """Return by variant the probability of improvement over the baseline, averaged over the environments.

    Only environments where both have results count; a variant without any is left out.
    """
    envs = _unique(result.env for result in results)
    found = {}
    for variant in _unique(result.variant for result in results):
        samples: list[list[float]] = []
        for env in envs:
            ours, theirs = _values(results, env, variant, "final"), _values(results, env, BASELINE, "final")
            samples += [ours, theirs] if ours and theirs else []
        if variant != BASELINE and samples:
            found[variant] = _improvement(samples)
    return found


def show(results: Sequence[Result]) -> str:
    """Return the tables of all environments."""
    parts = []
    for env, variants in summarise(results).items():
        parts += [env, _env_table(variants), ""]
    overall = improvement_over_all(results)
    if len({result.env for result in results}) > 1 and overall:
        rows = [
            [variant, f"{found['probability']:.2f}", _interval(found["interval"])] for variant, found in overall.items()
        ]
        parts += ["All environments, final return", table(("variant", "P(better)", "95 %"), rows), ""]
    return "\n".join([*parts, _legend(results)])


def _figures(results: Sequence[Result], env: str, variant: str) -> dict[str, Any]:
    mine = [result for result in results if (result.env, result.variant) == (env, variant)]
    figures: dict[str, Any] = {"seeds": len(mine)}
    if not mine:
        return figures
    figures["seconds"] = float(np.mean([result.seconds for result in mine]))
    for measure in _MEASURES:
        values = _values(results, env, variant, measure)
        reference = [] if variant == BASELINE else _values(results, env, BASELINE, measure)
        figures[measure] = _measure(values, reference) if values else None
    return figures


def _measure(values: list[float], reference: list[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)),
        "worst": min(values),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "iqm": float(interquartile_mean(values)),
        "iqm_interval": bootstrap_interval(_iqm_of_one, [values]),
        "improvement": _improvement([values, reference]) if reference else None,
    }


def _improvement(samples: list[list[float]]) -> dict[str, Any]:
    return {
        "probability": float(mean_probability_of_improvement(samples)),
        "interval": bootstrap_interval(mean_probability_of_improvement, samples),
    }


def _iqm_of_one(samples: Sequence[Floats]) -> Floats:
    return interquartile_mean(samples[0])


def _values(results: Sequence[Result], env: str, variant: str, measure: str) -> list[float]:
    mine = [getattr(result, measure) for result in results if (result.env, result.variant) == (env, variant)]
    return [value for value in mine if value is not None]


def _env_table(variants: dict[str, dict[str, Any]]) -> str:
    rows = []
    for measure in _MEASURES:
        for variant, figures in variants.items():
            if figures.get(measure):
                cells = _cells(figures[measure])
                rows.append([f"{measure:<10}{variant}", str(figures["seeds"]), *cells, f"{figures['seconds']:.1f}"])
    return table((f"{'return':<10}variant", "seeds", *_HEAD, "seconds"), rows)


def _legend(results: Sequence[Result]) -> str:
    lines = [
        f"final     the final agent's most likely actions, mean over {results[0].episodes} episodes",
        f"training  the last {TRAINING_EPISODES} episodes of training, with exploration",
        "IQM       mean of the middle half of the seeds, with its bootstrap interval",
        "P(better) chance that a seed drawn at random beats one of the baseline's",
        "seconds   of training, mean over the seeds",
    ]
    counts = Counter((result.env, result.variant) for result in results)
    if min(counts.values()) < FEW_SEEDS:
        lines.append(f"With fewer than {FEW_SEEDS} seeds the intervals say little.")
    return "\n".join(lines)


def _cells(found: dict[str, Any]) -> list[str]:
    std = "-" if found["std"] is None else f"{found['std']:.1f}"
    better = found["improvement"]
    chance = ["-", "-"] if better is None else [f"{better['probability']:.2f}", _interval(better["interval"])]
    middle = [f"{found['iqm']:.1f}", _interval(found["iqm_interval"], digits=1)]
    return [f"{found['mean']:.1f}", f"{found['worst']:.1f}", std, *middle, *chance]


def _interval(ends: Sequence[float], digits: int = 2) -> str:
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
