"""The tasks that this package adds to Gymnasium, as soon as it is imported."""

from __future__ import annotations

from typing import Any

from gymnasium.envs import registration

_FLIPPED = "rlsd_envs.flipped:make_flipped"
#: By id. Those that flip take ``flipped`` and what their environment takes.
TASKS: dict[str, dict[str, Any]] = {
    "rlsd_envs/CartPoleFlip-v1": {
        "entry_point": _FLIPPED,
        "reward_threshold": 475.0,
        "kwargs": {"env_id": "CartPole-v1"},
    },
    "rlsd_envs/PendulumFlip-v1": {"entry_point": _FLIPPED, "kwargs": {"env_id": "Pendulum-v1"}},
    "rlsd_envs/Flip-v1": {"entry_point": _FLIPPED},
    "rlsd_envs/Sequence-v1": {"entry_point": "rlsd_envs.sequences:TaskSequence"},
    "rlsd_envs/Offsets-v1": {"entry_point": "rlsd_envs.sequences:make_offsets", "kwargs": {"env_id": "CartPole-v1"}},
}


def register() -> None:
    """Register the tasks that are not registered yet."""
    for name, settings in TASKS.items():
        if name not in registration.registry:
            registration.register(name, **settings)
