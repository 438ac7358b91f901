"""The picture of ``rlsd demo``: returns on two tasks over the steps, a frame for each agent, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

#: Pixels.
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _BELOW = 360, 200, 50, 78, 40, 46
_COLORS = {"A": "#1f77b4", "B": "#d95f02"}
#: Both are seen where one lies on the other.
_STROKES = {"A": 'stroke-width="3"', "B": 'stroke-width="2.5" stroke-dasharray="6 4"'}


@dataclass(frozen=True)
class Curve:
    """What one agent earned.

    :param name: the agent's.
    :param points: environment steps, return on A and return on B, in order.
    """

    name: str
    points: Sequence[tuple[float, float, float]]


def draw(curves: Sequence[Curve], change: float) -> str:
    """Return the picture.

    :param curves: from left to right, at least one point each.
    :param change: the steps at which task B takes the place of task A.
    """
    end = max(point[0] for curve in curves for point in curve.points)
    top = max(max(point[1:]) for curve in curves for point in curve.points) or 1.0
    width = _LEFT + len(curves) * (_WIDTH + _GAP)
    frames = [_frame(curve, _LEFT + number * (_WIDTH + _GAP), change, end, top) for number, curve in enumerate(curves)]
    head = _text(_LEFT, 26, "Return on two tasks, learned one after the other", size=17, weight="bold")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_TOP + _HEIGHT + _BELOW}" '
            f'viewBox="0 0 {width} {_TOP + _HEIGHT + _BELOW}" font-family="Helvetica, Arial, sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            head,
            *frames,
            "</svg>\n",
        ]
    )


def _frame(curve: Curve, left: int, change: float, end: float, top: float) -> str:
    def x(steps: float) -> float:
        return left + _WIDTH * steps / end

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - value / (1.15 * top))

    bottom = _TOP + _HEIGHT
    parts = [
        _text(left, _TOP - 20, curve.name, size=15, weight="bold"),
        f'<rect x="{x(change):.1f}" y="{_TOP}" width="{x(end) - x(change):.1f}" height="{_HEIGHT}" fill="#f3efe9"/>',
        f'<path d="M{left} {_TOP}V{bottom}H{left + _WIDTH}" fill="none" stroke="#888"/>',
        _text(x(change / 2), _TOP - 4, "learns A", "middle", _COLORS["A"]),
        _text(x((change + end) / 2), _TOP - 4, "learns B", "middle", _COLORS["B"]),
        *(_text(left - 6, y(top * part) + 4, f"{top * part:.0f}", "end") for part in (0, 0.5, 1)),
        *(_text(x(steps), bottom + 18, f"{steps:,.0f}", "middle") for steps in (0, change, end)),
        _text(left + _WIDTH / 2, bottom + 36, "environment steps", "middle"),
    ]
    for number, (task, color) in enumerate(_COLORS.items(), 1):
        line = " ".join(f"{x(point[0]):.1f},{y(point[number]):.1f}" for point in curve.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" {_STROKES[task]}/>')
        last = curve.points[-1]
        at = y(last[number]) + (14 if task == "A" and last[1] > 0.9 * top else -6)
        parts.append(_text(x(last[0]) - 4, at, f"{task}: {last[number]:.0f}", "end", color, weight="bold"))
    return "\n".join(parts)


def _text(
    x: float, y: float, text: str, anchor: str = "start", fill: str = "#333", size: int = 12, weight: str = "normal"
) -> str:
    style = f'text-anchor="{anchor}" fill="{fill}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
