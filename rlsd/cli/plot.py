"""``rlsd plot``: learning curves of runs in one picture, runs of the same kind as their mean with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from rlsd.cli.console import say, warn
from rlsd.cli.curves import Curve, Floats, Run, evaluation_curve, find_runs, training_curve
from rlsd.cli.errors import UserError
from rlsd.cli.extras import need
from rlsd.cli.flags import Count, check_lowest, read_flags
from rlsd.cli.statistics import bootstrap_interval, mean_of_one
from rlsd.cli.tables import check_file, table
from rlsd.io import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
#: Places on the axis at which several runs are averaged.
_POINTS = 100
_AXES = {"steps": "environment steps", "time": "minutes", "episodes": "episodes"}


@dataclass(frozen=True)
class PlotOptions:
    """Draw learning curves: rlsd plot logs/ppo/CartPole-v1_1 logs/ppo/CartPole-v1_2, or rlsd plot logs/compare"""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[RUN ...]")]] = ()
    """Folders of runs, folders above some, or the JSON of rlsd compare. Runs of the same kind become one curve."""
    x_axis: Annotated[Literal["steps", "time", "episodes"], tyro.conf.arg(aliases=["-x"])] = "steps"
    """Draw over environment steps, wall-clock time, or episodes."""
    y_axis: Annotated[Literal["return", "length"], tyro.conf.arg(aliases=["-y"])] = "return"
    """What to draw."""
    evaluations: bool = False
    """Draw the evaluations during training, without exploration, instead of the training episodes."""
    episode_window: Annotated[Count, tyro.conf.arg(aliases=["-w"])] = 100
    """Training episodes of which each point is the mean."""
    separate: bool = False
    """A curve for each run."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "learning_curves.png"
    """The picture: .png, .svg or .pdf."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Draw, and return the exit code.

    :raises UserError: when the input is wrong, or a package is missing.
    """
    options = read_flags(PlotOptions(), "rlsd plot", argv)
    check_lowest(options, {"episode_window": 1})
    if not options.runs:
        raise UserError("which runs? Give their folders, e.g. rlsd plot logs/ppo/CartPole-v1_1")
    if not options.output.endswith(FORMATS):
        raise UserError(f"--output {options.output} must end with {', '.join(FORMATS)}")
    if options.evaluations and options.x_axis == "episodes":
        raise UserError("evaluations are not counted in episodes: leave out --evaluations, or -x episodes")
    check_file("--output", options.output)
    need("plots", "rlsd plot")
    groups = _grouped(find_runs(options.runs), options)
    _draw(groups, options)
    rows = [[env, label, str(len(curves)), _end(curves)] for (env, label), curves in groups.items()]
    say(table(("environment", "curve", "runs", f"last {options.y_axis}"), rows))
    say(f"Picture {options.output}")
    return 0


Groups = dict[tuple[str, str], list[Curve]]


def _grouped(runs: Sequence[Run], options: PlotOptions) -> Groups:
    """Return the curves by environment and label; a run that has no points yet is told of and left out."""
    groups: Groups = {}
    for run in runs:
        if options.evaluations:
            curve = evaluation_curve(run, options.y_axis)
        else:
            curve = training_curve(run, options.y_axis, options.episode_window)
        if curve is None:
            what = "evaluations.npz" if options.evaluations else "episode in a *.monitor.csv"
            warn(f"left out, since it has no {what}: {run.folder.root}")
            continue
        label = f"{run.label} {run.folder.root.name}" if options.separate else run.label
        groups.setdefault((run.env, label), []).append(curve)
    if not groups:
        raise UserError("there is nothing to draw in these runs")
    return groups


def _end(curves: Sequence[Curve]) -> str:
    return f"{np.mean([curve.values[-1] for curve in curves]):.2f}"


def _draw(groups: Groups, options: PlotOptions) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(env for env, _ in groups))
    figure = Figure(figsize=(6 * len(envs), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for number, env in enumerate(envs):
        axes = figure.add_subplot(1, len(envs), number + 1)
        for (its_env, label), curves in groups.items():
            if its_env == env:
                _add(axes, label, curves, options.x_axis)
        what = "evaluation" if options.evaluations else "training"
        axes.set(title=env, xlabel=_AXES[options.x_axis], ylabel=f"{what} {options.y_axis}")
        axes.grid(alpha=0.3)
        axes.legend()
    target = Path(options.output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(target, target.suffix) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _add(axes: Axes, label: str, curves: Sequence[Curve], axis: str) -> None:
    if len(curves) == 1:
        axes.plot(curves[0].over(axis), curves[0].values, label=label)
        return
    places, mean, (low, high) = band(curves, axis)
    line: Any = axes.plot(places, mean, label=f"{label} ({len(curves)} runs)")[0]
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def band(curves: Sequence[Curve], axis: str) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """Return places that all curves reach, their mean there, and the ends of its 95 % bootstrap interval."""
    overs = [curve.over(axis) for curve in curves]
    first, last = max(over[0] for over in overs), min(over[-1] for over in overs)
    places = np.linspace(first, max(first, last), _POINTS)
    values = np.stack([np.interp(places, over, curve.values) for over, curve in zip(overs, curves, strict=True)])
    ends = np.array([bootstrap_interval(mean_of_one, [column], resamples=1000) for column in values.T])
    return places, values.mean(axis=0), (ends[:, 0], ends[:, 1])
