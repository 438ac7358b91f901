"""``scripts/benchmark.py scale``: what do workers bring, predicted from measured times, and measured?"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from benchmarks.report import begin, finish, one_thread
from rlsd.cli.console import say
from rlsd.cli.flags import Count, MaybeText, read_flags

if TYPE_CHECKING:
    from rlsd.scaling.settings import Workers


SUBPROC = "SubprocVecEnv"


@dataclass(frozen=True)
class ScaleOptions:
    """Time the parts of a rollout on one worker, predict what more of them bring, and measure it.

    The environment waits: it stands for a simulator on a machine of its own. With --env it is another one, which is
    measured in SB3's SubprocVecEnv too, in as many environments as the most workers have. Rollouts are timed in turns.
    """

    workers: Annotated[tuple[Count, ...], tyro.conf.arg(metavar="N ...")] = (1, 2, 4)
    """Numbers of workers that are measured; the first one is what ratios are to."""
    predicted: Annotated[tuple[Count, ...], tyro.conf.arg(metavar="N ...")] = (8, 16, 64, 256, 1000)
    """Numbers of workers that are only predicted, each with a CPU of its own."""
    envs_per_worker: Count = 8
    """Environments of each."""
    n_steps: Count = 64
    """Vector steps of a rollout."""
    milliseconds: float = 2.0
    """That a step of the environment waits."""
    env: MaybeText = None
    """Gymnasium id of an environment, instead of the one that waits."""
    rollouts: Count = 5
    """Rollouts of each that are timed, whose median counts; the first one after the start is not."""
    cpus: Count = 0
    """CPUs that the measured workers share, for the prediction; 0 for those of this machine."""
    json: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Write all figures to this file."""


class Waiting(gym.Env[Any, Any]):
    """Waits at each step, in episodes of 100."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (17,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def __init__(self, seconds: float) -> None:
        self._seconds, self._steps = seconds, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(17, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Wait, and give a reward for small actions."""
        time.sleep(self._seconds)
        self._steps += 1
        seen = self.np_random.uniform(-1, 1, 17).astype(np.float32)
        return seen, -float(np.square(action).sum()), False, self._steps >= 100, {}


@dataclass(frozen=True)
class Parts:
    """Seconds of one rollout's parts.

    :param collect: of one worker, by the clock, and ``busy`` of a CPU.
    :param play: of the learner's loop, for each vector step, and ``play_env`` for each environment in it.
    :param train: for each state of the rollout.
    :param message: to bring one worker's fragment to the learner, and ``asked`` to ask a worker at all.
    :param fragment_bytes: of that fragment, and ``weight_bytes`` of what goes out.
    """

    collect: float
    busy: float
    play: float
    play_env: float
    train: float
    message: float
    asked: float
    fragment_bytes: int
    weight_bytes: int


def predict(parts: Parts, workers: int, envs_per_worker: int, n_steps: int, cpus: int) -> dict[str, float]:
    """Return the seconds of a rollout with some workers, by what they are spent on.

    Workers wait at the same time, and compute at the same time as far as there are CPUs; the learner's part comes after
    theirs.
    """
    envs = workers * envs_per_worker
    return {
        "collect": max(parts.collect, workers * parts.busy / cpus),
        "messages": parts.asked + workers * parts.message,
        "play": n_steps * (parts.play + envs * parts.play_env),
        "train": envs * n_steps * parts.train,
    }


def run(argv: Sequence[str]) -> int:
    """Measure, predict, print, and write the file that was asked for."""
    import os

    options = read_flags(ScaleOptions(), "python scripts/benchmark.py scale", argv)
    cpus = options.cpus or os.cpu_count() or 1
    started = begin("scale", argv)
    with one_thread():
        parts = _parts(options)
        steps = options.envs_per_worker * options.n_steps
        say(
            f"One worker collects {steps} steps in {parts.collect:.3f} s, {parts.busy:.3f} s of them on a CPU.\n"
            f"A fragment has {parts.fragment_bytes / 1024:.0f} KiB, the weights {parts.weight_bytes / 1024:.0f} KiB; "
            f"{cpus} CPUs; a message takes {1000 * (parts.asked + parts.message):.1f} ms\n"
        )
        say("workers   steps/s   ratio   predicted   measured / predicted   bottleneck")
        seconds = _measured(options)
        first = options.workers[0] * steps / float(np.median(seconds[str(options.workers[0])]))
        rows: list[dict[str, Any]] = []
        for workers in dict.fromkeys((*options.workers, *options.predicted)):
            measured = seconds.get(str(workers))
            spent = predict(
                parts, workers, options.envs_per_worker, options.n_steps, workers if measured is None else cpus
            )
            row: dict[str, Any] = {
                "workers": workers,
                "predicted": workers * steps / sum(spent.values()),
                "spent": spent,
                "bottleneck": max(spent, key=spent.__getitem__),
            }
            if measured is not None:
                row["measured"] = workers * steps / float(np.median(measured))
                row["ratio"] = row["measured"] / first
            rows.append(row)
            say(_line(row))
        started["seconds"] = seconds
        if SUBPROC in seconds:
            started["subproc"] = max(options.workers) * steps / float(np.median(seconds[SUBPROC]))
            say(f"{SUBPROC} of {max(options.workers) * options.envs_per_worker}: {started['subproc']:.0f} steps/s")
    finish({**started, "parts": asdict(parts), "rows": rows, "cpus": cpus}, options.json)
    return 0


def _line(row: dict[str, Any]) -> str:
    measured, expected = row.get("measured"), row["predicted"]
    told = "" if measured is None else f"{measured:9.0f}{row['ratio']:8.2f}"
    share = "" if measured is None else f"{measured / expected:.2f}"
    return f"{row['workers']:7d}{told:17s}{expected:12.0f}{share:>23s}   {row['bottleneck']}"


def _agent(workers: Workers | None, options: ScaleOptions) -> Any:
    """Return an agent on workers, or in a ``SubprocVecEnv`` for None."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import SubprocVecEnv

    import rlsd

    seconds, env_id = options.milliseconds / 1000, options.env
    settings: dict[str, Any] = {
        "n_steps": options.n_steps,
        "batch_size": 256,
        "n_epochs": 2,
        "seed": 0,
    }

    def make() -> Any:
        return Waiting(seconds) if env_id is None else gym.make(env_id)

    if workers is None:
        env: Any = SubprocVecEnv([make] * (max(options.workers) * options.envs_per_worker))
    else:
        env = workers.vec_env(make)  # type: ignore[attr-defined]
    return rlsd.SelfDistilled(PPO)("MlpPolicy", env, distill=None, device="cpu", **settings)


@contextmanager
def _ray_here(options: ScaleOptions, cpus: int) -> Iterator[None]:
    import ray  # type: ignore[import-not-found, unused-ignore]

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    try:
        yield
    finally:
        ray.shutdown()


def _measured(options: ScaleOptions) -> dict[str, list[float]]:
    """Return the seconds of rollouts with their updates, by the number of workers, all in turns."""
    import rlsd

    # CPUs enough for the workers of all, which wait while it is not their turn.
    init = {"num_cpus": sum(options.workers), "object_store_memory": 300 * 2**20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agents = {
            str(n): _agent(rlsd.RayWorkers(n, options.envs_per_worker, init=init), options) for n in options.workers
        }
        if options.env is not None:
            agents[SUBPROC] = _agent(None, options)
        taken: dict[str, list[float]] = {name: [] for name in agents}
        for turn in range(options.rollouts + 1):
            for name, agent in agents.items():
                began = time.perf_counter()
                agent.learn(agent.n_envs * options.n_steps, reset_num_timesteps=False)
                taken[name] += [time.perf_counter() - began] if turn else []
        for agent in agents.values():
            agent.env.close()
    return taken


def _parts(options: ScaleOptions) -> Parts:
    """Time the parts of a rollout: two sizes in this process, and messages of a fragment's size through Ray."""
    import rlsd

    played: dict[int, float] = {}
    timed: dict[int, dict[str, list[float]]] = {}
    for n_envs in (options.envs_per_worker, 4 * options.envs_per_worker):
        agent = _agent(rlsd.LocalWorkers(1, n_envs, block=0), _still(options))
        agent.learn(n_envs * options.n_steps)
        timings: dict[str, list[float]] = {"play": [], "train": []}
        timed[n_envs] = timings
        _clock(agent, timings)
        for _ in range(options.rollouts):
            agent.learn(n_envs * options.n_steps, reset_num_timesteps=False)
        played[n_envs] = float(np.median(timings["play"])) / options.n_steps
    small, large = played
    play_env = max((played[large] - played[small]) / (large - small), 0.0)
    train = float(np.median(timed[large]["train"])) / (large * options.n_steps)
    agent = _agent(rlsd.LocalWorkers(1, options.envs_per_worker), options)
    agent.learn(options.envs_per_worker * options.n_steps)
    base = agent.env.unwrapped
    flights = []
    for _ in range(options.rollouts):
        wall, busy = time.perf_counter(), time.process_time()
        flight = base._sent(agent)
        flights.append((time.perf_counter() - wall, time.process_time() - busy))
    (fragment,) = flight.wait()
    weights = sum(parameter.nbytes for parameter in agent.policy.parameters())
    asked, message = _messages(fragment, options)
    collect, busy = (float(np.median(column)) for column in zip(*flights, strict=True))
    return Parts(
        collect,
        busy,
        max(played[small] - small * play_env, 0.0),
        play_env,
        train,
        message,
        asked,
        fragment.nbytes(),
        weights,
    )


def _still(options: ScaleOptions) -> ScaleOptions:
    """Return the options with an environment that does not wait, for what does not depend on it."""
    from dataclasses import replace

    return replace(options, milliseconds=0.0, env=None)


def _clock(agent: Any, timings: dict[str, list[float]]) -> None:
    """Note the seconds of each rollout without its collecting, and of each update."""
    base, train = agent.env.unwrapped, agent.train
    show_first, state = base._show_first, {}

    def first(*args: Any) -> None:
        state["began"] = time.perf_counter()
        show_first(*args)

    def timed() -> None:
        began = time.perf_counter()
        timings["play"].append(began - state["began"])
        train()
        timings["train"].append(time.perf_counter() - began)

    base._show_first, agent.train = first, timed


def _messages(fragment: Any, options: ScaleOptions) -> tuple[float, float]:
    """Return the seconds to ask a worker for nothing, and to bring a fragment, through Ray."""
    import ray

    class Sender:
        def nothing(self) -> None:
            return None

        def same(self, given: Any) -> Any:
            return given

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _ray_here(options, 1):
            sender = ray.remote(Sender).remote()
            sent = ray.put(fragment)
            ray.get(sender.same.remote(sent))
            asked = _median(lambda: ray.get(sender.nothing.remote()))
            whole = _median(lambda: ray.get(sender.same.remote(sent)).rewards.sum())
    return asked, max(whole - asked, 0.0)


def _median(work: Any, times: int = 20) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))
