"""What TensorBoard shows first: whether the agent learns, whether its teacher is better, and how far they are apart.

Both are asked about the same *probe states*, stored ones that are picked when there is first a teacher. Nothing is
drawn at random and nothing of the agent changes: it trains bit for bit as without. The schedule is sparse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.utils import safe_mean

from rlsd import Expert, Frozen
from rlsd.cli.policy_picture import draw, means_and_stds, probabilities
from rlsd.injection import eval_mode
from rlsd.observations import Normalization, Observations, as_items

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from rlsd.distiller import Distiller
    from rlsd.distributions import Family

#: The groups of the cards, by their order in the alphabet: before "distill" and "eval", and after them.
GLANCE, PROBE = "at a glance", "probe states"
#: Points of each curve in a run, and the fewest steps between two; the same of histograms and pictures.
POINTS, POINT_STEPS = 50, 2_000
PICTURES, PICTURE_STEPS = 10, 10_000
#: Bars of a histogram.
_BINS = 30
#: Probe states at most, and numbers in all of them together.
_STATES, _NUMBERS = 256, 100_000


@dataclass
class _Probe:
    """What is known of one distillation.

    :param states: raw.
    :param version: of the teacher, when it was last looked at.
    :param earned: what the student earned when the teacher was taken.
    :param seen: the parameters of teacher and student on the probe states before the latest update, where a picture is
        due, and the step.
    """

    states: Observations | None = None
    version: int = 0
    earned: float | None = None
    seen: tuple[Tensor, Tensor, int] | None = None


class Glance(BaseCallback):
    """Writes the group "at a glance", and histograms and pictures of teacher and student on probe states.

    :param steps: environment steps of the whole run.
    :param notes: what :meth:`notes` returned when the run was saved.
    """

    def __init__(self, steps: int, notes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._every = max(steps // POINTS, POINT_STEPS)
        self._pictures_every = max(steps // PICTURES, PICTURE_STEPS)
        self._next = self._next_picture = 0
        self._probes = {
            name: _Probe(version=version, earned=earned) for name, (version, earned) in (notes or {}).items()
        }

    def notes(self) -> dict[str, Any]:
        """Return what a run that is resumed must know, as plain data."""
        return {name: [probe.version, probe.earned] for name, probe in self._probes.items()}

    def _on_training_start(self) -> None:
        if self.num_timesteps:
            self._next = self._after(self._every)
            self._next_picture = self._after(self._pictures_every)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Keep what both do before the update that may take a new teacher: after it they are nearly the same."""
        if self.num_timesteps >= self._next_picture:
            for _, distiller, probe in self._members():
                both = self._both(distiller, probe)
                probe.seen = None if both is None else (*both, self.num_timesteps)

    def _on_rollout_start(self) -> None:
        due, due_picture = self.num_timesteps >= self._next, self.num_timesteps >= self._next_picture
        overdue = self.num_timesteps >= self._next_picture + self._pictures_every  # no teacher was taken meanwhile
        drawn = False
        for name, distiller, probe in self._members():
            if taken := distiller.teacher.version != probe.version:
                probe.version, probe.earned = distiller.teacher.version, None
            if (
                probe.earned is None
                and distiller.teacher.ready
                and not isinstance(distiller.config.teacher, Expert | Frozen)
            ):
                probe.earned = self._return()
            if due_picture and (taken or overdue):
                drawn = self._picture(name, distiller, probe) or drawn
            if due:
                self._point(name, distiller, probe)
        if drawn:
            self._next_picture = self._after(self._pictures_every)
        if due:
            self._scalar("return of the student", self._return())
            self._next = self._after(self._every)

    def _point(self, name: str, distiller: Distiller, probe: _Probe) -> None:
        earned, now = probe.earned, self._return()
        self._scalar(f"return of the teacher{name}", earned)
        self._scalar(f"teacher minus student{name}", None if earned is None or now is None else earned - now)
        if (both := self._both(distiller, probe)) is not None:
            self._scalar(f"what both do, KL{name}", float(distiller.actor.family.kl(*both).mean()))

    def _picture(self, name: str, distiller: Distiller, probe: _Probe) -> bool:
        """Write histograms and the picture of both before the latest update, and tell whether there was one."""
        if probe.seen is None:
            return False
        family, (teacher, student, step) = distiller.actor.family, probe.seen
        probe.seen = None
        kl = family.kl(teacher, student)
        alike = float(family.agreement(teacher, student).mean())
        title = f"step {step:,}: KL {float(kl.mean()):.3g} nats, they act alike in {alike:.0%} of the states"
        picture = draw(family, teacher, student, title)
        for writer in self._writers():
            writer.add_image(f"{GLANCE}/what both do{name}", picture, step, dataformats="HWC")
            writer.add_histogram(f"{PROBE}/KL{name}", kl, step, bins=_BINS)
            for who, p in (("teacher", teacher), ("student", student)):
                for what, values in _described(family, p).items():
                    writer.add_histogram(f"{PROBE}/{what}, {who}{name}", values, step, bins=_BINS)
        return True

    def _both(self, distiller: Distiller, probe: _Probe) -> tuple[Tensor, Tensor] | None:
        """Return the parameters of teacher and student on the probe states, None where there are none as yet."""
        actor, teacher, store = distiller.actor, distiller.teacher, distiller.states
        if not teacher.ready or (probe.states is None and not store.at_hand):
            return None
        if probe.states is None:
            held = store.slots()
            size = sum(tensor[0].numel() for tensor in as_items(store.pick(held[:1])).values())
            count = min(len(held), _STATES, max(_NUMBERS // size, 16))
            probe.states = store.pick(held[np.linspace(0, len(held) - 1, count).astype(np.int64)])
        module, normalization = actor.module(self.model.policy), Normalization.of(self.model)
        with torch.no_grad(), eval_mode(module.modules()):
            seen = probe.states if normalization is None else normalization(probe.states)
            student = actor.family.normalized(actor.parameters(module, seen))
            return teacher.targets(probe.states), student

    def _members(self) -> Iterator[tuple[str, Distiller, _Probe]]:
        """Give each distillation with the end of its tags, which is empty where there is but one."""
        distiller = getattr(self.model, "distiller", None)
        members = {} if distiller is None else distiller.members
        for name, member in members.items():
            yield f" ({name})" if len(members) > 1 else "", member, self._probes.setdefault(name, _Probe())

    def _return(self) -> float | None:
        """Return the mean return of the latest training episodes, as SB3's ``rollout/ep_rew_mean``."""
        latest = self.model.ep_info_buffer
        return float(safe_mean([episode["r"] for episode in latest])) if latest else None

    def _scalar(self, name: str, value: float | None) -> None:
        for writer in self._writers() if value is not None else ():
            writer.add_scalar(f"{GLANCE}/{name}", value, self.num_timesteps)

    def _after(self, every: int) -> int:
        """Return the next multiple of ``every``: the schedule is the same after a resume."""
        return (self.num_timesteps // every + 1) * every

    def _writers(self) -> list[SummaryWriter]:
        return [o.writer for o in self.logger.output_formats if isinstance(o, TensorBoardOutputFormat)]


def _described(family: Family, p: Tensor) -> dict[str, Tensor]:
    chances = probabilities(family, p)
    if chances is not None:
        return {"action probabilities": chances}
    means, stds = means_and_stds(family, p)
    return {"action means": means} | ({"action stds": stds} if bool(stds.any()) else {})
