"""``rlsd evaluate``: how good a saved agent is, with an interval, and whether it is better than another one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from rlsd.cli.console import say
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags
from rlsd.cli.saved import AgentOptions, SavedAgent, find_agent
from rlsd.cli.statistics import bootstrap_interval, mean_of_one, mean_probability_of_improvement
from rlsd.cli.tables import check_file, table, write_json


@dataclass(frozen=True)
class EvaluateOptions(AgentOptions):
    """Measure a saved agent: rlsd evaluate logs/ppo/CartPole-v1_1 --eval-episodes 100 --baseline other.zip"""

    eval_episodes: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 100
    """Episodes."""
    n_envs: Count = 5
    """Copies of the environment."""
    seed: Count = 0
    """Of the environments; the baseline meets the same ones."""
    stochastic: bool = False
    """Draw actions as in training, instead of the most likely ones."""
    baseline: Annotated[MaybeText, tyro.conf.arg(metavar="RUN|ZIP")] = None
    """Another agent, of the same environment, to be compared with."""
    results: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """JSON with every episode's return and length."""
    num_threads: MaybeCount = 1
    """Threads for torch."""


def run(argv: Sequence[str]) -> int:
    """Evaluate, and return the exit code.

    :raises UserError: when the input is wrong.
    """
    options = read_flags(EvaluateOptions(), "rlsd evaluate", argv)
    check_lowest(options, {"eval_episodes": 1, "n_envs": 1, "seed": 0, "num_threads": 1})
    check_file("--results", options.results)
    agents = {"agent": find_agent(options)}
    if options.baseline is not None:
        other = find_agent(replace(options, agent=options.baseline, env=None, env_kwargs=()))
        ours = agents["agent"]
        agents["baseline"] = replace(other, env_id=ours.env_id, env_kwargs=ours.env_kwargs, vec_env=ours.vec_env)
    found = {name: _measured(agent, options) for name, agent in agents.items()}
    how = "actions drawn" if options.stochastic else "deterministic"
    say(f"{agents['agent'].env_id}, {options.eval_episodes} episodes, {how}, seed {options.seed}")
    rows = [_row(name, measure, found[name][measure]) for measure in ("return", "length") for name in found]
    say(table(("", *_HEAD), rows))
    better = _improvement(found)
    if better is not None:
        low, high = better["interval"]
        say(f"P(better than the baseline) {better['probability']:.2f}, 95 % [{low:.2f}, {high:.2f}]")
    if options.results:
        command = shlex.join(["rlsd", "evaluate", *argv])
        files = {name: str(agent.file) for name, agent in agents.items()}
        data: dict[str, Any] = {"command": command, "files": files, "episodes": found, "improvement": better}
        write_json(Path(options.results), data)
    return 0


_HEAD = ("mean", "95 %", "std", "lowest", "highest")


def _measured(agent: SavedAgent, options: EvaluateOptions) -> dict[str, list[float]]:
    import torch

    from rlsd.cli.evaluation import play

    torch.set_num_threads(options.num_threads or torch.get_num_threads())
    torch.manual_seed(options.seed)
    env = agent.make_env(min(options.n_envs, options.eval_episodes), options.seed)
    try:
        policy = agent.policy(env, options.device, options.trust)
        returns, lengths = play(policy, env, options.eval_episodes, not options.stochastic)
    finally:
        env.close()
    return {"return": [float(value) for value in returns], "length": [int(value) for value in lengths]}


def _row(name: str, measure: str, values: Sequence[float]) -> list[str]:
    low, high = bootstrap_interval(mean_of_one, [values])
    cells = f"{np.mean(values):.2f}", f"[{low:.2f}, {high:.2f}]", f"{np.std(values):.2f}"
    return [f"{measure} {name}", *cells, f"{min(values):.2f}", f"{max(values):.2f}"]


def _improvement(found: dict[str, dict[str, list[float]]]) -> dict[str, Any] | None:
    """Return how likely an episode of the agent earns more than one of the baseline; None without a baseline."""
    if "baseline" not in found:
        return None
    samples = [found["agent"]["return"], found["baseline"]["return"]]
    return {
        "probability": float(mean_probability_of_improvement(samples)),
        "interval": bootstrap_interval(mean_probability_of_improvement, samples, resamples=2000),
    }
