"""What runs in a worker: some environments, a copy of the policy, and the loop that joins them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import VecEnv

from rlsd import environment_state
from rlsd.observations import as_items
from rlsd.scaling.acting import Acted, Acting
from rlsd.scaling.drawing import Numbers, numbers
from rlsd.scaling.fragment import Fragment, Items, Plan
from rlsd.scaling.parts import Frozen, Origin, is_one_by_one, make, merged, pieces
from rlsd.scaling.views import seen_through
from rlsd.version import __version__

MASKS = "action_masks"


def versions() -> dict[str, str]:
    """Return what must be the same everywhere for environments and policies to travel."""
    parts = {"rlsd": __version__, "Python": platform.python_version(), "torch": torch.__version__.partition("+")[0]}
    return parts | {"Stable-Baselines3": stable_baselines3.__version__}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: with more, sums may round otherwise."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Collector:
    """Some of a run's environments, and what collects in them.

    :param origin: what they are made from.
    :param first: the place of its first environment among all of the run.
    :param n_envs: how many there are.
    :param every_info: return the infos of every step, not only of those that end an episode.
    """

    def __init__(self, origin: Origin, first: int, n_envs: int, every_info: bool) -> None:
        self.env: VecEnv = make(origin, n_envs)
        self._places = range(first, first + n_envs)
        self._every_info = every_info
        self._acting: Acting | None = None
        self._key = 0
        self._raw: Any = None

    def spaces(self) -> tuple[Any, Any, Any]:
        """Return the spaces of the environments, and how they render."""
        return self.env.observation_space, self.env.action_space, self.env.render_mode

    def learn_to_act(self, acting: bytes, key: int) -> None:
        """Take a policy.

        :param acting: an :class:`Acting`, pickled.
        :param key: of the run, for the random numbers.
        """
        self._acting, self._key = cloudpickle.loads(acting), key
        assert self._acting is not None
        self._acting.start()

    def reset(self, seed: int | None, options: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        """Begin new episodes, and return the observations and what the environments say of them.

        :param seed: of the first environment, the next one has the next; None goes on with their generators.
        """
        if seed is not None:
            self.env.seed(seed)
        if any(options):
            self.env.set_options(options)
        self._raw = self.env.reset()
        return self._raw, list(self.env.reset_infos)

    def look(self, raw: Any) -> None:
        """Be told what the environments show, which came here in the middle of their episodes."""
        self._raw = raw

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the vector environment."""
        return getattr(self.env, method)(*args, **kwargs)

    def freeze(self) -> Frozen:
        """Return the environments in the middle of their episodes.

        :raises ValueError: when they cannot be pickled.
        """
        if is_one_by_one(self.env):
            return Frozen(True, pieces(self.env), self._raw)
        return Frozen(False, [environment_state.freeze(self.env)], self._raw)

    def thaw(self, frozen: Frozen) -> None:
        """Go on with environments that were frozen."""
        self.env.close()
        self.env = merged(frozen.states) if frozen.in_pieces else environment_state.thaw(frozen.states[0])
        self._raw = frozen.raw

    def collect(self, plan: Plan) -> Fragment:
        """Act for some steps and return what happened."""
        began, acting = time.perf_counter(), self._acting
        assert acting is not None, "no policy has come yet"
        acting.load(plan.weights)
        with one_thread():
            drawn = numbers(self._key, self._places, plan.rollout, plan.steps, acting.space, not acting.on_policy)
            fragment = self._collected(plan, acting, drawn)
        fragment.seconds = time.perf_counter() - began
        return fragment

    def _collected(self, plan: Plan, acting: Acting, drawn: Numbers) -> Fragment:
        n_envs, rows = len(self._places), np.asarray(self._places)
        masked = acting.on_policy and "action_masks" in _arguments(acting.policy.forward) and self.env.has_attr(MASKS)
        tape = _Tape(plan.steps)
        tape.see(self._raw)
        infos: list[tuple[int, int, dict[str, Any]]] = []
        for step in range(plan.steps):
            masks = np.stack(self.env.env_method(MASKS)) if masked else None
            acted = acting.act(seen_through(plan.views, self._raw), step, plan, drawn, rows, masks)
            self._raw, rewards, dones, told = self.env.step(acted.taken)
            tape.see(self._raw)
            tape.put(acted, rewards, dones, masks)
            infos += [(step, i, told[i]) for i in range(n_envs) if told[i] and (dones[i] or self._every_info)]
        return Fragment(
            observations=tape.observations, infos=infos, fresh=np.zeros(n_envs, bool), seconds=0.0, **tape.arrays()
        )


class _Tape:
    """Arrays that a fragment is written into, a step at a time."""

    _NAMES = ("actions", "stored", "values", "log_probs", "masks", "rewards", "dones")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._seen = self._put = 0
        self.observations: Items = {}
        self._arrays: dict[str, np.ndarray] = {}

    def see(self, raw: Any) -> None:
        for key, value in as_items(raw).items():
            if key not in self.observations:
                self.observations[key] = np.empty((self._steps + 1, *value.shape), value.dtype)
            self.observations[key][self._seen] = value
        self._seen += 1

    def put(self, acted: Acted, rewards: np.ndarray, dones: np.ndarray, masks: np.ndarray | None) -> None:
        happened = dict(zip(self._NAMES, (acted.actions, acted.stored, acted.values, acted.log_probs), strict=False))
        for name, value in (happened | {"masks": masks, "rewards": rewards, "dones": dones}).items():
            if value is None:
                continue
            if name not in self._arrays:
                self._arrays[name] = np.empty((self._steps, *value.shape), value.dtype)
            self._arrays[name][self._put] = value
        self._put += 1

    def arrays(self) -> dict[str, Any]:
        return {name: self._arrays.get(name) for name in self._NAMES}


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return () if code is None else tuple(code.co_varnames[: code.co_argcount])


def pickled(acting: Acting) -> bytes:
    """Return an :class:`Acting` for :meth:`Collector.learn_to_act`.

    :raises ValueError: when the policy cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(acting))
    except Exception as error:  # whatever a user's policy holds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"the policy cannot be pickled for the workers: {reason}") from error
