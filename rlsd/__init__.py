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


#: What most people need, and the modules that hold the answers: ``rlsd.teachers.Snapshot``. All of ``rlsd.api`` is
#: there, too.
_SHOWN = (
    *("SelfDistilled", "distill", "undistill", "SelfDistillation", "accelerate", "compress", "learn_together"),
    *(
        "DistillConfig",
        "recipe",
        "recipes",
        "Checkpoints",
        "latest_checkpoint",
        "load_weights",
        "resume",
        "save_checkpoint",
    ),
    *("teachers", "states", "divergences", "strength", "gates", "timing", "students"),
    *("__all__", "__doc__", "__name__", "__path__", "__version__"),
)


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
    return sorted(_SHOWN)
