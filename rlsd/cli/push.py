"""``rlsd push``: a run's agent goes to the Hugging Face Hub, in the files that rl_zoo3 puts there."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from rlsd.cli.console import say
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.flags import MaybeText, read_flags
from rlsd.cli.hub import CARD, METRICS, STATISTICS, blame_hub, check_repo, connect
from rlsd.cli.runfolder import RunFolder


@dataclass(frozen=True)
class PushOptions:
    """Push the agent of a run to the Hugging Face Hub: rlsd push logs/ppo/CartPole-v1_1 --repo me/ppo-CartPole-v1

    The states that its distillation stored stay here, unless --states is given.
    """

    run: tyro.conf.Positional[Annotated[MaybeText, tyro.conf.arg(metavar="RUN")]] = None
    """Folder of the run, e.g. logs/ppo/CartPole-v1_1."""
    repo: Annotated[MaybeText, tyro.conf.arg(aliases=["-r"], metavar="OWNER/NAME")] = None
    """Repository on the Hub; made where it is missing."""
    load_best: bool = False
    """Push the agent that did best in an evaluation, not the final one."""
    states: bool = False
    """Push the stored states too: what the agent saw. Training goes on from them."""
    private: bool = False
    """Make a missing repository a private one."""
    message: Annotated[str, tyro.conf.arg(aliases=["-m"], metavar="TEXT")] = "Push an agent trained with rlsd"
    """Of the commit on the Hub."""
    dry_run: bool = False
    """Only say what would be pushed; needs neither network nor login."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Push, and return the exit code.

    :raises UserError: when the input is wrong, or the Hub refuses it.
    """
    options = read_flags(PushOptions(), "rlsd push", argv)
    if options.run is None:
        raise UserError("which run? Give its folder, e.g. rlsd push logs/ppo/CartPole-v1_1 --repo OWNER/NAME")
    if options.repo is None:
        raise UserError("where to? Give --repo OWNER/NAME, e.g. --repo me/ppo-CartPole-v1")
    repo = check_repo(options.repo)
    folder = RunFolder.find(options.run, Path("logs"), "ppo", None)
    api = None if options.dry_run else connect()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        left_out = gather(folder, place, repo, options)
        names = sorted(path.name for path in place.iterdir())
        for name in names:
            say(f"  {name:<24} {(place / name).stat().st_size:>12,} bytes")
        if left_out:
            say(f"  left out: {left_out:,} bytes of stored states (--states pushes them)")
        if api is None:
            say(f"Nothing was pushed to {repo}: --dry-run")
            return 0
        with blame_hub(repo):
            api.create_repo(repo, private=options.private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=str(place), commit_message=options.message)
    say(f"Pushed to https://huggingface.co/{repo}\nrlsd pull {repo} brings it back")
    return 0


def gather(folder: RunFolder, place: Path, repo: str, options: PushOptions) -> int:
    """Write the files of a run that are pushed into an empty folder, and return the bytes of states left out."""
    from rlsd.io.sharing import without_states

    source = folder.best_agent if options.load_best else folder.final_agent
    statistics = folder.best_statistics if options.load_best else folder.statistics
    if not source.is_file():
        raise UserError(f"the run {folder.root} has no {source.name}: it was stopped before it saved it")
    args = folder.read_yaml("args.yml")
    algo = str(args.get("algo") or folder.root.parent.name)
    target = place / f"{algo}-{folder.env_name}.zip"
    left_out = 0
    with blame_input(f"{source} is damaged"):
        if options.states:
            shutil.copyfile(source, target)
        else:
            left_out = without_states(source, target)
    if statistics.is_file():
        shutil.copyfile(statistics, place / STATISTICS)
    for name in ("args.yml", "config.yml", "distill.yml"):
        if (folder.params / name).is_file():
            shutil.copyfile(folder.params / name, place / name)
    (place / "env_kwargs.yml").write_text(yaml.safe_dump(args.get("env_kwargs") or {}), encoding="utf-8")
    results = folder.read_results()
    if results:
        shutil.copyfile(folder.results, place / "results.json")
    with zipfile.ZipFile(place / METRICS, "w", zipfile.ZIP_DEFLATED) as metrics:
        for file in (folder.monitor, folder.evaluations):
            if file.is_file():
                metrics.write(file, file.name)
    card = model_card(algo, str(args.get("env") or folder.env_name), repo, results)
    (place / CARD).write_text(card, encoding="utf-8")
    return left_out


def model_card(algo: str, env_id: str, repo: str, results: dict[str, Any]) -> str:
    """Return what the Hub shows of the agent: YAML that it sorts by, and how to use it."""
    about: dict[str, Any] = {
        "library_name": "stable-baselines3",
        "tags": [env_id, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "rlsd"],
    }
    said = ""
    if isinstance(results.get("mean_reward"), int | float):
        value = f"{results['mean_reward']:.2f} +/- {results.get('std_reward') or 0.0:.2f}"
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        metric = {"type": "mean_reward", "value": value, "name": "mean_reward", "verified": False}
        result = {"task": task, "dataset": {"name": env_id, "type": env_id}, "metrics": [metric]}
        about["model-index"] = [{"name": algo.upper(), "results": [result]}]
        said = f"\nReturn {value} over {results.get('n_eval_episodes')} episodes, deterministic.\n"
    owner, name = repo.split("/")
    where = f"--algo {algo} --env {env_id} -orga {owner} -name {name} -f logs"
    zoo = f"\nrl_zoo3 takes it too: `python -m rl_zoo3.load_from_hub {where}`\n"
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n# {algo.upper()} on {env_id}\n\n"
        f"An agent of Stable-Baselines3, trained with self-distillation by rlsd.\n{said}\n"
        f"    rlsd pull {repo}\n    rlsd enjoy --algo {algo} --env {env_id}\n{zoo}"
    )
