"""Action masks of MaskablePPO: where they come from, and how an agent is evaluated with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlsd.cli.errors import UserError

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv


def masked_prediction(policy: BasePolicy, env: VecEnv) -> dict[str, Callable[..., Any]]:
    """Return the ``predict`` that shows a policy the masks of ``env``, by name; nothing where it takes none.

    To be lent to the policy while it is evaluated: SB3's evaluation knows of no masks.
    """
    if not takes_masks(policy):
        return {}
    from sb3_contrib.common.maskable.utils import get_action_masks

    predict: Any = type(policy).predict

    def predict_masked(*args: Any, **kwargs: Any) -> Any:
        return predict(policy, *args, **{**kwargs, "action_masks": get_action_masks(env)})

    return {"predict": predict_masked}


def takes_masks(policy: BasePolicy) -> bool:
    """Tell whether a policy is one of MaskablePPO's."""
    return any(cls.__name__ == "MaskableActorCriticPolicy" for cls in type(policy).__mro__)


def check_masks(env: VecEnv, env_id: str) -> None:
    """Raise when an environment gives no masks, and close it.

    :raises UserError: then.
    """
    from sb3_contrib.common.maskable.utils import is_masking_supported

    if not is_masking_supported(env):
        env.close()
        raise UserError(f"{env_id} has no method action_masks(), which MaskablePPO asks: use --algo ppo, or add it")
