"""The environment of an agent whose rollouts workers collect: it plays to SB3 what they have collected.

SB3's own loop fills the buffer, calls the callbacks and counts the steps, as if each step were taken as it comes. Only
where an action is asked for does it get the one that was taken, and the environment answers what was answered.

Observations that ``VecNormalize`` shows to the policy go through its statistics of the fragment's beginning, since a
worker sees none but its own. The statistics themselves, and rewards, move as in a local run: step by step, by the
observations of all environments.
"""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rlsd.scaling import acting, views
from rlsd.scaling.collector import MASKS, pickled
from rlsd.scaling.fleet import Fleet, Site
from rlsd.scaling.fragment import Fragment, Plan, beside, joined, observations_of, some_of
from rlsd.scaling.parts import Frozen, Origin
from rlsd.scaling.player import Flight, Player
from rlsd.scaling.settings import Workers
from rlsd.scaling.views import seen_through
from rlsd.speed.standing_in import standing_in


class WorkersVecEnv(VecEnv):
    """The environments of all workers as one, for an agent that is scaled. See :meth:`rlsd.RayWorkers.vec_env`.

    :param origin: what the environments are made from.
    :param workers: where.
    """

    def __init__(self, origin: Origin, workers: Workers) -> None:
        self.workers = workers
        self._origin = origin
        self._key = secrets.randbits(31)
        self._rollout = 0
        self._raw: Any = None
        self._states: Frozen | None = None  # of environments that have not reached their workers yet
        self._tape: Fragment | None = None
        self._at = 0
        self.views: list[Any] = []  # of the fragment that is played
        self._updates = 0  # of the policy that acted in it
        self._begin_anew()
        observations, actions, self._renders = self.fleet.tell_one(0, "spaces")
        super().__init__(workers.n_envs, observations, actions)

    def _begin_anew(self) -> None:
        """Forget what is of this process."""
        self._fleet: Fleet | None = None
        self._ahead: Flight | None = None
        self._knows: tuple[weakref.ref[Any], list[Any]] | None = None  # the policy that the workers have a copy of
        self._infos: list[list[dict[str, Any]]] = []
        self._player: Player | None = None

    @property
    def fleet(self) -> Fleet:
        """The workers; they are started when they are first needed."""
        if self._fleet is None:
            each = self.workers.envs_per_worker
            places = [slice(i * each, (i + 1) * each) for i in range(self.workers.n)]
            every_info, origin = self.workers.infos == "all", self._origin
            sites = [
                Site(origin[some] if isinstance(origin, list) else origin, some.start, each, every_info)
                for some in places
            ]
            self._fleet = self.workers.fleet(sites)
            if self._states is not None:
                self._fleet.tell("thaw", [(self._states.of(i, each),) for i in range(self.workers.n)])
                self._states = None
        return self._fleet

    # --- What a vector environment is asked --------------------------------------------------------

    def reset(self) -> Any:
        """Begin new episodes everywhere."""
        self._drop_ahead()
        each = self.workers.envs_per_worker
        firsts = range(0, self.num_envs, each)
        told = self.fleet.tell("reset", [(self._seeds[first], self._options[first : first + each]) for first in firsts])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [info for _, infos in told for info in infos]
        self._tape, self._raw = None, beside([raw for raw, _ in told])
        return self._raw

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments, as SB3 does, and the actions that are drawn in them."""
        seeds = super().seed(seed)
        assert seeds[0] is not None
        self.draw_by(int(seeds[0]))
        return seeds

    def draw_by(self, seed: int) -> None:
        """Draw the actions by a seed."""
        self._key, self._knows = seed % 2**31, None

    def step_async(self, actions: np.ndarray) -> None:
        """Steps are played while a scaled agent collects, and taken by workers.

        :raises RuntimeError: otherwise.
        """
        if self._tape is None or self._at >= self._tape.steps:
            raise RuntimeError(
                "workers take whole fragments, not single steps: train in this environment with SelfDistilled(PPO) or "
                "rlsd.scale, and evaluate in one of its own"
            )

    def step_wait(self) -> Any:
        """Return the next step that the workers took."""
        tape, at = self._tape, self._at
        assert tape is not None
        self._at += 1
        self._raw = observations_of(tape, self._at)
        return self._raw, tape.rewards[at].copy(), tape.dones[at].copy(), self._infos[at]

    def coming_infos(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give the infos of the step that is next."""
        return enumerate(self._infos[self._at])

    def look(self, raw: Any) -> None:
        """Be told what environments show that come here in the middle of their episodes."""
        self._raw, each = raw, self.workers.envs_per_worker
        places = [slice(i * each, (i + 1) * each) for i in range(self.workers.n)]
        self.fleet.tell("look", [(some_of(raw, some),) for some in places])

    def latest(self) -> Any:
        """Return what the environments showed last."""
        return self._raw

    def close(self) -> None:
        """Let the workers go."""
        self._drop_ahead()
        self._let_go()

    def _let_go(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each environment."""
        if attr_name == "render_mode":
            return [self._renders] * len(self._chosen(indices))
        if attr_name == MASKS and self._masks() is not None:
            return [None] * len(self._chosen(indices))
        return self._ask("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        self._ask("set_attr", indices, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of each environment; action masks while a fragment is played are those of the step."""
        masks = self._masks() if method_name == MASKS else None
        if masks is not None:
            return [masks[number] for number in self._chosen(indices)]
        return self._ask("env_method", indices, method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Tell whether each environment is wrapped by a class."""
        return self._ask("env_is_wrapped", indices, wrapper_class)

    def get_images(self) -> list[Any]:
        """Return a picture of each environment."""
        return self._ask("get_images", None)

    def _chosen(self, indices: Any) -> list[int]:
        return list(range(self.workers.n_envs)) if indices is None else [int(i) for i in np.atleast_1d(indices)]

    def _masks(self) -> np.ndarray | None:
        playing = self._tape is not None and self._at < self._tape.steps
        return self._tape.masks[self._at] if playing and self._tape.masks is not None else None  # type: ignore[union-attr]

    def _ask(self, method: str, indices: Any, *args: Any, **kwargs: Any) -> list[Any]:
        each = self.workers.envs_per_worker
        answers: dict[int, Any] = {}
        chosen = self._chosen(indices)
        for number in sorted({i // each for i in chosen}):
            mine = [i for i in chosen if i // each == number]
            more = {} if method == "get_images" else {"indices": [i % each for i in mine]}
            told = self.fleet.tell_one(number, "ask", method, *args, **kwargs, **more)
            answers |= dict(zip(mine, told or [None] * len(mine), strict=False))
        return [answers[i] for i in chosen]

    # --- Collecting for an agent -------------------------------------------------------------------

    def check_agent(self, agent: Any) -> None:
        """Raise when workers cannot collect for an agent as it would by itself.

        :raises ValueError: then.
        """
        views.check(agent.env)
        acting.check(agent)

    @contextmanager
    def collecting(self, agent: Any) -> Iterator[VecEnv]:
        """Let SB3's loop collect what workers did, from the environment that is given."""
        if self._player is None or self._player.venv is not agent.env:
            self.check_agent(agent)
            self._player = Player(agent.env, self)
        methods: dict[str, Callable[..., Any]] = {}
        if isinstance(agent, OnPolicyAlgorithm):
            self._tape = None  # of a rollout that was stopped half-way
            methods["forward"] = lambda *_, **__: self._acted(agent)
        with standing_in(agent.policy, methods):
            yield self._player

    def _acted(self, agent: Any) -> tuple[torch.Tensor, ...]:
        """Return what a worker's policy returned for the step that is next."""
        tape = self._current(agent)
        assert tape.values is not None and tape.log_probs is not None
        arrays = (tape.actions[self._at], tape.values[self._at], tape.log_probs[self._at])
        return tuple(torch.from_numpy(array.copy()).to(agent.device) for array in arrays)

    def drawn(self, agent: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions of an off-policy agent for the step that is next, and as its buffer keeps them."""
        tape = self._current(agent)
        assert tape.stored is not None
        return tape.actions[self._at], tape.stored[self._at]

    def _current(self, agent: Any) -> Fragment:
        """Return the fragment that is played; where it is over, the next one."""
        if self._tape is not None and self._at < self._tape.steps:
            if self._at == self._tape.steps - 1:
                agent.logger.record("scale/updates_behind", int(agent._n_updates) - self._updates)
            return self._tape
        self._tape = None
        began = time.perf_counter()
        flight = self._ahead or self._sent(agent)
        self._ahead = None
        fragments = flight.wait()
        tape, self.views = joined(fragments), flight.views
        if self.workers.overlap:
            self._ahead = self._sent(agent, tape.steps)
        waited = time.perf_counter() - began
        self._tape, self._at, self._infos, self._updates = tape, 0, tape.step_infos(), flight.updates
        self._show_first(agent, tape)
        figures = {"fragments_lost": self.fleet.lost, "wait_seconds": waited, "collect_seconds": tape.seconds}
        if self.fleet.nodes is not None:
            figures["nodes"] = self.fleet.nodes
        for name, value in figures.items():
            agent.logger.record(f"scale/{name}", value)
        return tape

    def _sent(self, agent: Any, coming: int = 0) -> Flight:
        """Have the workers begin a fragment, by the weights and the statistics of now.

        :param coming: vector steps that will be played before it.
        """
        self._teach(agent)
        on_policy = isinstance(agent, OnPolicyAlgorithm)
        random = 0 if on_policy else int(agent.learning_starts) - int(agent.num_timesteps) - coming * self.num_envs
        self._rollout += 1
        plan = Plan(
            rollout=self._rollout,
            steps=agent.n_steps if on_policy else self.workers.fragment,
            weights=acting.weights_of(agent),
            views=views.of(agent.env),
            warmup=max(-(-random // self.num_envs), 0),
            exploration=float(getattr(agent, "exploration_rate", 0.0)),
        )
        return Flight(self.fleet.begin(plan), plan.views, int(agent._n_updates))

    def _teach(self, agent: Any) -> None:
        """Give the workers a copy of the policy, unless they have one of the same shape."""
        shapes = [tensor.shape for tensor in acting.tensors_of(agent.policy)]
        if self._knows is None or self._knows[0]() is not agent.policy or self._knows[1] != shapes:
            copy = acting.Acting(agent, min(self.workers.block, self.num_envs))
            self.fleet.learn_to_act(pickled(copy), self._key)
            self._knows = (weakref.ref(agent.policy), shapes)

    def _show_first(self, agent: Any, tape: Fragment) -> None:
        """Let the agent see what the fragment begins with, as its workers saw it."""
        self._raw = observations_of(tape, 0)
        agent._last_obs = seen_through(self.views, self._raw)
        normalizer = agent.get_vec_normalize_env()
        if normalizer is not None:
            normalizer.old_obs = self._raw
            normalizer.returns[tape.fresh] = 0
            if hasattr(agent, "_last_original_obs"):
                agent._last_original_obs = self._raw
        if tape.fresh.any():
            agent._last_episode_starts = np.where(tape.fresh, True, agent._last_episode_starts)

    # --- Moving on ---------------------------------------------------------------------------------

    def move(self, workers: Workers) -> None:
        """Go on with other workers, in the middle of the episodes.

        :raises ValueError: when they have another number of environments, or these cannot be moved.
        """
        check_number(workers, self.num_envs)
        frozen = self._frozen()
        if not frozen.in_pieces and workers.n != self.workers.n:
            raise ValueError(f"these environments keep together: give {self.workers.n} workers, as before")
        if self._ahead is not None:
            self._ahead = self._ahead.landed()
        self._let_go()
        self.workers, self._states, self._knows = workers, frozen, None

    def _frozen(self) -> Frozen:
        """Return the environments in the middle of their episodes."""
        if self._states is not None:
            return self._states
        told: list[Frozen] = self.fleet.tell("freeze", [()] * self.workers.n)
        raws = [one.raw for one in told if one.raw is not None]
        states = [state for one in told for state in one.states]
        return Frozen(told[0].in_pieces, states, beside(raws) if raws else None)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.wait()
            self._ahead = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}
        if self._ahead is not None:
            self._ahead = self._ahead.landed()
            kept["ahead"] = (self._ahead.wait(), self._ahead.views, self._ahead.updates)
        if self._tape is not None and self._at >= self._tape.steps:
            kept["_tape"] = None
        return kept | {"_states": self._frozen()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ahead = state.pop("ahead", None)
        self.__dict__.update(state)
        self._begin_anew()
        if ahead is not None:
            fragments, seen_by, updates = ahead
            self._ahead = Flight(lambda: fragments, seen_by, updates)
        if self._tape is not None:
            self._infos = self._tape.step_infos()


_OF_THIS_PROCESS = ("_fleet", "_ahead", "_knows", "_infos", "_player")


def check_number(workers: Workers, n_envs: int) -> None:
    """Raise when workers have another number of environments than an agent.

    :raises ValueError: then.
    """
    if workers.n_envs != n_envs:
        each = f"{workers.n} workers of {workers.envs_per_worker}"
        raise ValueError(f"the agent has {n_envs} environments, and {each} have {workers.n_envs}: make them equal")
