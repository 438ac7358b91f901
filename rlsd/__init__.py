"""Self-distillation for Stable-Baselines3 agents.

A frozen snapshot of the policy teaches the live one: a penalty pulls the live action distributions toward the
teacher's on replayed states, while SB3's own loop trains on.
"""

from rlsd.actors import register_actor
from rlsd.callback import SelfDistillation
from rlsd.config import DistillConfig
from rlsd.divergences import KL, MSE
from rlsd.gates import ReturnGate
from rlsd.recipes import recipe, recipes
from rlsd.resume import Checkpoints, Stopped, latest_checkpoint, resume, save_checkpoint
from rlsd.speed import Speed
from rlsd.states import ReplayBuffer, Reservoir
from rlsd.strength import Constant, Schedule
from rlsd.teachers import Snapshot
from rlsd.timing import EveryStep
from rlsd.version import __version__
from rlsd.weights import load_weights
from rlsd.wrapping import SelfDistilled, accelerate, distill, undistill

__all__ = [
    "KL",
    "MSE",
    "Checkpoints",
    "Constant",
    "DistillConfig",
    "EveryStep",
    "ReplayBuffer",
    "Reservoir",
    "ReturnGate",
    "Schedule",
    "SelfDistillation",
    "SelfDistilled",
    "Snapshot",
    "Speed",
    "Stopped",
    "__version__",
    "accelerate",
    "distill",
    "latest_checkpoint",
    "load_weights",
    "recipe",
    "recipes",
    "register_actor",
    "resume",
    "save_checkpoint",
    "undistill",
]
