"""What becomes of a run without room, rights, handles or listeners, and with signals at every stage.

    python scripts/experiments/hardships.py            # all of them, a few minutes; as root with full tmpfs, too
    python scripts/experiments/hardships.py signal     # those whose names hold a word

Prints a line for each: the exit code, how many lines were said about it and the last of them, whether processes are
left, and whether the run comes to its end when it is resumed without the hardship. Exits with 1 where one falls short.
"""

from __future__ import annotations

import importlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = 1024
WORDS = ["train", "--env", "CartPole-v1", "-n", str(STEPS), "--no-progress", "--eval-freq", "256", "--save-freq", "256"]
WORDS += ["--eval-episodes", "2", "--n-eval-envs", "2", "--device", "cpu", "--n-envs", "2"]
PARAMS = ["-params", "n_steps:64", "batch_size:64", "n_epochs:2", "learning_rate:0.001", "clip_range:0.2"]
WORKERS = ["--vec-env", "subproc"]


@contextmanager
def _folder() -> Iterator[tuple[Path, Callable[[], None]]]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), lambda: None


@dataclass(frozen=True)
class Case:
    """A hardship.

    :param prepare: brings it about, in the process that will train.
    :param stage: when: as the process begins, or in the midst of a stage of the run.
    :param codes: the exit codes that are right.
    :param words: more words for ``rlsd train``.
    :param place: a context manager that makes the folder for the run, and gives a function that ends the hardship.
    :param lines: as many may be said on stderr at most.
    """

    name: str
    prepare: Callable[[Path], None] = lambda folder: None
    codes: tuple[int, ...] = (1,)
    stage: str | None = None
    words: list[str] = field(default_factory=list)
    place: Callable[[], Any] = _folder
    lines: int = 1


@dataclass(frozen=True)
class Result:
    """What became of it."""

    name: str
    code: int
    said: list[str]
    left: int
    resumed: str
    fine: bool

    def __str__(self) -> str:
        last = self.said[-1] if self.said else ""
        mark = "ok  " if self.fine else "FAIL"
        return (
            f"{mark} {self.name:<44} {self.code:>4} {len(self.said):>3} {self.left:>3}  {self.resumed:<22} {last[:90]}"
        )


def tmpfs(kilobytes: int) -> Callable[[], Any]:
    """A file system of a size, which grows when the hardship ends."""

    @contextmanager
    def place() -> Iterator[tuple[Path, Callable[[], None]]]:
        with tempfile.TemporaryDirectory() as folder:
            _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder)
            try:
                yield Path(folder), lambda: _mount("-o", "remount,size=64m", folder)
            finally:
                subprocess.run(["umount", "-l", folder], check=True)

    return place


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def limited(which: int, limit: int) -> Callable[[Path], None]:
    """Allow the process no more of something."""
    return lambda folder: resource.setrlimit(which, (limit, limit))


def prepare_at(case: Case, folder: Path) -> None:
    """Bring a hardship about, now or when the run comes to its stage."""
    if case.stage is None:
        _mark(folder).touch()
        return case.prepare(folder)
    owner, name, when = _stages()[case.stage]
    plain, calls = getattr(owner, name), [0]

    def entered(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == when:
            _mark(folder).touch()
            case.prepare(folder)
        return plain(*args, **kwargs)

    setattr(owner, name, entered)


def _mark(folder: Path) -> Path:
    """Return a file that is there once the hardship has come."""
    return folder.with_name(f"{folder.name}.came")


def _stages() -> dict[str, tuple[Any, str, int]]:
    from stable_baselines3.common import callbacks
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    import rlsd.cli.agents
    from rlsd.cli.session import Session

    return {
        "start-up": (rlsd.cli.agents, "new_agent", 1),
        "rollout": (OnPolicyAlgorithm, "collect_rollouts", 4),
        "update": (BaseAlgorithm, "_update_learning_rate", 4),
        "save": (importlib.import_module("rlsd.io.resume"), "save_checkpoint", 2),
        "evaluation": (callbacks, "evaluate_policy", 2),
        "end": (Session, "_save", 1),
        "final evaluation": (Session, "score", 1),
    }


def send(number: int, to: str) -> Callable[[Path], None]:
    """Send a signal to the main process, to its group as ``timeout`` does, or to its workers."""

    def act(folder: Path) -> None:
        import multiprocessing

        me = os.getpid()
        if to == "workers":
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, number)
            return
        os.kill(me, number)
        if to == "group":
            os.killpg(0, number)

    return act


def stream(which: str, path: str | None, encoding: str = "utf-8") -> Callable[[Path], None]:
    """Lead stdout or stderr somewhere else; None closes it."""

    def prepare(folder: Path) -> None:
        handle = {"stdout": 1, "stderr": 2}[which]
        if path is None:
            os.close(handle)
            setattr(sys, which, None)
            return
        opened = os.open(str(folder / path), os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, handle)
        os.close(opened)
        setattr(sys, which, io.TextIOWrapper(io.FileIO(handle, "w", closefd=False), encoding))

    return prepare


def together(*preparations: Callable[[Path], None]) -> Callable[[Path], None]:
    """All of them."""

    def prepare(folder: Path) -> None:
        for one in preparations:
            one(folder)

    return prepare


def cases() -> list[Case]:
    """All hardships that this machine can have."""
    found = [
        Case(f"file size {size // 1000} kB", limited(resource.RLIMIT_FSIZE, size)) for size in (1_000, 20_000, 100_000)
    ]
    found += [
        Case(f"{count} file handles", limited(resource.RLIMIT_NOFILE, count), (0, 1, 2)) for count in (8, 12, 16, 24)
    ]
    found += [
        Case(f"folder deleted in {stage}", lambda folder: shutil.rmtree(folder / "logs"), (1,), stage, lines=2)
        for stage in ("rollout", "save", "evaluation")
    ]
    for which in ("stdout", "stderr"):
        found.append(Case(f"{which} full", stream(which, "/dev/full"), (0,)))
        found.append(Case(f"{which} closed", stream(which, None), (0,)))
        found.append(Case(f"{which} in ASCII", stream(which, which, "ascii"), (0,)))
    found.append(Case("both closed", together(stream("stdout", None), stream("stderr", None)), (0,)))
    for stage in ("start-up", "rollout", "update", "save", "evaluation", "end", "final evaluation"):
        found += [
            Case(f"{signal.Signals(number).name} to {to} in {stage}", send(number, to), codes, stage, WORKERS, lines=3)
            for number, to, codes in (
                (signal.SIGINT, "main", (130,)),
                (signal.SIGTERM, "group", (130,)),
                (signal.SIGHUP, "group", (130,)),
                (signal.SIGTERM, "workers", (0,)),
                (signal.SIGKILL, "main", (-9,)),
            )
        ]
    if os.geteuid() == 0 and shutil.which("mount"):
        sizes = (32, 64, 128, 192, 256, 320, 384, 512, 640, 800)
        found += [Case(f"tmpfs of {size} kB", codes=(0, 1, 2), place=tmpfs(size)) for size in sizes]
        found.append(
            Case("TensorBoard's disk full", codes=(0,), lines=2, words=["-tb", "{place}/tb"], place=small_tensorboard)
        )
        found.append(Case("checkpoints read-only", read_only, (1,), "update"))
    return found


@contextmanager
def small_tensorboard() -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder whose ``tb`` is a file system with room for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tb").mkdir()
        _mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", f"{folder}/tb")
        try:
            yield Path(folder), lambda: None
        finally:
            subprocess.run(["umount", "-l", f"{folder}/tb"], check=True)


def read_only(folder: Path) -> None:
    """Remount the folder of the checkpoints without the right to write."""
    (checkpoints,) = folder.glob("logs/*/*/checkpoints")
    _mount("--bind", str(checkpoints), str(checkpoints))
    _mount("-o", "remount,bind,ro", str(checkpoints))


def run(case: Case) -> Result:
    """Train in the hardship, and then go on without it."""
    with case.place() as (folder, relieve), tempfile.TemporaryDirectory() as said:
        more = [word.replace("{place}", str(folder)) for word in case.words]
        words = [*WORDS, "-f", str(folder / "logs"), *more, *PARAMS]
        code, err, group = _train(words, lambda folder: prepare_at(case, folder), folder, Path(said))
        for mounted in folder.glob("logs/*/*/checkpoints"):
            subprocess.run(["umount", str(mounted)], check=False, stderr=subprocess.DEVNULL)
        came = _mark(folder).exists()
        _mark(folder).unlink(missing_ok=True)
        left = _left(group)
        relieve()
        resumed, whole = _resume(folder, Path(said))
        fine = came and code in case.codes and len(err) <= case.lines and not left and whole
        return Result(case.name, code, err, left, resumed, fine)


def _resume(folder: Path, said: Path) -> tuple[str, bool]:
    runs = [path.parent.parent for path in folder.glob("logs/*/*/*/args.yml")]
    if not runs:
        return "no run", True
    saved = any(runs[0].glob("checkpoints/[0-9]*"))
    code, err, _ = _train(["train", "--resume", str(runs[0])], lambda _: None, folder, said)
    if not saved:
        return "no checkpoint, said so", code == 2 and "no checkpoint" in err[-1]
    return ("to its end" if code == 0 else f"exit code {code}: {err[-1:]}"), code == 0


def _train(words: list[str], prepare: Callable[[Path], None], folder: Path, said: Path) -> tuple[int, list[str], int]:
    """Run ``rlsd`` in a forked process that has imported all, and return exit code, lines on stderr and its session."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            for name in ("stdout", "stderr"):
                stream(name, str(said / name))(folder)
            prepare(folder)
            from rlsd.cli.main import main, run_program

            code = run_program(lambda: main(words))
            sys.stdout.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = (said / "stderr").read_text(errors="replace") if (said / "stderr").exists() else ""
    (said / "stderr").unlink(missing_ok=True)
    return code, text.splitlines(), child


def _left(session: int, patience: float = 15.0) -> int:
    """Return how many processes of a session are there still, after a while."""
    deadline = time.monotonic() + patience
    while (count := _living(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return count


def _living(session: int) -> int:
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        count += fields[3] == str(session) and fields[0] not in "ZX"
    return count


def warm_up() -> None:
    """Import all that a run imports, once; and let workers be forked from here, which starts them at once."""
    import rlsd_envs.workers

    rlsd_envs.workers.WorkerVecEnv.__init__.__defaults__ = ("fork", 600.0)


def main() -> int:
    """Run those asked for."""
    warm_up()
    print(f"     {'hardship':<36} code  said left resumed                last line on stderr", flush=True)
    fine = True
    for case in cases():
        if all(word in case.name for word in sys.argv[1:]):
            result = run(case)
            fine &= result.fine
            print(result, flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
