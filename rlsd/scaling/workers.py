"""Workers of two kinds: Ray actors, and such in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from rlsd.scaling import views
from rlsd.scaling.environment import WorkersVecEnv, check_number
from rlsd.scaling.fleet import Fleet, LocalFleet, Site
from rlsd.scaling.parts import origin_of
from rlsd.scaling.ray_cluster import import_ray
from rlsd.scaling.ray_fleet import RayFleet
from rlsd.scaling.settings import Workers


class _Placing(Workers):
    """Workers that environments can be handed to."""

    def vec_env(self, env: str | Callable[[], Any] | VecEnv) -> VecEnv:
        """Return what an agent trains in: the environments of all workers as one.

        Put ``VecNormalize`` around it as around any other. An agent that is not self-distilled or scaled cannot train
        in it: SB3 alone takes one step at a time.

        :param env: a registered id; a function that makes one environment; one that is given a number and makes a
            vector environment of so many, of any kind; or a ``DummyVecEnv`` of ``n * envs_per_worker``, whose
            environments move to the workers.
        :raises ValueError: when it cannot be pickled, or the numbers differ.
        """
        return on_workers(env, self)

    def placed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return an algorithm's arguments with its environment on the workers."""
        if len(args) > 1 and args[1] is not None:
            return (args[0], self.vec_env(args[1]), *args[2:]), kwargs
        if kwargs.get("env") is None:
            raise ValueError("workers need env=: an id, a function that makes an environment, or a vector environment")
        return args, kwargs | {"env": self.vec_env(kwargs["env"])}


@dataclass(frozen=True)
class RayWorkers(_Placing):
    """Workers on a Ray cluster that collect the rollouts of one agent::

        workers = rlsd.RayWorkers(8, envs_per_worker=16)
        agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "Ant-v5", workers=workers)
        agent.learn(10_000_000)

    Each is an actor with environments of its own and a copy of the policy on the CPU. It collects whole fragments;
    before each, the weights go out once, through Ray's object store. The agent's own ``train()`` runs where the agent
    is. The same seed gives the same run however the environments are split over workers, bit for bit, on machines
    of one kind.

    :param n: workers, each with a CPU of its own where there are enough.
    :param envs_per_worker: environments of each, in one vector environment.
    :param address: of the cluster, ``"auto"`` or ``"host:port"``; None starts Ray on this machine, unless the process
        is connected already.
    :param fragment: vector steps of a fragment of off-policy agents, 8 to 256: their weights are so old at most, or
        twice as old with ``overlap``. On-policy agents collect their ``n_steps``.
    :param overlap: collect the next fragment while the agent trains on this one. It takes no waiting, and actions come
        from a policy that is one fragment older.
    :param block: rows that the policy computes at once, see above; 0 for all of a worker's, where another split then
        rounds otherwise.
    :param infos: ``"ended"`` sends the infos of steps that end an episode, which SB3 reads; ``"all"`` those of every
        step, for callbacks of your own.
    :param timeout: seconds after which a worker that does not answer counts as lost. It is started anew with new
        episodes, and what it had collected of this rollout is collected once more.
    :param restarts: how often in a row one worker is started anew before the run ends with an error.
    :param elastic: use a node that joins the cluster from the next rollout on, and go on with fewer CPUs when one
        leaves. The workers of a node that left start anew on the others, those that move go on in the middle of their
        episodes, and the number of environments stays. Workers then reserve no CPUs, and are on each node by its share
        of them: let nothing else run there.
    :param init: further arguments of ``ray.init``, such as ``{"runtime_env": {...}}``.
    :param options: further options of the actors, such as ``{"resources": {"simulator": 1}}``.
    :raises ImportError: when Ray is missing.
    :raises ValueError: when a setting is wrong.
    """

    address: str | None = None
    timeout: float = 600.0
    restarts: int = 3
    elastic: bool = False
    init: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, got {self.timeout!r}")
        if not isinstance(self.elastic, bool):
            raise ValueError(f"elastic must be true or false, got {self.elastic!r}")
        if type(self.restarts) is not int or self.restarts < 0:
            raise ValueError(f"restarts must be a whole number of at least 0, got {self.restarts!r}")
        import_ray()

    def fleet(self, sites: Sequence[Site]) -> Fleet:  # noqa: D102
        return RayFleet(sites, self.address, self.timeout, self.restarts, self.init, self.options, self.elastic)


@dataclass(frozen=True)
class LocalWorkers(_Placing):
    """Workers in this process, one after the other: no faster, and needs no Ray.

    A run is the same as with :class:`RayWorkers`, bit for bit: to find a fault, or to go on where there is no cluster.

    :param n: and the rest, as for :class:`RayWorkers`.
    """

    def fleet(self, sites: Sequence[Site]) -> Fleet:  # noqa: D102
        return LocalFleet(sites)


def on_workers(env: str | Callable[[], Any] | VecEnv, workers: Workers) -> VecEnv:
    """Return an environment whose parts live with workers; see :meth:`rlsd.RayWorkers.vec_env`.

    What is around a vector environment stays around it.
    """
    if not isinstance(env, VecEnv):
        return WorkersVecEnv(origin_of(env), workers)
    views.check(env)
    check_number(workers, env.num_envs)
    base = env.unwrapped
    if isinstance(base, WorkersVecEnv):
        base.move(workers)
        return env
    placed = WorkersVecEnv(origin_of(base), workers)
    assert isinstance(base, DummyVecEnv)
    placed.look(base._obs_from_buf())
    if isinstance(env, VecEnvWrapper):
        innermost = env
        while isinstance(innermost.venv, VecEnvWrapper):
            innermost = innermost.venv
        innermost.venv = placed
        return env
    return placed
