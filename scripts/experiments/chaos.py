"""Kill trainings at their file operations and at random moments, resume them, compare them with those nobody killed.

    python scripts/experiments/chaos.py                          # 100 kills over all runs, some minutes
    python scripts/experiments/chaos.py --runs sac --every       # at every single file operation
    python scripts/experiments/chaos.py --runs replace --every   # a checkpoint that takes another's place

A training is a process of its own, forked from this one so that nobody waits for imports. ``SIGKILL`` falls before the
n-th time that it opens a file to write, renames, removes, makes a folder or syncs, or in the middle of a write. About
every second resumed training is killed, too. In the end parameters, optimizers, the best agent, evaluations, episodes
and TensorBoard's curves must be those of the training that nobody killed, and no traceback may be written. Exits with 1
when something differs.
"""

from __future__ import annotations

import argparse
import builtins
import csv
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.save_util import load_from_zip_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlsd
from rlsd.cli import agents, environments, plan, report, session, train  # noqa: F401 - before the first fork
from rlsd.cli.main import main as rlsd_main
from rlsd.io import folders

_NET = "policy_kwargs:{net_arch: [8]}"
_PPO = ["--env", "CartPole-v1", "-params", "n_envs:2", "n_steps:16", "batch_size:32", "n_epochs:2", _NET]
_OFF_POLICY = ["learning_starts:20", "batch_size:8", "buffer_size:500", "train_freq:8", "gradient_steps:2", _NET]
#: The trainings, a few hundred steps each. The rates are constant: a schedule would know how long the run is to be.
RUNS = {
    "ppo": [*_PPO, "learning_rate:0.001", "clip_range:0.2"],
    "ppo-vecnormalize": [*_PPO, "learning_rate:0.001", "clip_range:0.2", "normalize:true"],
    "sac": ["--algo", "sac", "--env", "Pendulum-v1", "-params", *_OFF_POLICY, "learning_rate:0.001"],
    "dqn": ["--algo", "dqn", "--env", "CartPole-v1", "-params", *_OFF_POLICY, "learning_rate:0.001"],
}
_COMMON = ["-n", "256", "--save-freq", "64", "--eval-freq", "48", "--eval-episodes", "4", "--n-eval-envs", "4"]
_COMMON += ["--no-progress", "--recipe", "snapshot", "--distill", "teacher.every=64"]
REPLACE = "replace"

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_AUDITED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
_REAL_OPEN, _REAL_SYNC = io.open, os.fsync


class Tripwire:
    """Kills its own process at the n-th operation on files below a folder. Cannot be taken away again.

    :param root: of the folder.
    :param at: the operation; 0 only counts.
    """

    def __init__(self, root: Path, at: int) -> None:
        self.count, self._at, self._root = 0, at, str(root)

    def install(self) -> None:
        """Watch every operation from now on."""
        sys.addaudithook(self._audit)
        os.fsync = self._sync  # type: ignore[assignment]
        io.open = builtins.open = self._open

    def due(self) -> bool:
        """Count an operation, and tell whether it is the last."""
        self.count += 1
        return self.count == self._at

    def below(self, path: Any) -> bool:
        """Tell whether a path is in the folder."""
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self._root)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if (opened or event in _AUDITED) and self.below(arguments[0]) and self.due():
            die()

    def _sync(self, handle: Any) -> None:
        if self.due():
            die()
        _REAL_SYNC(handle)

    def _open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not (self.below(file) and set(mode) & set("wax+")):
            return _REAL_OPEN(file, mode, *args, **kwargs)
        raw = Halved(file, mode.replace("b", "").replace("t", ""))
        raw.wire = self
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, kwargs.get("encoding") or "utf-8", newline=kwargs.get("newline"))


class Halved(io.FileIO):
    """A file whose process may die in the middle of a write."""

    wire: Tripwire

    def write(self, data: Any) -> int:
        """Write, or half of it and die."""
        if self.wire.due():
            super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            die()
        return super().write(data)


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Life:
    """How a process ended: its exit code, -9 when killed, what it said, and its operations if it ended by itself."""

    code: int
    said: str
    operations: int


def live(action: Callable[[], int], root: Path, at: int = 0, seconds: float | None = None) -> Life:
    """Do something in a process of its own that may be killed.

    :param root: the operations below this folder count.
    :param at: the operation that it is killed at; 0 for none.
    :param seconds: after which it is killed; None for never.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, count = Path(folder, "log"), Path(folder, "count")
        child = os.fork()
        if child == 0:
            code = 70
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                wire = Tripwire(root, at)
                wire.install()
                code = action()
                count.write_text(str(wire.count))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        operations = int(count.read_text()) if count.exists() else 0
        return Life(os.waitstatus_to_exitcode(status), log.read_text() if log.exists() else "", operations)


@dataclass
class Campaign:
    """What was tried on one training, and what went wrong.

    :param name: of :data:`RUNS`.
    """

    name: str
    kills: int = 0
    trials: int = 0
    wrong: list[str] = field(default_factory=list)

    def blame(self, where: str, what: str) -> None:
        """Note what went wrong."""
        self.wrong.append(f"{self.name}, {where}: {what}")

    def train(self, logs: Path, where: str, first: dict[str, Any], later: Iterator[int]) -> Path | None:
        """Bring a training to its end through kills, and return its folder; None when it does not end well.

        :param first: when the first process is killed, as :func:`live` takes it.
        :param later: the operations at which each further one is.
        """
        killing = first
        self.trials += 1
        for _ in range(30):
            runs = _runs(logs)
            resumed = live(self._words(["--resume", str(runs[-1])]), logs, **killing) if runs else None
            # A run that was killed before its first checkpoint says so in a line, and is begun anew.
            if resumed is not None and (resumed.code != 2 or resumed.said.count("\n") != 1):
                life = resumed
            else:
                life = live(self._words([*RUNS[self.name], *_COMMON, "-f", str(logs)]), logs, **killing)
            self.kills += life.code == -signal.SIGKILL
            if life.code not in (0, -signal.SIGKILL) or "Traceback" in life.said:
                self.blame(where, f"exit code {life.code}: {life.said[-2000:]}")
                return None
            if life.code == 0:
                return _runs(logs)[-1]
            killing = {"at": next(later)}
        self.blame(where, "it never ends")
        return None

    @staticmethod
    def _words(words: list[str]) -> Callable[[], int]:
        return lambda: rlsd_main(["train", *words])


def _runs(logs: Path) -> list[Path]:
    """Return the folders of the runs below a log folder, the first first."""
    return sorted(logs.glob("*/*_*"), key=lambda run: int(run.name.rpartition("_")[2]))


def facts(run: Path) -> dict[str, str]:
    """Return all that a finished run must have in common with one that nobody killed."""
    env_name = run.name.rpartition("_")[0]
    found: dict[str, Any] = {}
    for zipped in (f"{env_name}.zip", "best_model.zip"):
        _, parameters, variables = load_from_zip_file(run / zipped, load_data=False, device="cpu")
        found |= {f"{zipped} {key}": value for key, value in _leaves([parameters, variables])}
    with np.load(run / "evaluations.npz") as arrays:
        found |= {f"evaluations {key}": arrays[key].tolist() for key in arrays.files}
    rows = csv.DictReader((run / "0.monitor.csv").read_text().splitlines()[1:])
    found["episodes"] = [(row["r"], row["l"], row["step"]) for row in rows]
    (curves,) = (run / "tensorboard").iterdir()
    accumulator = EventAccumulator(str(curves), {"scalars": 0}).Reload()
    for tag in accumulator.Tags()["scalars"]:
        if not tag.startswith("time/"):
            found[f"TensorBoard {tag}"] = [(event.step, event.value) for event in accumulator.Scalars(tag)]
    results = json.loads((run / "results.json").read_text())
    found |= {key: results[key] for key in ("mean_reward", "std_reward", "best_mean_reward", "timesteps")}
    return {key: repr(value) for key, value in found.items()}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not parts:
        yield name, value.tolist() if isinstance(value, torch.Tensor) else value
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}")


def campaign(name: str, kills: int, every: bool, generator: np.random.Generator, folder: Path) -> Campaign:
    """Kill one training about so many times, or at every operation, and compare each end with that of the reference."""
    done = Campaign(name)
    (folder / "reference").mkdir(parents=True)
    started = time.perf_counter()
    life = live(done._words([*RUNS[name], *_COMMON, "-f", str(folder / "reference")]), folder)
    seconds, operations = time.perf_counter() - started, life.operations
    if life.code != 0:
        done.blame("nobody killed", life.said)
        return done
    (reference,) = (folder / "reference").glob("*/*_1")
    expected = facts(reference)
    points = _points(kills, every, operations, seconds, generator)
    for number, (where, first) in enumerate(points):
        if not every and done.kills >= kills:
            break
        logs = folder / str(number)
        logs.mkdir()
        later = iter([int(generator.integers(1, operations))] * (number % 2) + [0] * 30)
        run = done.train(logs, where, first, later)
        if run is not None:
            found = facts(run)
            differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            if differing:
                done.blame(where, f"{len(differing)} of {len(expected)} differ: {', '.join(differing[:5])}")
        shutil.rmtree(logs)
    return done


def _points(
    kills: int, every: bool, operations: int, seconds: float, generator: np.random.Generator
) -> list[tuple[str, dict[str, Any]]]:
    """Return where the first process of each trial is killed: spread over all operations, and at random moments."""
    if every:
        return [(f"operation {at} of {operations}", {"at": at}) for at in range(1, operations + 1)]
    at = [int(point) for point in np.linspace(1, operations, max(kills * 3 // 4, 1)).round()]
    points: list[tuple[str, dict[str, Any]]] = [(f"operation {n} of {operations}", {"at": n}) for n in at]
    moments = generator.uniform(0.0, seconds, max(kills - len(points), 1)).tolist()
    points += [(f"after {moment:.2f} s of {seconds:.2f}", {"seconds": moment}) for moment in moments]
    return [points[i] for i in generator.permutation(len(points))]


def replacing(kills: int, every: bool, folder: Path) -> Campaign:
    """Kill a checkpoint that takes another's place: afterwards either one is there, whole."""
    done = Campaign(REPLACE)
    small: dict[str, Any] = {
        "learning_starts": 8,
        "batch_size": 8,
        "buffer_size": 200,
        "policy_kwargs": {"net_arch": [8]},
    }
    agent = rlsd.SelfDistilled(SAC)("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", **small).learn(16)
    assert agent.log_ent_coef is not None
    rlsd.save_checkpoint(agent, folder / "before" / "64")
    old = agent.log_ent_coef.item()
    agent.learn(16, reset_num_timesteps=False)
    new = agent.log_ent_coef.item()

    def save() -> int:
        rlsd.save_checkpoint(agent, folder / "now" / "64")
        return 0

    def load() -> int:
        found = rlsd.resume(folder / "now").log_ent_coef.item()
        folders.clear_unfinished(folder / "now")  # as the next save does
        again = rlsd.resume(folder / "now" / "64").log_ent_coef.item()
        return 0 if found == again and found in (old, new) else 1

    shutil.copytree(folder / "before", folder / "now")
    operations = live(save, folder / "now").operations
    for at in range(1, operations + 1) if every else np.linspace(1, operations, kills).round().astype(int).tolist():
        shutil.rmtree(folder / "now")
        shutil.copytree(folder / "before", folder / "now")
        done.trials += 1
        done.kills += live(save, folder / "now", at).code == -signal.SIGKILL
        life = live(load, folder / "now")
        if life.code != 0:
            done.blame(f"operation {at} of {operations}", f"exit code {life.code}: {life.said[-2000:]}")
    return done


def main() -> int:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared among the runs")
    parser.add_argument("--runs", default=",".join([*RUNS, REPLACE]), help="which of them")
    parser.add_argument("--every", action="store_true", help="kill at every file operation instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(arguments.seed)
    names = arguments.runs.split(",")
    share = -(-arguments.kills // len(names))
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rlsd-chaos-") as folder:
        for name in names:
            started = time.perf_counter()
            place = Path(folder, name)
            if name == REPLACE:
                done = replacing(share, arguments.every, place)
            else:
                done = campaign(name, share, arguments.every, generator, place)
            wrong += done.wrong
            seconds = time.perf_counter() - started
            print(
                f"{name:<18} {done.kills:>4} kills in {done.trials} trainings, {len(done.wrong)} wrong, {seconds:.0f} s"
            )
    print("\n".join(wrong) if wrong else "Every end is that of the training that nobody killed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
