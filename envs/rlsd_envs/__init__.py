"""Vector environments for Stable-Baselines3: one ``make_vec_env`` over several backends."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from rlsd_envs.tasks import register

if TYPE_CHECKING:
    from rlsd_envs.api import *  # noqa: F403
    from rlsd_envs.api import __all__ as __all__


def __getattr__(name: str) -> Any:
    """Import the public names when one is first asked for (PEP 562): torch and SB3 take seconds to import."""
    if not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__all__" or not name.startswith("__"):
        api = importlib.import_module("rlsd_envs.api")
        globals().update({public: getattr(api, public) for public in api.__all__} | {"__all__": api.__all__})
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'rlsd_envs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})


register()
