"""``rlsd export``: a saved agent for programs that know no SB3: ONNX of what it does, or safetensors of its weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from rlsd.cli.console import say
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.extras import need
from rlsd.cli.flags import Count, MaybeText, check_lowest, read_flags
from rlsd.cli.saved import AgentOptions, SavedAgent, find_agent
from rlsd.cli.tables import check_file
from rlsd.version import __version__

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv

    from rlsd.cli.acting_graph import ActingGraph

FORMATS = (".onnx", ".safetensors")
#: How far continuous actions may be apart, in units of the action space's width: ONNX Runtime adds in another order.
_TOLERANCE = 1e-5
#: The share of discrete actions that may be others: rounding decides where two are as likely to the last digits.
_TIES = 0.002
_ENVS = 4


@dataclass(frozen=True)
class ExportOptions(AgentOptions):
    """Write a saved agent for programs without SB3: rlsd export logs/ppo/CartPole-v1_1 -o agent.onnx

    The ONNX takes raw observations and gives the most likely actions, as predict does.
    """

    output: Annotated[MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """.onnx, or .safetensors for the weights alone. Auto: beside the zip, with its name."""
    check: Count = 1000
    """Observations, met in the environment, on which ONNX Runtime must act as predict does."""
    seed: Count = 0
    """Of the environment in which they are met."""


def run(argv: Sequence[str]) -> int:
    """Export, and return the exit code.

    :raises UserError: when the input is wrong, or this agent cannot be exported so.
    """
    options = read_flags(ExportOptions(), "rlsd export", argv)
    check_lowest(options, {"check": 1, "seed": 0})
    agent = find_agent(options)
    target = Path(options.output) if options.output else agent.file.with_suffix(".onnx")
    if target.suffix not in FORMATS:
        raise UserError(f"--output {target} must end with {' or '.join(FORMATS)}")
    check_file("--output", str(target))
    if target.suffix == ".onnx":
        need("export", "ONNX")
    env = agent.make_env(_ENVS, options.seed, None if agent.vec_env in ("ale", "envpool") else "dummy")
    try:
        policy = agent.policy(env, "cpu", options.trust)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".onnx":
            said = _export(agent, policy, env, target, options)
        else:
            said = _save_weights(agent, policy, env, target)
    finally:
        env.close()
    say(f"{agent.file} ({agent.env_id})\n{said}")
    return 0


def _export(agent: SavedAgent, policy: BasePolicy, env: VecEnv, target: Path, options: ExportOptions) -> str:
    from rlsd.cli.acting_graph import ActingGraph
    from rlsd.io import files

    graph = ActingGraph(policy, env).eval()
    given, expected = _met(policy, env, graph, options)
    with files.replacing(target) as unfinished:
        with blame_input(f"{agent.file} cannot be exported"):
            _write_onnx(graph, given, unfinished, agent)
        apart = _difference(unfinished, graph, given, expected)
    inputs = ", ".join(f"{name} {_described(value)}" for name, value in given.items())
    same = "the same actions"
    if apart:
        rounded = f"at most {apart:.1e} of the space's width apart"
        same += f" but for {apart:g}" if np.issubdtype(expected.dtype, np.integer) else f", {rounded}"
    return (
        f"{target}: from {inputs} to action {_described(expected)}\nchecked on {len(expected):,} observations: {same}"
    )


def _met(
    policy: BasePolicy, env: VecEnv, graph: ActingGraph, options: ExportOptions
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return raw observations that the agent meets, by input, and what it does there."""
    import torch
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from rlsd.cli.acting_graph import MASKS, OBSERVATION

    torch.manual_seed(options.seed)
    normalizer, world = unwrap_vec_normalize(env), env.unwrapped
    rows: dict[str, list[np.ndarray]] = {name: [] for name in graph.inputs}
    actions: list[np.ndarray] = []
    raw: Any = world.reset()
    for _ in range(-(-options.check // world.num_envs)):
        seen = raw if normalizer is None else normalizer.normalize_obs(raw)
        told: dict[str, Any] = {MASKS: np.stack(world.env_method(MASKS))} if graph.masked else {}
        for name, value in {**(raw if isinstance(raw, dict) else {OBSERVATION: raw}), **told}.items():
            rows[name].append(np.array(value))
        actions.append(policy.predict(seen, deterministic=True, **told)[0])
        raw = world.step(policy.predict(seen, deterministic=False, **told)[0])[0]
    count = options.check
    return {name: np.concatenate(parts)[:count] for name, parts in rows.items()}, np.concatenate(actions)[:count]


def _write_onnx(graph: ActingGraph, given: dict[str, np.ndarray], file: Path, agent: SavedAgent) -> None:
    import onnx
    import torch

    example = tuple(torch.as_tensor(value[:2]) for value in given.values())
    batch = torch.export.Dim("batch")
    settings: dict[str, Any] = {"input_names": list(given), "output_names": ["action"], "verbose": False}
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            shapes = (tuple({0: batch} for _ in example),)
            program = torch.onnx.export(graph, example, dynamic_shapes=shapes, **settings)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    model = program.model_proto
    about = {"environment": str(agent.env_id), "policy": type(graph.policy).__name__, "made by": f"rlsd {__version__}"}
    onnx.helper.set_model_props(model, about)
    onnx.save(model, file)


def _difference(file: Path, graph: ActingGraph, given: dict[str, np.ndarray], expected: np.ndarray) -> float:
    """Return how far ONNX Runtime's actions are from the agent's: how many differ, or by how many widths of a Box.

    :raises UserError: when they are others.
    """
    import onnxruntime
    from gymnasium import spaces

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    (actions,) = session.run(None, given)
    space = graph.policy.action_space
    if actions.shape != expected.shape:
        raise UserError(f"not exported: ONNX gives actions {actions.shape}, predict {expected.shape}")
    if not isinstance(space, spaces.Box):
        others = int((actions != expected).reshape(len(actions), -1).any(axis=1).sum())
        if others > _TIES * len(actions):
            raise UserError(
                f"not exported: ONNX acts otherwise than predict on {others} of {len(actions)} observations"
            )
        return float(others)
    width = np.where(np.isfinite(space.high - space.low), space.high - space.low, 1.0)
    apart = float(np.max(np.abs(actions - expected) / width))
    if not apart <= _TOLERANCE:
        raise UserError(f"not exported: ONNX acts otherwise than predict, by {apart:.1e} of the action space's width")
    return apart


def _save_weights(agent: SavedAgent, policy: BasePolicy, env: VecEnv, target: Path) -> str:
    import safetensors.torch
    import torch
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from rlsd.cli.acting_graph import OBSERVATION
    from rlsd.io import files

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in policy.state_dict().items()}
    normalizer = unwrap_vec_normalize(env)
    if normalizer is not None and normalizer.norm_obs:
        found = normalizer.obs_rms
        for key, moments in (found if isinstance(found, dict) else {OBSERVATION: found}).items():
            for part in ("mean", "var"):
                tensors[f"vecnormalize/{key}/{part}"] = torch.as_tensor(getattr(moments, part))
    about = {"environment": str(agent.env_id), "policy": type(policy).__name__, "made by": f"rlsd {__version__}"}
    with files.replacing(target) as unfinished:
        safetensors.torch.save_file(tensors, unfinished, about)
    return f"{target}: {len(tensors)} tensors"


def _described(value: np.ndarray) -> str:
    return f"({', '.join(['batch', *map(str, value.shape[1:])])}) {value.dtype}"
