"""Scaling an agent that exists."""

from __future__ import annotations

from typing import TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.scaling import acting, views
from rlsd.scaling.environment import WorkersVecEnv, check_number
from rlsd.scaling.settings import Workers
from rlsd.scaling.workers import on_workers
from rlsd.wrapping import SelfDistilled, is_wrapped

AgentT = TypeVar("AgentT", bound=BaseAlgorithm)


def scale(agent: AgentT, workers: Workers) -> AgentT:
    """Let workers collect for an agent that exists, in place, and return the agent. It may be distilled or not.

    Its environments move to the workers in the middle of their episodes; an agent that has workers goes on with these.
    Not for the middle of a ``learn``.

    :param agent: in as many environments as the workers have, in a ``DummyVecEnv`` or with other workers.
    :param workers: :class:`RayWorkers` or :class:`LocalWorkers`.
    :raises TypeError: when it is no agent, or these are no workers.
    :raises ValueError: when workers cannot collect for the agent, the numbers differ, or its environments cannot be
        pickled: which, and why.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"scale takes an SB3 agent, got {agent!r}")
    if not isinstance(workers, Workers):
        raise TypeError(f"scale takes RayWorkers or LocalWorkers, got {workers!r}")
    if agent.env is None:
        raise ValueError("scale needs an agent that has an environment: agent.set_env(env)")
    views.check(agent.env)
    acting.check(agent)
    check_number(workers, agent.n_envs)
    had_workers = isinstance(agent.env.unwrapped, WorkersVecEnv)
    env = on_workers(agent.env, workers)
    agent.set_env(env, force_reset=False)
    base = env.unwrapped
    assert isinstance(base, WorkersVecEnv)
    if agent.seed is not None and not had_workers:
        base.draw_by(agent.seed)
    if not is_wrapped(type(agent)):
        agent.__class__ = SelfDistilled(type(agent))
        agent.distiller = agent._distill_config = None  # type: ignore[attr-defined]
    return agent
