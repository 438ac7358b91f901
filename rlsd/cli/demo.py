"""``rlsd demo``: plain SB3 and rlsd learn one task and then another, side by side, and a picture shows what is left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlsd.cli.console import say, warn
from rlsd.cli.errors import MachineError, UserError, blame_input
from rlsd.cli.flags import Count, check_lowest, read_flags
from rlsd.cli.interrupt import stop_on_signals
from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd.cli.runfolder import check_writable
from rlsd.cli.tables import table

if TYPE_CHECKING:
    from rlsd.cli.sweep import Launcher
    from rlsd.cli.two_tasks import Outcome, Point, Settings

PLAIN, OURS = "plain SB3", "rlsd"
#: PPO's. A task that changes unannounced allows no schedules, and the entropy bonus keeps both agents exploring.
HYPERPARAMS: dict[str, Any] = {
    "policy": "MlpPolicy",
    "n_envs": 8,
    "n_steps": 64,
    "batch_size": 128,
    "n_epochs": 10,
    "learning_rate": 0.001,
    "gamma": 0.98,
    "gae_lambda": 0.9,
    "ent_coef": 0.05,
}
#: How often the agents are looked at, in each task.
_LOOKS = 12
_EPISODES = 10
#: Seconds from one look at the processes to the next.
_LOOK_UP = 0.5


@dataclass(frozen=True)
class DemoOptions:
    """See in about two minutes what rlsd is for: a task kept that plain SB3 forgets.

    Plain SB3's PPO and the same with rlsd learn CartPole, then CartPole with its actions swapped. The observation says
    which of the two it is, so that an agent could know both. Draws a picture of what is left of the first.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "remember"
    """Kind of self-distillation; `rlsd recipes` lists them."""
    n_timesteps: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 25_000
    """Environment steps on each of the two tasks."""
    seed: Count = 0
    """Seed of everything random."""
    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs/demo"
    """The picture goes to FOLDER/demo.svg, all returns beside it."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Run the demo and return its exit code.

    :raises UserError: when the input is wrong; nothing has been trained or written then.
    """
    options = read_flags(DemoOptions(), "rlsd demo", argv)
    check_lowest(options, {"n_timesteps": 1000, "seed": 0})
    folder = Path(options.log_folder)
    check_writable(folder)
    settings = {name: _settings(options, name) for name in (PLAIN, OURS)}
    say("Task A is CartPole. Task B is CartPole with its actions swapped. The observation says which of them it is.")
    say(
        f"Plain SB3's PPO and PPO with rlsd (recipe {options.recipe}) learn A, then B, {options.n_timesteps:,} steps "
        "each, side by side. Ctrl-C stops."
    )
    started = time.monotonic()
    outcomes = _run_all(settings, folder)
    if outcomes is None:
        return EXIT_INTERRUPTED
    _report(options, folder, outcomes, time.monotonic() - started)
    return 0


def curve(log: Path) -> list[Point]:
    """Return what the process that writes this log has found so far."""
    from rlsd.cli.two_tasks import Point

    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else ():
        try:
            found.append(Point(**json.loads(line)))
        except (ValueError, TypeError):  # a warning, or a line that is half written
            continue
    return found


def _settings(options: DemoOptions, name: str) -> Settings:
    from stable_baselines3 import PPO

    from rlsd.cli.two_tasks import Settings
    from rlsd.presets import resolve
    from rlsd.several import each

    with blame_input():
        config = None if name == PLAIN else resolve(options.recipe, PPO)
    if name == OURS and any(one.strength.name == "schedule" for one in each(config)):
        raise UserError(f"--recipe {options.recipe} follows training's progress: nobody says when a task ends here")
    return Settings(
        env="CartPole-v1",
        env_kwargs={},
        algo="ppo",
        seed=options.seed,
        steps=options.n_timesteps,
        rounds=1,
        eval_episodes=_EPISODES,
        hyperparams=HYPERPARAMS,
        distill=None if config is None else config.to_dict(),
        device="cpu",
    )


def _run_all(settings: Mapping[str, Settings], folder: Path) -> dict[str, Outcome] | None:
    """Run the trials at the same time, and tell how they go. Returns None where a signal put an end to it."""
    from rlsd.cli.sweep import Launcher, last_line

    launcher, progress = Launcher(), _Progress(2 * settings[PLAIN].steps)
    for name in settings:
        for old in (_file(folder, name), _log(folder, name)):
            old.unlink(missing_ok=True)
    with ThreadPoolExecutor(len(settings)) as pool, stop_on_signals(launcher.stop, "stopped"):
        futures = {name: pool.submit(_train, launcher, folder, name, some) for name, some in settings.items()}
        _watch(futures, folder, progress)
    if launcher.stopping:
        return None
    outcomes = {name: future.result() for name, future in futures.items()}
    for name, outcome in outcomes.items():
        if outcome is None:
            raise MachineError(f"{name} came to no end: {last_line(_log(folder, name))}, see {_log(folder, name)}")
    return {name: outcome for name, outcome in outcomes.items() if outcome is not None}


def _train(launcher: Launcher, folder: Path, name: str, settings: Settings) -> Outcome | None:
    from rlsd.cli.two_tasks import read

    every = max(settings.steps // _LOOKS, 1)
    words = ("-m", "rlsd.cli.two_tasks", json.dumps(asdict(settings)), str(_file(folder, name)), str(every))
    launcher.run(words, _log(folder, name))
    return read(_file(folder, name), settings)


def _watch(futures: Mapping[str, Future[Outcome | None]], folder: Path, progress: _Progress) -> None:
    while wait(futures.values(), _LOOK_UP).not_done:
        progress.show({name: curve(_log(folder, name)) for name in futures})
    progress.end()


class _Progress:
    """A line that is written over on a terminal, and a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = 0
        self._live = sys.stderr is not None and sys.stderr.isatty()

    def show(self, curves: Mapping[str, Sequence[Point]]) -> None:
        steps = min(points[-1].steps if points else 0 for points in curves.values())
        if not steps or (not self._live and steps - self._shown < self._total // 6):
            return
        self._shown = steps
        latest = ", ".join(f"{name} {points[-1].a:.0f} and {points[-1].b:.0f}" for name, points in curves.items())
        text = f"  {steps:>6,} of {self._total:,} steps each; return on A and on B: {latest}"
        if self._live:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            warn(text)

    def end(self) -> None:
        if self._live and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(options: DemoOptions, folder: Path, outcomes: Mapping[str, Outcome], seconds: float) -> None:
    from rlsd.cli.picture import Curve, draw
    from rlsd.io import files

    shown = {PLAIN: PLAIN, OURS: f"{OURS}, recipe {options.recipe}"}
    curves, rows = [], []
    for name, outcome in outcomes.items():
        before, a, b = (outcome.mean(*of, "greedy") for of in ((0, "A"), (-1, "A"), (-1, "B")))
        rows.append([shown[name], f"{before:.0f}", f"{a:.0f}", f"{b:.0f}"])
        points = [(point.steps, point.a, point.b) for point in curve(_log(folder, name))]
        curves.append(Curve(shown[name], [*points, (outcome.phases[-1]["steps"], a, b)]))
    picture = folder / "demo.svg"
    files.write_text(picture, draw(curves, outcomes[PLAIN].phases[0]["steps"]))
    say(f"\n{table(('return', 'task A', 'task A after B', 'task B'), rows)}\n")
    kept = {name: f"{name} {outcome.mean(-1, 'A', 'greedy'):.0f}" for name, outcome in outcomes.items()}
    say(f"Task A after B: {kept[PLAIN]}, {kept[OURS]}. The best return is 500.")
    say(f"Picture         {picture}, drawn after {seconds:,.0f} s")
    say(f"Your own task   rlsd train --env CartPole-v1 --recipe {options.recipe}")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.partition(' ')[0]}.json"


def _log(folder: Path, name: str) -> Path:
    return _file(folder, name).with_suffix(".log")
