"""Which parts of the acceleration are on: each is one switch, and says whether it keeps training bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rlsd.acceleration import SpeedLike
from rlsd.plain import shown


@dataclass(frozen=True)
class Speed:
    """The switches of :func:`rlsd.accelerate`. As it is built it is the preset ``"exact"``: only what changes no bit.

    :param lean_acting: act in rollouts without ``Distribution`` objects and module calls. Bit-identical.
    :param tensor_rollouts: hand out PPO's and A2C's minibatches from tensors on the device. Bit-identical.
    :param tensor_replay: keep and sample the replay buffer as tensors on the device. Bit-identical.
    :param no_validation: leave out torch's checks of distribution arguments in on-policy updates, and look for
        parameters that are not finite between rollouts instead. Bit-identical.
    :param own_update: run the updates of PPO, SAC, TD3, DDPG and DQN without what they compute in vain, by gradients
        derived by hand. Bit-identical while ``fused_adam`` is off.
    :param lean_critic: in the updates of SAC, TD3, DDPG and TQC, leave out the gradients of the critic that are thrown
        away. Bit-identical.
    :param one_thread: give small networks on the CPU one thread inside ``learn``, unless the threads were chosen.
        Sums may round otherwise.
    :param fused_adam: let one kernel make the optimizer's step. Rounds otherwise.
    :param mirror_every: environment steps, all copies together, for which an off-policy agent with a
        ``rollout_device`` may act with the same copy of its parameters. 1 is exact.
    """

    lean_acting: bool = True
    tensor_rollouts: bool = True
    tensor_replay: bool = True
    no_validation: bool = True
    own_update: bool = True
    lean_critic: bool = True
    one_thread: bool = False
    fused_adam: bool = False
    mirror_every: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "mirror_every":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ValueError(f"speed.mirror_every must be a whole number >= 1, got {shown(value)}")
            elif not isinstance(value, bool):
                raise ValueError(f"speed.{field.name} must be True or False, got {shown(value)}")

    @property
    def exact(self) -> bool:
        """Whether training is that of plain SB3, bit for bit, when it acts where it trains."""
        return not (self.one_thread or self.fused_adam or self.mirror_every > 1)


EXACT = Speed()
MAX = Speed(one_thread=True, fused_adam=True)
NOTHING = Speed(
    lean_acting=False,
    tensor_rollouts=False,
    tensor_replay=False,
    no_validation=False,
    own_update=False,
    lean_critic=False,
)
PRESETS = {"exact": EXACT, "max": MAX}


def resolve_speed(wanted: str | SpeedLike | None) -> Speed | None:
    """Return the switches that are meant, None for plain SB3.

    :raises ValueError: when nothing is.
    """
    if wanted is None or isinstance(wanted, Speed):
        return wanted
    if not isinstance(wanted, str) or wanted not in PRESETS:
        raise ValueError(f"speed must be 'exact', 'max', None or a rlsd.Speed, got {shown(wanted)}")
    return PRESETS[wanted]
