"""Idle until episodes begin otherwise than they did; from then on the policy is held on what it no longer meets.

Where an episode begins is not the agent's doing. While episodes begin as they did, whatever states the agent left it
left by learning, and nothing must be held there. When they no longer do, the task has changed, and what the policy was
at that moment is what must be kept on the states of episodes that no longer begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlsd.actors import Actor
from rlsd.change import ChangeEvent, ChangeTest, calibrated, score
from rlsd.config import integer, number
from rlsd.episodes import EPISODE
from rlsd.observations import Observations, as_items, from_items
from rlsd.teachers.base import Teacher, TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy, split_parts
from rlsd.teachers.ring import SnapshotRing

#: Starts since the change, and before it, by which others are judged, at most.
NOW, BEFORE = 256, 512
#: Parts of the starts: each is judged by the others.
FOLDS = 8
#: Mean hold of the starts of a task below which it is met again.
MET = 0.5


class RememberTeacher(Teacher):
    """The policy as it was when the task changed. See :class:`Remember`."""

    per_state = True
    observes = True
    episodic = True
    rolls_back = True

    def __init__(self, actor: Actor, answer: Remember) -> None:
        super().__init__(actor)
        self.every, self.threshold = answer.every, answer.threshold
        # Its stream needs no seed of the agent's: it breaks ties among starts.
        self._generator = np.random.default_rng(0x4EE9)
        self.test = ChangeTest(self._generator, answer.level)
        self.ring = SnapshotRing(actor)
        self.frozen = FrozenPolicy(actor)
        #: Makes vectors of images and Dicts: a copy of the policy as it was when distillation began.
        self.eye: FrozenPolicy | None = None
        self.steps = 0  # environment steps seen
        self._left = NOW  # starts that were known when some were let go of
        self._judged = 0  # starts since the change when they were last judged
        self._numbers = np.zeros(0, np.int64)  # of the episodes whose starts are known, rising
        self._starts = np.zeros((0, 0), np.float32)
        self._began = np.zeros(0, np.int64)  # the step of each start
        self._since = 0  # the step of the latest change
        self._holds = np.zeros(0)  # of the known starts
        #: At which task the agent was in each stretch between changes.
        self.tasks: list[int] = [0]
        self._changes: list[int] = []  # number of the first episode after each
        self._alarms: list[tuple[int, float, float]] = []  # of each still to be acted on: since, evidence, bound
        self._raised = [0.0, 0.0]  # the evidence at the latest alarm, and its bound
        self._noticed: list[ChangeEvent] = []
        self._divided = True
        self._share = 0.0

    def observe_states(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> None:
        """Record the starts among some states, and ask the test."""
        numbers = states[EPISODE]
        last = self._numbers[-1] if len(self._numbers) else 0
        found, rows = np.unique(numbers, return_index=True)
        rows, found = rows[found > last], found[found > last]
        if len(rows):
            starts = self._vectors(agent, {key: array[rows] for key, array in states.items() if key != EPISODE})
            good = np.isfinite(starts).all(1)
            starts, found, began = starts[good], found[good], self.steps + rows[good]
            self._numbers = np.concatenate([self._numbers, found])
            self._starts = np.concatenate([self._starts.reshape(-1, starts.shape[1]), starts])
            self._began = np.concatenate([self._began, began])
            self._holds = np.concatenate([self._holds, np.zeros(len(found))])
            self._alarms += [(a.since, a.wealth, a.limit) for a in self.test.observe(starts, began)]
        self.steps += len(numbers)

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Keep the policy of now; at an alarm let that of the change teach. One alarm at each update."""
        since = self.steps
        if isinstance(agent, OnPolicyAlgorithm):
            since -= agent.n_steps * agent.n_envs  # it acted all through the rollout
        if not self.ring.kept or since - self.ring.kept[-1][0] >= self.every:
            self.ring.take(agent, since)
        if not self._alarms:
            return False
        self._since, *self._raised = self._alarms.pop(0)
        if self.frozen.policy is None:
            self.frozen.take(agent)
        self.frozen.put(self.ring.at(self._since))
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1
        self._divided = False
        return True

    def prepare(self, store: Any) -> np.ndarray | None:
        """Judge the starts anew now and then; at an alarm decide of every stored state whether it is held."""
        if len(self._numbers) > 2 * self._left:
            self._forget(store)
        if not self.ready:
            return None
        begun = int((self._began >= self._since).sum())
        if self._divided and begun - self._judged < min(1 + self._judged // 8, NOW // 8):
            return None
        self._forget(store)
        self._judged = int((self._began >= self._since).sum())
        if not self._judge() or self._divided:
            return None
        self._divide(store)
        self._divided = True
        return np.asarray(store.slots())

    def _judge(self) -> bool:
        """Decide of each start how firmly the states of its episode are held.

        :return: False when there are too few starts as yet.
        """
        now, before = self._now()
        fold = self._numbers % FOLDS
        if any(len(np.unique(fold[some])) < 2 for some in (now, before)):
            return False
        scores = self._scores(now, before)
        self._holds = np.where(before, self._firmness(scores, scores[now], scores[before]), 0.0)
        return True

    def _now(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the known starts tell how episodes begin now, and which are of before the change."""
        before = self._began < self._since
        now = ~before
        now[np.flatnonzero(now)[:-NOW]] = False
        return now, before

    def _scores(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return how much more like those of now than like those of before each start is, judged by the others."""
        fold = self._numbers % FOLDS
        scores = np.zeros(len(fold))
        for mine in (fold == which for which in range(FOLDS)):
            scores[mine] = score(self._starts[mine], self._starts[now & ~mine], _some(self._starts[before & ~mine]))
        return scores

    def _firmness(self, scores: np.ndarray, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return how firmly states of episodes of some scores are held."""
        # What a score is worth is told by those that had no part in it: after a false alarm it is nothing.
        chance = 1.0 / (1.0 + np.exp(-calibrated(scores, now, before)))
        return np.asarray(np.clip(1.0 - chance / self.threshold, 0.0, None))

    def hold_of_starts(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return how firmly states of episodes that begin so are held, ``(n,)`` in 0..1: 0 before any change.

        :param states: raw observations, ``(n, *shape)`` by key.
        """
        starts = self._vectors(agent, states)
        if not self.changes:
            return np.zeros(len(starts))
        now, before = self._now()
        scores = self._scores(now, before)
        found = score(starts, self._starts[now], _some(self._starts[before]))
        return self._firmness(found, scores[now], scores[before])

    @property
    def inactive(self) -> bool:  # noqa: D102
        return not (self._holds > 0.0).any()

    def _divide(self, store: Any) -> None:
        """Tell the store at which task the agent is now: one that is met again, or another."""
        first = int(self._numbers[np.searchsorted(self._began, self._since)])
        stretch = np.searchsorted(np.array(self._changes), self._numbers, side="right")
        tasks = np.array(self.tasks)[stretch]
        tasks[self._began >= self._since] = -1
        held = {task: float(self._holds[tasks == task].mean()) for task in np.unique(tasks[tasks >= 0]).tolist()}
        again = min(held, key=lambda task: held[task]) if held else 0
        task = again if held and held[again] < MET else max(self.tasks) + 1
        self.tasks.append(task)
        self._changes.append(first)
        store.divide(first, task)
        kind = "return" if task in self.tasks[:-1] else "change"
        noticed = self.refreshed_at or 0
        before = noticed - self.steps  # of the agent's steps, those before its distillation began
        self._noticed.append(ChangeEvent(noticed, before + self._since, kind, *self._raised))

    @property
    def changes(self) -> list[ChangeEvent]:  # noqa: D102
        return self._noticed

    def hold_stored(self, store: Any, slots: np.ndarray) -> Tensor:  # noqa: D102
        numbers = store.episodes[slots]
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return _tensor(np.where(self._numbers[places] == numbers, self._holds[places], 0.0), store.device)

    def held(self, holds: Tensor) -> None:  # noqa: D102
        self._share = float((holds > 0).float().mean())

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        return self.frozen.targets(observations)

    def values(self, observations: Observations) -> Tensor:  # noqa: D102
        return self.frozen.values(observations)

    def _vectors(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return starts as vectors: as they are, or the features that a copy of the policy sees in them."""
        states = {key: states[key] for key in as_items(get_obs_shape(agent.observation_space))}
        first = next(iter(states.values()))
        if len(states) == 1 and first.ndim == 2 and first.dtype.kind == "f":
            return first.astype(np.float32)
        if self.eye is None:
            self.eye = FrozenPolicy(self.actor)
            self.eye.take(agent)
        items = {key: torch.as_tensor(np.ascontiguousarray(a), device=agent.device) for key, a in states.items()}
        return self.eye.features(from_items(items)).cpu().numpy().astype(np.float32)

    def _forget(self, store: Any) -> None:
        """Let go of starts of which no state is stored any more, but for the latest."""
        kept = np.isin(self._numbers, store.episodes[store.slots()])
        kept[-NOW:] = True
        self._numbers, self._starts = self._numbers[kept], self._starts[kept]
        self._began, self._holds = self._began[kept], self._holds[kept]
        self._left = max(len(self._numbers), NOW)

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {
            "change": float(self.test.alarms),
            "changed_at": float(self._since),
            "evidence": self.test.evidence,
            "frozen_share": 0.0 if self.inactive else self._share,
        }

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        arrays = {f"starts/{name}": getattr(self, f"_{name}") for name in _ARRAYS}
        arrays |= {f"test/{name}": array for name, array in self.test.arrays().items()}
        out = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        parts = {"ring": self.ring.tensors(), "frozen": self.frozen.tensors()}
        parts |= {} if self.eye is None else {"eye": self.eye.tensors()}
        return out | {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def state(self) -> dict[str, Any]:  # noqa: D102
        return super().state() | {
            "generator": self._generator.bit_generator.state,
            "test": self.test.state(),
            "ring": self.ring.state(),
            "steps": self.steps,
            "judged": self._judged,
            "left": self._left,
            "since": self._since,
            "tasks": self.tasks,
            "changes": self._changes,
            "share": self._share,
            "alarms": self._alarms,
            "divided": self._divided,
            "raised": self._raised,
            "noticed": [asdict(event) for event in self._noticed],
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: D102
        super().load(agent, {}, state)
        parts = split_parts(tensors, {"starts", "test", "ring", "frozen", "eye"})
        for name in _ARRAYS:
            setattr(self, f"_{name}", parts["starts"][name].cpu().numpy().copy())
        self.test.load({name: t.cpu().numpy().copy() for name, t in parts["test"].items()}, state["test"])
        self.ring.load(parts.get("ring", {}), state["ring"])
        self.frozen.load(agent, parts.get("frozen", {}))
        if self.ready and self.frozen.policy is None:
            raise ValueError("the saved teacher does not fit this policy: it has no tensors")
        if "eye" in parts:
            self.eye = FrozenPolicy(self.actor)
            self.eye.load(agent, parts["eye"])
        counts = (int(state[name]) for name in ("steps", "judged", "since", "left"))
        self.steps, self._judged, self._since, self._left = counts
        self.tasks, self._changes = ([int(n) for n in state[name]] for name in ("tasks", "changes"))
        self._alarms = [(int(since), float(wealth), float(limit)) for since, wealth, limit in state["alarms"]]
        self._divided = bool(state["divided"])
        self._share = float(state["share"])
        self._raised = [float(n) for n in state["raised"]]
        self._noticed = [ChangeEvent(**event) for event in state["noticed"]]
        self._generator.bit_generator.state = state["generator"]


#: What is known of the starts of episodes, an array each.
_ARRAYS = ("numbers", "starts", "began", "holds")


def _some(starts: np.ndarray) -> np.ndarray:
    return starts[:: 1 + len(starts) // BEFORE]


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(array, np.float32), device=device)


@dataclass(frozen=True)
class Remember(TeacherConfig, name="remember"):
    """Idle until episodes begin otherwise than they did; then the policy of the change holds what is no longer met.

    A sequential test watches the first observations of episodes (:mod:`rlsd.change`). Before it raises an alarm
    nothing is done, and the agent trains as plain SB3's, bit for bit. At an alarm it tells when episodes began to begin
    otherwise, and the policy of that moment, from a ring of snapshots, is asked what it did in each stored state that
    is to be held: one of an episode of whose like none begins now, by ``1 - P(begins now | start) / threshold``. What
    is met again is let go.

    :param level: the largest probability of any false alarm over a run of any length, while starts are independent
        draws from one distribution. Lowering it delays alarms, by an episode or two for each power of ten. Usual range
        1e-6 to 0.05.
    :param every: environment steps from one snapshot to the next, rounded up to whole rollouts: how exactly the policy
        of the change is found. Usual range 1 to a rollout.
    :param threshold: below this probability an episode's states are held. Usual range 0.05 to 0.3.
    """

    level: float = number(0.01, low=0.0, high=0.5, low_open=True)
    every: int = integer(256, low=1)
    threshold: float = number(0.2, low=0.0, high=1.0, low_open=True)

    def build(self, actor: Actor) -> RememberTeacher:  # noqa: D102
        return RememberTeacher(actor, self)
