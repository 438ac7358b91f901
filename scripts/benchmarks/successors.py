"""``scripts/benchmark.py successors``: what agents that were made from a trained one keep of its return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from benchmarks.report import begin, finish, one_thread
from rlsd.cli.console import say
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.flags import Count, MaybeText, check_lowest, read_flags
from rlsd.cli.options import TrainOptions
from rlsd.cli.tables import check_file, table
from rlsd.cli.variants import parse_seeds

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from rlsd.cli.plan import Plan

#: Copies of the environment that are evaluated in.
_ENVS = 10


@dataclass(frozen=True)
class SuccessorsOptions:
    """Compress a trained agent, and let it be reborn, and evaluate what comes of it in the same episodes.

    For rebirths the agent must have been distilled, for the states that are stored with it.
    """

    env: Annotated[str, tyro.conf.arg(metavar="ID")] = "CartPole-v1"
    """Gymnasium id of the environment that the agent was trained in."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm of the agent, as in rlsd train."""
    trained_agent: Annotated[MaybeText, tyro.conf.arg(aliases=["-i"], metavar="ZIP")] = None
    """The agent."""
    net_arch: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N,N ...")] = ("16,16", "8,8")
    """Hidden layers of the smaller agents, one agent for each word: 16,16 is two layers of 16."""
    kinds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND ...")] = (
        "fresh",
        "last_layers",
        "shrink_and_perturb",
    )
    """What reborn students begin with, as in timing.kind."""
    seeds: str = "0-2"
    """Seeds of the students, as 0-2 or 0,3."""
    eval_episodes: Count = 100
    """Episodes of each evaluation, with the most likely actions."""
    json: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Write all figures to this file."""
    debug: bool = False
    """Show the traceback of an error."""


class Successor(NamedTuple):
    """An agent and how it did.

    :param name: how it was made.
    :param seed: of its making; None for the teacher.
    :param parameters: of its policy, the critic included.
    :param took_over: whether a student was let take its teacher's place; None where it is not asked.
    :param mean: of its returns.
    :param std: of its returns.
    """

    name: str
    seed: int | None
    parameters: int
    took_over: bool | None
    mean: float
    std: float


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been made then.
    """
    options = read_flags(SuccessorsOptions(), "python scripts/benchmark.py successors", argv)
    check_lowest(options, {"eval_episodes": 1})
    check_file("--json", options.json)
    seeds, sizes = parse_seeds(options.seeds), [_layers(text) for text in options.net_arch]
    if options.trained_agent is None:
        raise UserError("--trained-agent ZIP is missing: the agent whose successors are measured")
    from rlsd.cli.plan import plan_new

    plan = plan_new(TrainOptions(env=options.env, algo=options.algo, trained_agent=options.trained_agent))
    found: list[Successor] = []
    say(f"Successors of {options.trained_agent}: {plan.algorithm.__name__} on {plan.env_id}, seeds {options.seeds}")
    with one_thread():
        started = begin("successors", argv)
        nursery = SuccessorFactory(plan, options.trained_agent, options.eval_episodes)
        try:
            nursery.check(options.kinds)
            for one in nursery.all(sizes, options.kinds, seeds):
                found.append(one)
                say(f"  {_line(one, found[0])}")
        finally:
            nursery.close()
    say(f"\n{_table(found)}")
    finish({**started, "settings": asdict(options), "agents": [_plain(one, found[0]) for one in found]}, options.json)
    return 0


class SuccessorFactory:
    """Makes successors, and evaluates each in the same episodes.

    :param plan: what the agent was trained in.
    :param path: the agent's zip.
    :param episodes: of an evaluation.
    """

    def __init__(self, plan: Plan, path: str, episodes: int) -> None:
        from rlsd.cli.environments import load_statistics, training_env

        self._plan, self._path, self._episodes = plan, path, episodes
        self._env = training_env(plan)
        load_statistics(Path(path).with_suffix("") / "vecnormalize.pkl", self._env)

    def close(self) -> None:
        """Close the environment that the agents are in."""
        self._env.close()

    def check(self, kinds: Sequence[str]) -> None:
        """Raise when there are no such rebirths, or the agent has no states for one.

        :raises UserError: then.
        """
        import rlsd

        for kind in kinds:
            with blame_input("--kinds"):
                rlsd.Reborn(kind=kind)
        distiller = getattr(self._agent(), "distiller", None)
        if kinds and (distiller is None or not distiller.states.at_hand):
            raise UserError(
                f"{self._path} has no stored states that a reborn student could learn on: train it with a recipe that "
                "stores some, such as --recipe snapshot, or give --kinds without a word"
            )

    def all(self, sizes: Sequence[list[int]], kinds: Sequence[str], seeds: Sequence[int]) -> Iterator[Successor]:
        """Yield the teacher, then what is made of it."""
        import rlsd
        from rlsd.students.rebirth import PolicyReset

        yield self._judged("teacher", None, self._agent(), None)
        for size in sizes:
            name = f"compressed to {','.join(map(str, size))}"
            for seed in seeds:
                small = rlsd.compress(self._agent(), {"net_arch": size}, seed=seed)
                yield self._judged(name, seed, small, None)
        for kind in kinds:
            for seed in seeds:
                agent: Any = self._agent()
                agent.seed = seed  # decides a student's weights and minibatches
                took_over = PolicyReset(rlsd.Reborn(kind=kind), agent.distiller, agent).rebirth(agent)
                yield self._judged(f"reborn, {kind}", seed, agent, took_over)

    def _agent(self) -> BaseAlgorithm:
        from rlsd import SelfDistilled

        with blame_input(f"--trained-agent {self._path}"):
            agent: BaseAlgorithm = SelfDistilled(self._plan.algorithm).load(
                self._path, env=self._env, device=self._plan.device
            )
        return agent

    def _judged(self, name: str, seed: int | None, agent: BaseAlgorithm, took_over: bool | None) -> Successor:
        from rlsd.cli.environments import FINAL_EVALUATION_SEED
        from rlsd.cli.evaluation import evaluate

        env = self._evaluation_env(FINAL_EVALUATION_SEED)
        try:
            score = evaluate(agent, env, self._episodes)
        finally:
            env.close()
        parameters = sum(p.numel() for p in agent.policy.parameters())
        return Successor(name, seed, parameters, took_over, score.mean, score.std)

    def _evaluation_env(self, seed: int) -> VecEnv:
        from dataclasses import replace

        from rlsd.cli.environments import evaluation_env

        options = replace(self._plan.options, n_eval_envs=min(_ENVS, self._episodes))
        return evaluation_env(replace(self._plan, options=options), seed, self._env)


def _layers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--net-arch takes the sizes of hidden layers, as 16,16, got {text!r}")
    return [int(part) for part in parts]


def _kept(one: Successor, teacher: Successor) -> float | None:
    """Return the share of the teacher's return, None where that is not above 0 and a share would say nothing."""
    return one.mean / teacher.mean if teacher.mean > 0 else None


def _line(one: Successor, teacher: Successor) -> str:
    seed = "" if one.seed is None else f" seed {one.seed}"
    refused = "; REFUSED, the agent stayed" if one.took_over is False else ""
    return f"{one.name}{seed}: {one.mean:.1f} ± {one.std:.1f}{_percent(_kept(one, teacher))}{refused}"


def _percent(share: float | None) -> str:
    return "" if share is None else f", {share:.0%}"


def _table(found: Sequence[Successor]) -> str:
    head = ("agent", "seed", "parameters", "of teacher's", "took over", "return", "std", "of teacher's")
    teacher, rows = found[0], []
    for one in found:
        share = _kept(one, teacher)
        rows.append(
            [
                one.name,
                "-" if one.seed is None else str(one.seed),
                f"{one.parameters:,}",
                f"{one.parameters / teacher.parameters:.1%}",
                {True: "yes", False: "no", None: "-"}[one.took_over],
                f"{one.mean:.1f}",
                f"{one.std:.1f}",
                "-" if share is None else f"{share:.1%}",
            ]
        )
    return table(head, rows)


def _plain(one: Successor, teacher: Successor) -> dict[str, Any]:
    return {**one._asdict(), "kept": _kept(one, teacher), "size": one.parameters / teacher.parameters}
