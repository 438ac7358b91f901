"""``--workers``: a run whose rollouts are collected elsewhere."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.options import TrainOptions
from rlsd.cli.probe import load_module, make

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from rlsd import RayWorkers


def workers_of(options: TrainOptions) -> RayWorkers | None:
    """Return the workers that the flags ask for, None for none.

    :raises UserError: when Ray is missing.
    """
    if options.workers is None:
        return None
    from rlsd import RayWorkers

    with blame_input("--workers"):
        return RayWorkers(options.workers, options.envs_per_worker or 1, address=options.ray)


def check_workers(options: TrainOptions) -> None:
    """Raise when flags of workers contradict others.

    :raises UserError: then.
    """
    if options.workers is None:
        for flag, given in (("--envs-per-worker", options.envs_per_worker), ("--ray", options.ray)):
            if given is not None:
                raise UserError(f"{flag} {given} says nothing without --workers: give --workers N, or leave it out")
        return
    together = all_envs(options)
    if options.n_envs not in (None, together):
        raise UserError(
            f"--n-envs {options.n_envs} is not what {options.workers} workers of {options.envs_per_worker or 1} have: "
            "leave it out"
        )


def all_envs(options: TrainOptions) -> int | None:
    """Return the environments of all workers, or those that ``--n-envs`` says, None where neither is there."""
    return options.n_envs if options.workers is None else options.workers * (options.envs_per_worker or 1)


def vec_env(options: TrainOptions, env_id: str, env_kwargs: dict[str, Any]) -> VecEnv:
    """Make the environments at the workers.

    :raises UserError: when they cannot be made there, or nobody answers at the address.
    """
    workers = workers_of(options)
    assert workers is not None
    with blame_input(f"cannot make {env_id} at {workers.n} workers"):
        return workers.vec_env(functools.partial(_at_worker, env_id, options.vec_env, env_kwargs))


def move(agent: BaseAlgorithm, options: TrainOptions) -> None:
    """Let a resumed agent go on with the workers that the flags ask for now."""
    workers = workers_of(options)
    env = agent.get_env()
    if workers is not None and env is not None and getattr(env.unwrapped, "workers", None) != workers:
        from rlsd import scale

        scale(agent, workers)


def _at_worker(env_id: str, kind: str, env_kwargs: dict[str, Any], n_envs: int) -> VecEnv:
    """Make one worker's environments, where it is. The run seeds them."""
    load_module(env_id)
    return make(env_id, n_envs, kind, 0, env_kwargs)
