"""``rlsd pull``: an agent of the Hugging Face Hub, pushed by rlsd or rl_zoo3, becomes the folder of a run."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlsd.cli.console import say
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.flags import MaybeText, read_flags
from rlsd.cli.hub import METRICS, STATISTICS, blame_hub, check_repo, connect
from rlsd.cli.plan import ALGORITHMS
from rlsd.cli.runfolder import RunFolder, check_writable
from rlsd.io import files

#: What is fetched: nothing else of a repository is touched.
FETCHED = ("*-*.zip", "args.yml", "config.yml", "distill.yml", "env_kwargs.yml", "results.json", STATISTICS, METRICS)
#: The files that METRICS may bring, and their bytes at most.
_CURVES, _LARGEST = (".monitor.csv", "evaluations.npz"), 10**9


@dataclass(frozen=True)
class PullOptions:
    """Fetch an agent from the Hugging Face Hub into a run folder: rlsd pull me/ppo-CartPole-v1"""

    repo: tyro.conf.Positional[Annotated[MaybeText, tyro.conf.arg(metavar="OWNER/NAME")]] = None
    """Repository on the Hub, pushed by rlsd or rl_zoo3, e.g. sb3/ppo-CartPole-v1."""
    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs"
    """The run goes to FOLDER/ALGO/ENV_NUMBER/."""
    revision: MaybeText = None
    """Branch, tag or commit. None: the latest."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Fetch, and return the exit code.

    :raises UserError: when the input is wrong, or the Hub has no such agent.
    """
    options = read_flags(PullOptions(), "rlsd pull", argv)
    if options.repo is None:
        raise UserError("which agent? Give its name on the Hub, e.g. rlsd pull sb3/ppo-CartPole-v1")
    repo = check_repo(options.repo)
    check_writable(Path(options.log_folder))
    api = connect()
    with tempfile.TemporaryDirectory() as scratch:
        with blame_hub(repo):
            kinds = list(FETCHED)
            api.snapshot_download(repo, local_dir=scratch, allow_patterns=kinds, revision=options.revision)
        folder = unpack(Path(scratch), repo, Path(options.log_folder))
    say(f"Run {folder.root}\nrlsd enjoy {folder.root}")
    return 0


def unpack(place: Path, repo: str, log_folder: Path) -> RunFolder:
    """Lay the files of a repository out as a run.

    :raises UserError: when there is no agent among them.
    """
    zips = [path for path in sorted(place.glob("*-*.zip")) if path.stem.partition("-")[0] in ALGORITHMS]
    if len(zips) != 1:
        found = ", ".join(path.name for path in place.glob("*.zip")) or "no zip"
        raise UserError(f"{repo} on the Hub holds no agent ALGO-ENV.zip: {found}")
    algo, _, env_name = zips[0].stem.partition("-")
    folder = RunFolder.create(log_folder, algo, env_name)
    try:
        shutil.copyfile(zips[0], folder.final_agent)
        for name in ("args.yml", "config.yml", "distill.yml", "env_kwargs.yml"):
            if (place / name).is_file():
                shutil.copyfile(place / name, folder.params / name)
        if not (folder.params / "args.yml").is_file():
            folder.write_yaml("args.yml", {"algo": algo, "env": env_name})
        for source, target in ((STATISTICS, folder.statistics), ("results.json", folder.results)):
            if (place / source).is_file():
                shutil.copyfile(place / source, target)
        if (place / METRICS).is_file():
            with blame_input(f"{METRICS} of {repo} is damaged"):
                _unpack_curves(place / METRICS, folder.root)
    except BaseException:
        folder.discard()
        raise
    return folder


def _unpack_curves(source: Path, root: Path) -> None:
    """Unpack the curves of a run, by their plain names: a zip may name a file anywhere."""
    with zipfile.ZipFile(source) as metrics:
        for entry in metrics.infolist():
            name = Path(entry.filename).name
            if entry.filename == name and name.endswith(_CURVES):
                if entry.file_size > _LARGEST:
                    raise ValueError(f"{name} is larger than {_LARGEST:,} bytes")
                with files.replacing(root / name) as unfinished, unfinished.open("wb") as file:
                    file.write(metrics.read(entry))
