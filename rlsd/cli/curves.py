"""Learning curves of runs, read from what training left: ``*.monitor.csv`` and ``evaluations.npz``."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.runfolder import RunFolder
from rlsd.plain import read_json

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One run's points, in the order they came.

    :param steps: environment steps since the run began.
    :param seconds: of wall-clock since then.
    :param values: what was measured there.
    """

    steps: Floats
    seconds: Floats
    values: Floats

    def over(self, axis: str) -> Floats:
        """Return the points' places on an axis: ``steps``, ``time`` in minutes, or ``episodes``."""
        if axis == "episodes":
            return np.arange(1.0, len(self.values) + 1)
        return self.steps if axis == "steps" else self.seconds / 60


@dataclass(frozen=True)
class Run:
    """A run that can be drawn.

    :param folder: where it is.
    :param env: its environment.
    :param label: what runs of the same kind share: the variant of a comparison, or algorithm, recipe and changes.
    """

    folder: RunFolder
    env: str
    label: str


def find_runs(places: Iterable[str]) -> list[Run]:
    """Return the runs in these places: folders of runs, folders above some, or the JSON of a comparison.

    :raises UserError: when there is none in one of them.
    """
    found: dict[Path, Run] = {}
    for place in places:
        root = Path(place)
        folder = _compared(root) if root.is_file() else root
        if not folder.is_dir():
            raise UserError(f"there is no run {place!r}: give the folder of one, or one above several")
        runs = [_run(path.parents[1], path.parent.name) for path in sorted(folder.glob("**/args.yml"))]
        if not runs:
            raise UserError(f"{folder} is not the folder of a run, and there is none in it: no ENV/args.yml")
        found |= {run.folder.root: run for run in runs}
    return list(found.values())


def training_curve(run: Run, measure: str, window: int) -> Curve | None:
    """Return the return or length of training episodes, each the mean of the latest ``window``; None without any."""
    rows = sorted(_episodes(run.folder.root), key=lambda row: row[0])
    if not rows:
        return None
    when, returns, lengths, steps = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    # rlsd writes the step at which each ended; of SB3's own files it is known only by adding up.
    steps = np.cumsum(lengths) if np.isnan(steps).any() else steps
    return Curve(steps, when - when.min(), _smoothed(lengths if measure == "length" else returns, window))


def evaluation_curve(run: Run, measure: str) -> Curve | None:
    """Return the mean return or length of every evaluation during training; None without any."""
    if not run.folder.evaluations.is_file():
        return None
    with blame_input(f"cannot read {run.folder.evaluations}"), np.load(run.folder.evaluations) as found:
        steps = np.asarray(found["timesteps"], dtype=np.float64)
        values = np.asarray(found["ep_lengths" if measure == "length" else "results"], dtype=np.float64).mean(axis=1)
    trained = training_curve(run, "return", 1)
    seconds = np.full(len(steps), np.nan) if trained is None else np.interp(steps, trained.steps, trained.seconds)
    return Curve(steps, seconds, values) if len(steps) else None


def _compared(file: Path) -> Path:
    """Return the folder with the trainings of a comparison."""
    with blame_input(f"{file} is not what rlsd compare writes"):
        folder = Path(read_json(file.read_text(encoding="utf-8"))["settings"]["log_folder"])
    return folder if folder.is_dir() else file.parent


def _run(root: Path, env_name: str) -> Run:
    folder = RunFolder(root, env_name)
    try:
        settings = folder.read_yaml("args.yml")
    except UserError:  # rl_zoo3's YAML is not plain
        return Run(folder, env_name, root.parent.name)
    env = str(settings.get("env", env_name))
    seed = root.parents[1]
    if re.fullmatch(r"seed_\d+", seed.name):  # VARIANT/seed_SEED/ALGO/ENV_NUMBER, of rlsd compare
        return Run(folder, env, seed.parent.name)
    return Run(folder, env, _label(settings))


def _label(settings: dict[str, Any]) -> str:
    parts = [str(settings.get("algo", "ppo")).upper()]
    parts.append("plain SB3" if settings.get("baseline") else str(settings.get("recipe") or "default"))
    changes = {**(settings.get("distill") or {}), **(settings.get("hyperparams") or {})}
    return " ".join([*parts, *(f"{key}={json.dumps(value)}" for key, value in changes.items())])


def _episodes(root: Path) -> Iterator[tuple[float, float, float, float]]:
    """Yield time, return, length and step (NaN where it is not known) of every training episode."""
    for file in sorted(root.glob("*.monitor.csv")):
        with blame_input(f"{file} is damaged"), file.open(encoding="utf-8", newline="") as lines:
            began = float(json.loads(next(lines, "#{}").removeprefix("#")).get("t_start", 0.0))
            for row in csv.DictReader(lines):
                if row["t"]:  # a run that is being trained writes its last line
                    step = float(row.get("step") or "nan")
                    yield began + float(row["t"]), float(row["r"]), float(row["l"]), step


def _smoothed(values: Floats, window: int) -> Floats:
    """Return the mean of each value and those before it, ``window`` at most."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return np.asarray((total[last] - total[first]) / (last - first))
