"""Where a run lies on disk: rl_zoo3's layout, ``LOGS/ALGO/ENV_NUMBER/``, so that its tools find what they look for."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlsd.cli.errors import UserError, one_line
from rlsd.cli.lock import locked
from rlsd.io import files
from rlsd.plain import read_json, read_yaml, shown


def file_name(env_id: str) -> str:
    """Return ``env_id`` as a file name, the way rl_zoo3 writes it: ``ALE/Pong-v5`` is ``ALE-Pong-v5``.

    What Windows takes in no name, such as the colon after a module, becomes a dash too.
    """
    return re.sub(r'[<>:"/\\|?*]', "-", env_id)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, and the names in it.

    :param root: ``LOGS/ALGO/ENV_NUMBER``.
    :param env_name: the environment's id as a file name.
    :param above: the folders above it that were made for it, the deepest first.
    """

    root: Path
    env_name: str
    above: tuple[Path, ...] = field(default=(), compare=False)

    @classmethod
    def create(cls, log_folder: Path, algo: str, env_id: str) -> RunFolder:
        """Make the folder of a new run, with the next free number.

        :raises UserError: when the folder cannot be written to.
        """
        name = file_name(env_id)
        parent = log_folder / algo
        above = tuple(place for place in (parent, *parent.parents) if not place.exists())
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 1 + max([0, *numbers(parent, name)])
            while True:
                try:
                    (parent / f"{name}_{number}").mkdir()
                    break
                except FileExistsError:  # another run took the number since we looked
                    number += 1
            folder = cls(parent / f"{name}_{number}", name, above)
            folder.params.mkdir()
        except OSError as error:
            raise _unwritable(log_folder, error) from error
        return folder

    @classmethod
    def find(cls, run: str, log_folder: Path, algo: str, env_id: str | None) -> RunFolder:
        """Find the folder of a run: a path, one below ``log_folder``, or with an env id its number.

        :raises UserError: when there is no such run, or it is none of ours.
        """
        places = [Path(run), log_folder / run]
        if env_id and run.isdigit():
            places.append(log_folder / algo / f"{file_name(env_id)}_{run}")
        root = next((place for place in places if place.is_dir()), None)
        if root is None:
            raise UserError(f"there is no run {shown(run)}: give its folder, e.g. logs/ppo/CartPole-v1_1")
        arguments = sorted(root.glob("*/args.yml"))
        if not arguments:
            example = "logs/ppo/CartPole-v1_1"
            raise UserError(f"{root} is not the folder of a run, such as {example}: it holds no ENV/args.yml")
        return cls(root, arguments[0].parent.name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder, and remove what killed ones left half written.

        :raises UserError: when another process trains in it.
        """
        with locked(self.root):
            for folder in (self.root, self.params):
                files.clear_unfinished(folder)
            yield

    @property
    def is_zoos(self) -> bool:
        """Whether rl_zoo3 made it: it writes its arguments as Python objects."""
        try:
            return (self.params / "args.yml").read_text(encoding="utf-8").startswith("!!python/object")
        except (OSError, UnicodeDecodeError):
            return False

    @property
    def params(self) -> Path:
        """Holds what the run was started with."""
        return self.root / self.env_name

    @property
    def final_agent(self) -> Path:
        """The agent as it is at the end."""
        return self.root / f"{self.env_name}.zip"

    @property
    def best_agent(self) -> Path:
        """The agent that did best in an evaluation during training."""
        return self.root / "best_model.zip"

    @property
    def average_agent(self) -> Path:
        """The average of the agent's weights at the end, as an agent."""
        return self.root / "average_model.zip"

    @property
    def statistics(self) -> Path:
        """``VecNormalize`` statistics of the final agent."""
        return self.params / "vecnormalize.pkl"

    @property
    def best_statistics(self) -> Path:
        """``VecNormalize`` statistics of the best agent."""
        return self.params / "best_vecnormalize.pkl"

    @property
    def evaluations(self) -> Path:
        """Returns and lengths of every evaluation episode."""
        return self.root / "evaluations.npz"

    @property
    def monitor(self) -> Path:
        """A line per training episode, as SB3's ``Monitor`` writes it; all copies of the environment in one file."""
        return self.root / "0.monitor.csv"

    @property
    def checkpoints(self) -> Path:
        """Exact checkpoints, to resume from."""
        return self.root / "checkpoints"

    @property
    def can_be_resumed(self) -> bool:
        """Whether there is a checkpoint, also one that a process was killed in replacing."""
        return any(self.checkpoints.glob("[0-9]*")) or any(self.checkpoints.glob(".[0-9]*/old"))

    @property
    def results(self) -> Path:
        """What the finished run reached."""
        return self.root / "results.json"

    def tensorboard(self, elsewhere: str | None) -> Path:
        """Return the folder for TensorBoard: the run's own, or its likeness below ``elsewhere``."""
        return Path(elsewhere) / self.root.parent.name / self.root.name if elsewhere else self.root / "tensorboard"

    def make_tensorboard(self, elsewhere: str | None) -> None:
        """Make the folder for TensorBoard.

        :raises UserError: when it cannot be made.
        """
        try:
            self.tensorboard(elsewhere).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where = elsewhere or str(self.root)
            raise UserError(
                f"cannot write to TensorBoard's folder {where!r}: {error.strerror}; choose another -tb"
            ) from error

    def write_yaml(self, name: str, data: Any) -> None:
        """Write ``data`` to ``ENV/name``, whole or not at all."""
        files.write_text(self.params / name, yaml.safe_dump(data, sort_keys=False))

    def read_yaml(self, name: str) -> dict[str, Any]:
        """Read ``ENV/name``.

        :raises UserError: when it is missing or damaged.
        """
        path = self.params / name
        try:
            data = read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
        if not isinstance(data, dict):
            raise UserError(f"{path} is damaged: it should hold a mapping, got {type(data).__name__}")
        return data

    def write_text(self, name: str, text: str) -> None:
        """Write ``text`` to ``ENV/name``."""
        files.write_text(self.params / name, text)

    def write_results(self, results: dict[str, Any]) -> None:
        """Write ``results.json``."""
        files.write_text(self.results, json.dumps(results, indent=2) + "\n")

    def read_results(self) -> dict[str, Any]:
        """Return what ``results.json`` holds, nothing when there is none."""
        try:
            return dict(read_json(self.results.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def discard(self) -> None:
        """Remove the folder of a run that never began, and the folders above it that were made for it, where empty."""
        shutil.rmtree(self.root, ignore_errors=True)
        for above in self.above:
            try:
                above.rmdir()
            except OSError:  # something else is in it
                return


def check_writable(log_folder: Path) -> None:
    """Raise a :class:`UserError` when no run could be written below ``log_folder``; nothing is made."""
    existing = next(place for place in (log_folder, *log_folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"cannot write to the log folder {str(log_folder)!r}: {existing} is a file; choose another -f")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the log folder {str(log_folder)!r}: no permission; choose another -f")


def _unwritable(log_folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to the log folder {str(log_folder)!r}: {error.strerror}; choose another with -f")


def numbers(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs of ``name`` that are there."""
    if not parent.is_dir():
        return []
    found = (re.fullmatch(rf"{re.escape(name)}_(\d+)", path.name) for path in parent.iterdir())
    return [int(match[1]) for match in found if match]
