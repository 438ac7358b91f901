"""How an SB3 policy acts: what its networks are, which optimizer trains them, what its action distribution is.

One adapter serves one way of acting, not one algorithm; :func:`actor_for` finds it by the policy's class, and
:func:`register_actor` adds one for a policy of your own.
"""

from rlsd.actors.base import Actor, actor_for, algorithm_name, register_actor
from rlsd.actors.continuous import DeterministicActor, SquashedGaussianActor
from rlsd.actors.examined import examined
from rlsd.actors.on_policy import ActorCritic, MaskedActorCritic, RecurrentActorCritic
from rlsd.actors.q_values import QLearner, QuantileLearner
from rlsd.actors.random_search import RandomSearchActor

__all__ = [
    "Actor",
    "ActorCritic",
    "DeterministicActor",
    "MaskedActorCritic",
    "QLearner",
    "QuantileLearner",
    "RandomSearchActor",
    "RecurrentActorCritic",
    "SquashedGaussianActor",
    "actor_for",
    "algorithm_name",
    "examined",
    "register_actor",
]
