"""Telling callbacks what SB3 does not tell them, and putting some of ours ahead of the user's."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList


def announce(callback: BaseCallback, hook: str, *arguments: object) -> None:
    """Call a method of every callback that has it.

    ``on_boundary()`` is called between two rollouts, when nothing of the coming one has happened yet.
    ``on_rollout_start`` comes too late for exact checkpoints: with gSDE, noise has been drawn by then.
    """
    method = getattr(callback, hook, None)
    if method is not None:
        method(*arguments)
    for child in getattr(callback, "callbacks", ()):
        announce(child, hook, *arguments)


def joined(agent: BaseAlgorithm, first: list[BaseCallback], then: BaseCallback) -> CallbackList:
    """Let callbacks watch a rollout ahead of the user's, without touching the user's."""
    both = CallbackList([*first, then])
    for callback in (both, *first):
        callback.model = agent
        callback.locals, callback.globals = dict(then.locals), then.globals
    return both


def at_boundary(agent: BaseAlgorithm, callback: BaseCallback) -> None:
    """Tell callbacks what the latest update noticed, and then that nothing of the coming rollout has happened yet."""
    distiller = getattr(agent, "distiller", None)
    for event in distiller.untold() if distiller is not None else ():
        announce(callback, "on_change", agent, event)
    announce(callback, "on_boundary")
