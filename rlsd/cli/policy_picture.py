"""A picture of what teacher and student do in the same states: bars for choices, mean and spread for real numbers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian, QValues

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

#: Pixels of the picture, of its head, and between its frames.
WIDTH, HEIGHT, _HEAD, _GAP = 400, 300, 56, 12
_TEACHER, _STUDENT, _TEXT, _LINE = (217, 95, 2), (31, 119, 180), (60, 60, 60), (190, 190, 190)
#: Frames at most: states whose choices are shown, or dimensions of an action.
_FRAMES = 6
#: Choices, of all actions together, that still make bars to be told apart.
_BARS = 40


def probabilities(family: Family, p: Tensor) -> Tensor | None:
    """Return the probability of each choice, ``(batch, n)``; None for actions that are no choices.

    :param p: parameters, ``(batch, family.size)``.
    """
    if isinstance(family, QValues):
        return torch.softmax(p / family.tau, dim=-1)
    return family.values(p) if isinstance(family, Categorical | Bernoulli) else None


def means_and_stds(family: Family, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each dimension of an action, ``(batch, dim)`` each; 0 where unknown."""
    means = family.values(p)
    return means, p[..., family.dim :].exp() if isinstance(family, Gaussian) else torch.zeros_like(means)


def draw(family: Family, teacher: Tensor, student: Tensor, title: str) -> np.ndarray:
    """Return the picture, ``(HEIGHT, WIDTH, 3)`` in 8 bits.

    Choices are bars, a frame for each of some states, spread evenly. Real actions are a frame for each dimension: over
    all states in the order of the teacher's mean, the means as lines and the standard deviations as bands.

    :param teacher: its parameters, ``(batch, family.size)``, one state at least.
    :param student: the student's, in the same states.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(image, "RGBA")
    _text(canvas, (_GAP, 4), title, _TEXT)
    _text(canvas, (_GAP, 20), "teacher", _TEACHER)
    _text(canvas, (_GAP + 52, 20), "student", _STUDENT)
    theirs, ours = (probabilities(family, p) for p in (teacher, student))
    if theirs is not None and ours is not None and theirs.shape[-1] <= _BARS:
        what = f"probability of each of {theirs.shape[-1]} choices, in some states"
        rows = np.unique(np.linspace(0, len(theirs) - 1, _FRAMES if theirs.shape[-1] <= 10 else 2).astype(int))
        for row, frame in zip(rows, _frames(len(rows)), strict=True):
            _bars(canvas, frame, theirs[row].cpu().numpy(), ours[row].cpu().numpy())
    else:
        both = [tuple(part.float().cpu().numpy() for part in means_and_stds(family, p)) for p in (teacher, student)]
        dims = min(both[0][0].shape[-1], _FRAMES)
        what = "mean ± std of each dimension, over states from low to high"
        for dim, frame in enumerate(_frames(dims)):
            order = np.argsort(both[0][0][:, dim], kind="stable")
            _bands(canvas, frame, [(mean[order, dim], std[order, dim]) for mean, std in both])
    _text(canvas, (_GAP, 36), what, _TEXT)
    return np.asarray(image)


Frame = tuple[float, float, float, float]


def _frames(count: int) -> list[Frame]:
    """Return the corners of so many frames, in one row or two."""
    across = count if count <= 3 else -(-count // 2)
    down = -(-count // across)
    wide, high = (WIDTH - _GAP) / across, (HEIGHT - _HEAD - _GAP) / down
    corners = [(_GAP + wide * (i % across), _HEAD + _GAP + high * (i // across)) for i in range(count)]
    return [(x + 26, y, x + wide - _GAP, y + high - _GAP) for x, y in corners]


def _bars(canvas: ImageDraw, frame: Frame, teacher: np.ndarray, student: np.ndarray) -> None:
    left, top, right, bottom = frame
    _axes(canvas, frame, ("1", "0"))
    each = (right - left) / len(teacher)
    for number, pair in enumerate(zip(teacher, student, strict=True)):
        for side, (value, color) in enumerate(zip(pair, (_TEACHER, _STUDENT), strict=True)):
            x = left + each * (number + 0.12 + 0.38 * side)
            canvas.rectangle((x, bottom - (bottom - top) * float(value), x + 0.36 * each, bottom), fill=color)


def _bands(canvas: ImageDraw, frame: Frame, both: list[tuple[np.ndarray, np.ndarray]]) -> None:
    left, top, right, bottom = frame
    low = min(float((mean - std).min()) for mean, std in both)
    high = max(float((mean + std).max()) for mean, std in both)
    span = max(high - low, 1e-6)
    _axes(canvas, frame, (f"{high:.1f}", f"{low:.1f}"))
    x = np.linspace(left, right, len(both[0][0])) if len(both[0][0]) > 1 else np.array([left, right])

    def line(values: np.ndarray) -> list[tuple[float, float]]:
        y = bottom - (bottom - top) * (np.broadcast_to(values, x.shape) - low) / span
        return [*zip(x.tolist(), y.tolist(), strict=True)]

    for (mean, std), color in zip(both, (_TEACHER, _STUDENT), strict=True):
        canvas.polygon([*line(mean + std), *line(mean - std)[::-1]], fill=(*color, 60))
    for (mean, _), color in zip(both, (_TEACHER, _STUDENT), strict=True):
        canvas.line(line(mean), fill=color, width=2)


def _axes(canvas: ImageDraw, frame: Frame, ends: tuple[str, str]) -> None:
    left, top, right, bottom = frame
    canvas.line([(left, top), (left, bottom), (right, bottom)], fill=_LINE)
    for y, end in zip((top, bottom), ends, strict=True):
        _text(canvas, (left - 4, y), end, _TEXT, 10, anchor="rm")


def _text(
    canvas: ImageDraw, place: tuple[float, float], text: str, fill: Any, size: int = 12, anchor: str | None = None
) -> None:
    canvas.text(place, text, fill=fill, font=_font(size), anchor=anchor)


@cache
def _font(size: int) -> ImageFont | FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)  # decodes a file: a picture has many words
