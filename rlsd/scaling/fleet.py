"""The workers of one run, wherever they are: what they are asked, and what becomes of one that is lost."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlsd.rng import private_numbers
from rlsd.scaling.collector import Collector
from rlsd.scaling.fragment import Fragment, Plan
from rlsd.scaling.parts import Origin


class WorkersLost(ConnectionError):
    """A worker was lost again and again."""


@dataclass(frozen=True)
class Site:
    """What one worker is made from.

    :param origin: of its environments.
    :param first: the place of the first among all of the run.
    """

    origin: Origin
    first: int
    n_envs: int
    every_info: bool

    def collector(self) -> Collector:
        """Make the worker, in this process."""
        return Collector(self.origin, self.first, self.n_envs, self.every_info)


class Fleet(ABC):
    """The workers of one run.

    :param sites: what each is made from.
    """

    #: Fragments that were lost with their workers.
    lost = 0

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = list(sites)

    @property
    def nodes(self) -> int | None:
        """Nodes that the workers are on; None where nobody looks after that."""
        return None

    @abstractmethod
    def tell(self, method: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> list[Any]:
        """Call a method of every worker, each with its own arguments, and return the results in their order."""

    @abstractmethod
    def tell_one(self, number: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of one worker."""

    @abstractmethod
    def learn_to_act(self, acting: bytes, key: int) -> None:
        """Give every worker a policy; see :meth:`Collector.learn_to_act`."""

    @abstractmethod
    def begin(self, plan: Plan) -> Callable[[], list[Fragment]]:
        """Have every worker collect, and return what waits for the fragments."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""


class LocalFleet(Fleet):
    """Workers in this process, one after the other."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self._workers = []
        for site in self.sites:
            with private_numbers(site.first):  # SB3 draws seeds for environments that are given none
                self._workers.append(site.collector())

    def tell(self, method: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> list[Any]:  # noqa: D102
        workers = zip(self._workers, arguments, strict=True)
        return [getattr(worker, method)(*own, **kwargs) for worker, own in workers]

    def tell_one(self, number: int, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return getattr(self._workers[number], method)(*args, **kwargs)

    def learn_to_act(self, acting: bytes, key: int) -> None:  # noqa: D102
        for worker in self._workers:
            worker.learn_to_act(acting, key)

    def begin(self, plan: Plan) -> Callable[[], list[Fragment]]:  # noqa: D102
        fragments = [worker.collect(plan) for worker in self._workers]
        return lambda: fragments

    def close(self) -> None:  # noqa: D102
        for worker in self._workers:
            worker.env.close()


def fresh_seed(key: int, site: Site, attempt: int) -> int:
    """Return a seed for the environments of a worker that was started anew, other than those it had."""
    return int(np.random.default_rng([key, site.first, attempt]).integers(2**31))


def tell_of_loss(number: int, reason: str, attempt: int, allowed: int) -> None:
    """Warn that a worker was lost."""
    warnings.warn(
        f"worker {number} was lost ({reason}), and its fragment with it: it is started anew with new episodes "
        f"({attempt} of {allowed} times in a row)",
        stacklevel=2,
    )
