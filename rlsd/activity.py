"""In how many of the agent's updates distillation pulled, and when: the one line at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Activity:
    """Counts the agent's updates, and of them those in which a penalty was injected.

    :param updates: calls of the agent's ``train()``, or ARS's updates.
    :param pulled: how many of them had a penalty.
    :param first: environment steps at the first of these, None before.
    :param last: environment steps at the latest of these.
    """

    updates: int = 0
    pulled: int = 0
    first: int | None = None
    last: int | None = None

    def count(self, pulled: bool, steps: int) -> None:
        """Count an update that has just ended.

        :param pulled: whether it had a penalty.
        :param steps: the agent's environment steps.
        """
        self.updates += 1
        if pulled:
            self.pulled += 1
            self.first, self.last = steps if self.first is None else self.first, steps

    def __str__(self) -> str:
        if self.pulled:
            return f"pulled in {self.pulled:,} of {self.updates:,} updates, steps {self.first:,} to {self.last:,}"
        return f"idle in all {self.updates:,} updates"

    def state(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state` returned."""
        for name in asdict(self):
            value = state.get(name)
            setattr(self, name, None if value is None else int(value))
        self.updates, self.pulled = self.updates or 0, self.pulled or 0
