"""Workers that are Ray actors."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlsd.scaling.collector import versions
from rlsd.scaling.fleet import Fleet, Site, WorkersLost, fresh_seed, tell_of_loss
from rlsd.scaling.fragment import Fragment, Plan
from rlsd.scaling.placing import placed
from rlsd.scaling.ray_cluster import connect, import_ray

_BACK_OFF = 1.0  # seconds before the first start anew; each further one waits twice as long
#: Fleets that use the Ray which one of them started.
_ON_OURS: set[int] = set()


class _Worker:
    """A :class:`Collector` in an actor, which Ray can be told to make of this class."""

    def __init__(self, site: Site) -> None:
        import torch

        torch.set_num_threads(1)
        self._collector = site.collector()

    def hello(self) -> dict[str, str]:
        return versions()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._collector, method)(*args, **kwargs)

    def collect(self, plan: Plan) -> Fragment:
        return self._collector.collect(plan)


class RayFleet(Fleet):
    """Workers that are Ray actors, each on a CPU of its own where there are enough.

    :param address: of the cluster; None for Ray on this machine, or what the process is connected to.
    :param timeout: seconds after which a worker that does not answer counts as lost.
    :param restarts: how often in a row a worker is started anew.
    :param init: further arguments of ``ray.init``.
    :param options: further options of the actors.
    :param elastic: place the workers by the nodes that are there, and anew when these change.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        address: str | None,
        timeout: float,
        restarts: int,
        init: Mapping[str, Any],
        options: Mapping[str, Any],
        elastic: bool = False,
    ) -> None:
        super().__init__(sites)
        self._ray = import_ray()
        started = connect(address, init)
        if started or _ON_OURS:
            _ON_OURS.add(id(self))
        self._timeout, self._restarts = timeout, restarts
        share = share_of(float(self._ray.cluster_resources().get("CPU", 0)), len(sites))
        # Elastic workers go where they are put, and what a node has left must not keep them from it.
        self._options = {"num_cpus": 0 if elastic else share, "max_restarts": 0, **options}
        self._elastic, self._at = elastic, [""] * len(sites)
        if elastic:
            self._known = self._nodes()
            self._at = placed(self._known, self._at)
        self._acting: tuple[Any, int] | None = None
        self._in_a_row = [0] * len(sites)
        self._attempts = 0
        self._actors = [self._made(number) for number in range(len(sites))]
        for number in range(len(sites)):
            self._greet(number)

    def _made(self, number: int) -> Any:
        options = dict(self._options)
        if self._elastic:
            affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            options["scheduling_strategy"] = affinity(self._at[number], soft=True)
        return self._ray.remote(_Worker).options(**options).remote(self.sites[number])

    def _greet(self, number: int) -> None:
        """Wait until a worker is there, and see that it runs what we run."""
        other = self._unlike(number)
        if other:
            self.close()
            raise ValueError(f"worker {number} runs other versions: {other}. Install the same on every node")

    def _unlike(self, number: int) -> str:
        """Return which versions a worker has that we do not, empty for none."""
        return different(self._wait(number, self._actors[number].hello.remote()), versions())

    def _nodes(self) -> dict[str, float]:
        """Return the CPUs of each node that workers can be on."""
        needed = self._options.get("resources", {})
        alive = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        fits = {name: r for name, r in alive.items() if all(r.get(key, 0) >= n for key, n in needed.items())} or alive
        cpus = {name: float(r.get("CPU", 0)) for name, r in fits.items()}
        return {name: n for name, n in cpus.items() if n > 0} or dict.fromkeys(cpus, 1.0)

    def _spread(self) -> None:
        """Move workers to nodes that joined; those of a node that left are started anew when they are asked."""
        nodes = self._nodes()
        if nodes == self._known:
            return
        self._known = nodes
        for number, node in enumerate(placed(nodes, self._at)):
            if self._at[number] in nodes and node != self._at[number]:
                self._move(number, node)

    def _move(self, number: int, node: str) -> None:
        """Let a worker go on at another node, in the middle of its episodes; where that fails, it stays."""
        before, at = self._actors[number], self._at[number]
        try:
            frozen = self._wait(number, before.call.remote("freeze"))
            self._at[number] = node
            self._actors[number] = self._made(number)
            other = self._unlike(number)
            if other:
                raise ValueError(f"other versions are there: {other}")
            self._wait(number, self._actors[number].call.remote("thaw", frozen))
            if self._acting is not None:
                self._wait(number, self._actors[number].call.remote("learn_to_act", *self._acting))
        except (ValueError, _Lost) as error:
            warnings.warn(
                f"worker {number} stays where it is, and does not move to a node that joined: {error}", stacklevel=2
            )
            if self._actors[number] is not before:
                self._ray.kill(self._actors[number], no_restart=True)
            self._actors[number], self._at[number] = before, at
        else:
            self._ray.kill(before, no_restart=True)

    @property
    def nodes(self) -> int | None:
        """Nodes that the workers are on, where they are placed by them."""
        return len(set(self._at)) if self._elastic else None

    def _wait(self, number: int, future: Any) -> Any:
        """Return a result, or raise what the worker raised.

        :raises _Lost: when the worker died or does not answer.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(future, timeout=self._timeout)
        except errors.GetTimeoutError as error:
            raise _Lost(f"no answer within {self._timeout:g} s") from error
        except (errors.ActorDiedError, errors.ActorUnavailableError) as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Exception):  # its constructor raised
                raise cause from None
            creation = _raised_in_creation(error)
            if creation:
                raise ValueError(f"worker {number} cannot be made: {creation}") from None
            raise _Lost("its process died") from error
        except errors.ObjectLostError as error:
            raise _Lost("its fragment was lost") from error
        except errors.RayTaskError as error:  # an environment or a policy raised: it would again
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from None

    def tell(self, method: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> list[Any]:  # noqa: D102
        futures = [
            actor.call.remote(method, *own, **kwargs) for actor, own in zip(self._actors, arguments, strict=True)
        ]
        results = []
        for number, future in enumerate(futures):
            try:
                results.append(self._wait(number, future))
            except _Lost as loss:
                results.append(self._again(number, str(loss), "call", (method, *arguments[number]), kwargs))
            self._in_a_row[number] = 0
        return results

    def tell_one(self, number: int, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        try:
            result = self._wait(number, self._actors[number].call.remote(method, *args, **kwargs))
        except _Lost as loss:
            result = self._again(number, str(loss), "call", (method, *args), kwargs)
        self._in_a_row[number] = 0
        return result

    def learn_to_act(self, acting: bytes, key: int) -> None:  # noqa: D102
        self._acting = (self._ray.put(acting), key)
        self.tell("learn_to_act", [(*self._acting,)] * len(self._actors))

    def begin(self, plan: Plan) -> Callable[[], list[Fragment]]:  # noqa: D102
        if self._elastic:
            self._spread()
        sent = self._ray.put(plan)  # once, however many workers read it
        futures = [actor.collect.remote(sent) for actor in self._actors]

        def wait() -> list[Fragment]:
            nonlocal sent
            fragments = []
            for number, future in enumerate(futures):
                try:
                    fragments.append(self._wait(number, future))
                except _Lost as loss:
                    self.lost += 1
                    fragment = self._again(number, str(loss), "collect", (sent,), {})
                    fragments.append(replace(fragment, fresh=np.ones_like(fragment.fresh)))
                self._in_a_row[number] = 0
            futures.clear()  # with them the store lets the fragments go
            sent = None
            return fragments

        return wait

    def _again(self, number: int, reason: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Start a worker anew with new episodes, and ask it once more."""
        while True:
            self._in_a_row[number] += 1
            attempt = self._in_a_row[number]
            if attempt > self._restarts:
                raise WorkersLost(
                    f"worker {number} was lost {attempt} times in a row ({reason}). The latest checkpoint goes on "
                    "with rlsd.resume(folder), and rlsd.scale(agent, workers) on other workers"
                )
            tell_of_loss(number, reason, attempt, self._restarts)
            self._ray.kill(self._actors[number], no_restart=True)
            time.sleep(_BACK_OFF * 2 ** (attempt - 1))
            try:
                self._revive(number)
                actor = self._actors[number]
                return self._wait(number, getattr(actor, method).remote(*args, **kwargs))
            except _Lost as loss:
                reason = str(loss)

    def _revive(self, number: int) -> None:
        site = self.sites[number]
        self._attempts += 1
        if self._elastic:
            self._at[number] = placed(self._nodes(), self._at)[number]
        self._actors[number] = self._made(number)
        self._greet(number)
        call = self._actors[number].call
        key = 0 if self._acting is None else self._acting[1]
        self._wait(number, call.remote("reset", fresh_seed(key, site, self._attempts), [{}] * site.n_envs))
        if self._acting is not None:
            self._wait(number, call.remote("learn_to_act", *self._acting))

    def close(self) -> None:  # noqa: D102
        if not self._ray.is_initialized():
            return
        for actor in self._actors:
            self._ray.kill(actor, no_restart=True)
        self._actors.clear()
        if id(self) in _ON_OURS:
            _ON_OURS.discard(id(self))
            if not _ON_OURS:
                self._ray.shutdown()


def different(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return which versions differ, empty when none does."""
    return ", ".join(
        f"{name} {theirs[name]} there and {ours[name]} here" for name in ours if theirs[name] != ours[name]
    )


class _Lost(Exception):
    """A worker died or does not answer."""


def share_of(there: float, workers: int) -> float:
    """Return the CPUs that each worker is to have: one, or less where there are more workers than CPUs."""
    if workers <= there:
        return 1
    warnings.warn(
        f"{workers} workers share {there:g} CPUs: more than {max(int(there), 1)} are worth it only where an "
        "environment waits for something else",
        stacklevel=2,
    )
    return int(1000 * there / workers) / 1000


def _raised_in_creation(error: Exception) -> str:
    """Return what an actor's constructor raised, empty when it died otherwise."""
    lines = str(error).strip().splitlines()
    told = any("__init__" in line for line in lines)
    return lines[-1].strip() if told and lines else ""
