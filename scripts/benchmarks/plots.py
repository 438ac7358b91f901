"""The curves of ``scripts/benchmark.py scaling``, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from benchmarks.series import Measured, Series
from rlsd.cli.errors import UserError
from rlsd.cli.tables import check_file

FORMATS = (".svg", ".png", ".pdf")


def check_plot(path: str | None) -> None:
    """Raise a :class:`UserError` when the plot could not be drawn: before the work, not after it."""
    if path is None:
        return
    if not path.endswith(FORMATS):
        raise UserError(f"--plot {path} must end in one of {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs the package matplotlib: pip install 'rlsd[plots]'")
    check_file("--plot", path)


def draw(measured: Sequence[tuple[Series, Sequence[Measured]]], path: str) -> None:
    """Draw the figures of every axis against the size, both logarithmic, the curves of an axis in one frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames = list(dict.fromkeys((series.axis, series.measure.unit) for series, _ in measured))
    figure = Figure(figsize=(5.5 * len(frames), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = {frame: figure.add_subplot(1, len(frames), number + 1) for number, frame in enumerate(frames)}
    for series, points in measured:
        frame = axes[series.axis, series.measure.unit]
        frame.plot([one.size for one in points], [one.wall for one in points], marker="o", label=series.name)
    for (axis, unit), frame in axes.items():
        frame.set(xscale="log", yscale="log" if unit == "steps/s" else "linear", xlabel=axis, ylabel=unit)
        if unit != "steps/s":
            frame.set_ylim(0, 1.1 * frame.get_ylim()[1])
        frame.grid(alpha=0.3)
        frame.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
