"""How often the test for a change of starts raises a false alarm, how late a true one, and what moment it tells.

python scripts/experiments/change.py --results docs/results/change.json

What the file has already is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlsd.change import Alarm, ChangeTest

Draw = Callable[[np.random.Generator, int], np.ndarray]


def levels(seed: int, number: int = 5000) -> Draw:
    """Return a way to draw from layouts of 25 cells with 6 kinds each."""
    known = np.random.default_rng(seed).integers(0, 6, (5000, 25))
    return lambda rng, n: known[rng.integers(number, size=n)]


def marked(draw: Draw, mark: float) -> Draw:
    """Return the same with one number more, which is always the same."""
    return lambda rng, n: np.insert(draw(rng, n).astype(float), 0, mark, axis=1)


def _fixed(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.tile([0.1, 0.2, 0.3], (n, 1))


def _uniform(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.uniform(-0.05, 0.05, (n, 4))


def _goals(rng: np.random.Generator, n: int) -> np.ndarray:
    goal = rng.integers(0, 8, n)
    return np.stack([np.zeros(n), np.cos(goal), np.sin(goal)], 1)


def _pendulum(rng: np.random.Generator, n: int) -> np.ndarray:
    angle = rng.uniform(-np.pi, np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle), rng.uniform(-1, 1, n)], 1)


def _some_goals(first: int) -> Draw:
    """Return a way to draw from four of the eight goals."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        goal = first + rng.integers(0, 4, n)
        return np.stack([np.zeros(n), np.cos(goal), np.sin(goal)], 1)

    return draw


def _mixture(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.array([[0, 0], [3, 0], [0, 3]])[rng.integers(0, 3, n)] + rng.normal(size=(n, 2))


STATIONARY: dict[str, Draw] = {
    "fixed": _fixed,
    "uniform": _uniform,
    "levels": levels(1),
    "goals": _goals,
    "mixture": _mixture,
}
CHANGES: dict[str, tuple[Draw, Draw]] = {
    "another fixed start": (_fixed, lambda rng, n: _fixed(rng, n) + np.array([0, 0.05, 0])),
    "CartPole's starts, and a bit that flips": (marked(_uniform, 0), marked(_uniform, 1)),
    "Pendulum's starts, and a bit that flips": (marked(_pendulum, 0), marked(_pendulum, 1)),
    "CartPole's starts, one number half a width off": (
        _uniform,
        lambda rng, n: _uniform(rng, n) + np.array([0.05, 0, 0, 0]),
    ),
    "CartPole's starts, one number a quarter of a width off": (
        _uniform,
        lambda rng, n: _uniform(rng, n) + np.array([0.025, 0, 0, 0]),
    ),
    "CartPole's starts, half as wide again": (_uniform, lambda rng, n: 1.5 * _uniform(rng, n)),
    "CartPole's starts, half as wide": (_uniform, lambda rng, n: 0.5 * _uniform(rng, n)),
    "eight Gaussian numbers, one of them two deviations off": (
        lambda rng, n: rng.normal(size=(n, 8)),
        lambda rng, n: rng.normal(size=(n, 8)) + 2 * np.eye(8)[0],
    ),
    "four goals, then four others": (_some_goals(0), _some_goals(4)),
    "eight goals, then one of them alone": (_goals, lambda rng, n: np.tile([0, np.cos(3), np.sin(3)], (n, 1))),
    "5,000 layouts, then ten of them": (levels(1), levels(1, 10)),
    "5,000 layouts, then 5,000 others of the same kind": (levels(1), levels(2)),
}


#: Episodes of the old kind before a change.
BEFORE = (30, 60, 300)
#: Episodes of the new kind within which an alarm must come.
AFTER = 200


def first_alarm(seed: int, level: float, parts: list[tuple[Draw, int]]) -> Alarm | None:
    """Return the first alarm in a stream of starts, each a step."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([draw(rng, n) for draw, n in parts]).astype(np.float32)
    test = ChangeTest(rng, level)
    for row in range(0, len(starts), 8):
        some = starts[row : row + 8]
        found = test.observe(some, np.arange(row, row + len(some)))
        if found:
            return found[0]
    return None


def measure_delay(kind: str, old: int, level: float, repeats: int) -> dict[str, list[int]]:
    """Return how many episodes after the change alarms came, and how far off the moment is that they tell."""
    before, after = CHANGES[kind]
    found = [first_alarm(seed, level, [(before, old), (after, AFTER)]) for seed in range(repeats)]
    late = sorted((alarm.step - old + 1, alarm.since - old) for alarm in found if alarm is not None)
    return {"episodes": [a for a, _ in late], "moment": [b for _, b in late]}


def main() -> None:
    """Measure what is missing, and write the figures down after each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000, help="of each kind")
    parser.add_argument("--starts", type=int, default=100, help="of a stream that does not change")
    parser.add_argument("--level", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=10, help="of each change")
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    settings = {key: value for key, value in vars(asked).items() if key != "results"}
    known = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    data = known if known.get("settings") == settings else {"settings": settings, "false": {}, "delays": {}}

    def keep(part: str, name: str, value: object) -> None:
        data[part][name] = value
        print(name, value, flush=True)
        asked.results.write_text(json.dumps(data, separators=(",", ":")).replace('{"episodes', '\n{"episodes') + "\n")

    for kind in CHANGES:
        for old in BEFORE:
            if (name := f"{kind}, after {old}") not in data["delays"]:
                keep("delays", name, measure_delay(kind, old, asked.level, asked.repeats))
    for kind, draw in STATIONARY.items():
        if kind not in data["false"]:
            parts = [(draw, asked.starts)]
            alarms = [first_alarm(seed, asked.level, parts) is not None for seed in range(asked.streams)]
            keep("false", kind, sum(alarms))


if __name__ == "__main__":
    main()
