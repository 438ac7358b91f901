"""The reviewed list of public names. ``import rlsd`` leads here when one is first asked for."""

from typing import TYPE_CHECKING

from rlsd.actors import register_actor
from rlsd.averaging import EvaluateAverage, average
from rlsd.callback import DistillCallback, SelfDistillation
from rlsd.change import ChangeEvent
from rlsd.config import DistillConfig
from rlsd.divergences import KL, MSE, JensenShannon
from rlsd.gates import Behind, Disagreement, EntropyFloor, ReturnGate, ValueAdvantage
from rlsd.io.resume import Checkpoints, Stopped, latest_checkpoint, notes_of, resume, save_checkpoint
from rlsd.io.weights import load_weights
from rlsd.offering import OfferEvaluation
from rlsd.presets import recipe, recipes
from rlsd.scaling.doors import scale
from rlsd.scaling.workers import LocalWorkers, RayWorkers
from rlsd.speed import Speed, accelerate
from rlsd.states import Episodes, Minibatch, Mixture, Recent, ReplayBuffer, Reservoir
from rlsd.strength import Adaptive, Constant, Relative, Schedule
from rlsd.students import ByStart, Keep, Phase, Reborn
from rlsd.students.compress import compress
from rlsd.students.into import distill_into
from rlsd.students.merge import merge
from rlsd.teachers import (
    Best,
    Cascade,
    Ema,
    Ensemble,
    Expert,
    Frozen,
    Origin,
    Peers,
    Remember,
    Selective,
    Several,
    Snapshot,
    Stored,
)
from rlsd.timing import EveryStep
from rlsd.together import learn_together
from rlsd.version import __version__
from rlsd.weight_average import WeightAverage
from rlsd.wrapping import distill, undistill
from rlsd.zoo_registration import register_in_zoo

if TYPE_CHECKING:
    from rlsd.typed import SelfDistilled
else:
    from rlsd.wrapping import SelfDistilled

__all__ = [
    "KL",
    "MSE",
    "Adaptive",
    "Behind",
    "Best",
    "ByStart",
    "Cascade",
    "ChangeEvent",
    "Checkpoints",
    "Constant",
    "Disagreement",
    "DistillCallback",
    "DistillConfig",
    "Ema",
    "Ensemble",
    "EntropyFloor",
    "Episodes",
    "EvaluateAverage",
    "EveryStep",
    "Expert",
    "Frozen",
    "JensenShannon",
    "Keep",
    "LocalWorkers",
    "Minibatch",
    "Mixture",
    "OfferEvaluation",
    "Origin",
    "Peers",
    "Phase",
    "RayWorkers",
    "Reborn",
    "Recent",
    "Relative",
    "Remember",
    "ReplayBuffer",
    "Reservoir",
    "ReturnGate",
    "Schedule",
    "Selective",
    "SelfDistillation",
    "SelfDistilled",
    "Several",
    "Snapshot",
    "Speed",
    "Stopped",
    "Stored",
    "ValueAdvantage",
    "WeightAverage",
    "__version__",
    "accelerate",
    "average",
    "compress",
    "distill",
    "distill_into",
    "latest_checkpoint",
    "learn_together",
    "load_weights",
    "merge",
    "notes_of",
    "recipe",
    "recipes",
    "register_actor",
    "register_in_zoo",
    "resume",
    "save_checkpoint",
    "scale",
    "undistill",
]
