"""Self-distillation for Stable-Baselines3 agents.

A frozen snapshot of the policy teaches the live one: a penalty pulls the live action distributions toward the
teacher's on replayed states, while SB3's own loop trains on.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from rlsd.version import __version__ as __version__

if TYPE_CHECKING:
    from rlsd.api import *  # noqa: F403
    from rlsd.api import __all__ as __all__


def __getattr__(name: str) -> Any:
    """Import the public names when one is first asked for (PEP 562): torch and SB3 take seconds to import."""
    if not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__all__" or not name.startswith("__"):
        api = importlib.import_module("rlsd.api")
        globals().update({public: getattr(api, public) for public in api.__all__} | {"__all__": api.__all__})
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'rlsd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
