"""What a teacher from elsewhere sees of its student's observations: other keys of a Dict, or some of a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlsd.observations import Observations, as_items
from rlsd.plain import shown

#: A key, keys by those of the teacher, places in a vector, or None for the observations as they are.
View = str | Mapping[str, str] | tuple[int, ...] | None


def checked_view(key: str, value: Any) -> View:
    """Return what a teacher sees, from a setting.

    :raises ValueError: when it is no such thing.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, Mapping) and value and all(isinstance(one, str) for one in (*value, *value.values())):
        return dict(value)
    whole = isinstance(value, Sequence) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    if whole and value and not isinstance(value, str) and min(value) >= 0:
        return tuple(value)
    raise ValueError(
        f"{key} must be a key of the student's observations, a mapping {{teacher's key: student's key}} or a list of "
        f"places in a vector, got {shown(value)}"
    )


def seen_space(view: View, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space of what a teacher sees of the student's observations.

    :raises ValueError: when there is no such key or place.
    """
    if view is None:
        return space
    if isinstance(view, tuple):
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and max(view) < space.shape[0]):
            raise ValueError(
                f"teacher.observations takes the places {[*view]} of a vector, and this agent sees {space}"
            )
        low, high, places = space.low, space.high, [*view]
        return spaces.Box(low[places], high[places], dtype=space.dtype.type)
    keys = [view] if isinstance(view, str) else [*view.values()]
    known = [*space.spaces] if isinstance(space, spaces.Dict) else []
    for key in keys:
        if key not in known:
            has = f"the keys {known}" if known else f"{space}, which has no keys"
            raise ValueError(f"teacher.observations names the key {key!r}, and this agent sees {has}")
    assert isinstance(space, spaces.Dict)
    return space[view] if isinstance(view, str) else spaces.Dict({mine: space[theirs] for mine, theirs in view.items()})


def seen_by(view: View, observations: Observations) -> Observations:
    """Return what a teacher sees of raw observations of its student's."""
    if view is None:
        return observations
    if isinstance(view, tuple):
        assert isinstance(observations, torch.Tensor)
        return observations[:, [*view]]
    items: dict[str, torch.Tensor] = as_items(observations)
    return items[view] if isinstance(view, str) else {mine: items[theirs] for mine, theirs in view.items()}


def same_kind(theirs: spaces.Space[Any], seen: spaces.Space[Any]) -> bool:
    """Tell whether what a teacher sees may stand for what it was trained on: bounds may differ, not shape and type."""
    if isinstance(theirs, spaces.Dict) and isinstance(seen, spaces.Dict):
        return theirs.keys() == seen.keys() and all(same_kind(theirs[key], seen[key]) for key in theirs)
    if isinstance(theirs, spaces.Box) and isinstance(seen, spaces.Box):
        return theirs.shape == seen.shape and np.dtype(theirs.dtype) == np.dtype(seen.dtype)
    return bool(theirs == seen)
