"""``rlsd enjoy``: a saved agent plays, in a window or into a film."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
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

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv

FORMATS = (".mp4", ".gif")


@dataclass(frozen=True)
class EnjoyOptions(AgentOptions):
    """Watch a saved agent: rlsd enjoy logs/ppo/CartPole-v1_1, or with --record film.mp4 where there is no display"""

    n_timesteps: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 1000
    """Environment steps to play."""
    record: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Write a film, .mp4 or .gif, instead of opening a window."""
    no_render: bool = False
    """Neither window nor film, only the returns."""
    stochastic: bool = False
    """Draw actions as in training, instead of the most likely ones."""
    deterministic: bool = False
    """Take the most likely actions, which is the default."""
    seed: Count = 0
    """Of the environment."""


def run(argv: Sequence[str]) -> int:
    """Play, and return the exit code.

    :raises UserError: when the input is wrong, or there is no display and none to be done without.
    """
    options = read_flags(EnjoyOptions(), "rlsd enjoy", argv)
    check_lowest(options, {"n_timesteps": 1, "seed": 0})
    _check_output(options)
    agent = find_agent(options)
    mode = "human" if options.record is None and not options.no_render else "rgb_array"
    vec_env = None if agent.vec_env == "ale" else "dummy"
    env = agent.make_env(1, options.seed, vec_env, **({"render_mode": mode} if mode == "human" else {}))
    try:
        policy = agent.policy(env, options.device, options.trust)
        say(f"{agent.file} in {agent.env_id}")
        if options.record is None:
            for _ in _play(policy, env, options):
                pass
        else:
            _record(policy, env, options, agent)
    finally:
        env.close()
    return 0


def _check_output(options: EnjoyOptions) -> None:
    if options.stochastic and options.deterministic:
        raise UserError("--stochastic and --deterministic exclude each other: give one")
    if options.record is not None:
        if options.no_render:
            raise UserError("--record and --no-render exclude each other: give one")
        if Path(options.record).suffix not in FORMATS:
            raise UserError(f"--record {options.record} must end with {' or '.join(FORMATS)}")
        check_file("--record", options.record)
        need("video", "--record")
        if not _has_display():
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without one, and complains unless told
    elif not options.no_render and not _has_display():
        raise UserError("there is no display here to open a window on: --record film.mp4 makes a film instead")


def _has_display() -> bool:
    """Tell whether a window can be opened, as far as the system says so beforehand."""
    return not sys.platform.startswith("linux") or any(os.environ.get(x) for x in ("DISPLAY", "WAYLAND_DISPLAY"))


def _play(policy: BasePolicy, env: VecEnv, options: EnjoyOptions) -> Iterator[None]:
    """Play step by step, saying each episode's return, and stop for a look before every step."""
    import torch

    from rlsd.cli.masks import masked_prediction
    from rlsd.speed.standing_in import standing_in

    torch.manual_seed(options.seed)
    returns: list[float] = []
    state: Any = None
    with standing_in(policy, masked_prediction(policy, env)):
        observations: Any = env.reset()
        start = np.ones(1, dtype=bool)
        for _ in range(options.n_timesteps):
            yield
            actions, state = policy.predict(observations, state, start, not options.stochastic)
            observations, _rewards, start, infos = env.step(actions)
            if "episode" in infos[0]:
                returns.append(float(infos[0]["episode"]["r"]))
                say(f"  episode {len(returns)}: return {returns[-1]:.2f}, {infos[0]['episode']['l']:,} steps")
    if returns:
        say(f"Mean return {np.mean(returns):.2f} over {len(returns)} episodes")
    else:
        say(f"No episode ended within {options.n_timesteps:,} steps")


def _record(policy: BasePolicy, env: VecEnv, options: EnjoyOptions, agent: SavedAgent) -> None:
    import imageio.v2 as imageio

    from rlsd.io import files

    target = Path(str(options.record))
    if env.render_mode != "rgb_array":
        raise UserError(f"{agent.env_id} cannot draw itself: it has no render mode rgb_array")
    metadata: dict[str, Any] = env.unwrapped.metadata
    rate = float(metadata.get("render_fps") or 30)
    target.parent.mkdir(parents=True, exist_ok=True)
    gif = target.suffix == ".gif"
    settings: dict[str, Any] = {"duration": 1000 / rate, "loop": 0} if gif else {"fps": rate, "macro_block_size": 1}
    with files.replacing(target, target.suffix) as unfinished:
        # Where imageio is installed its types are known, and are those of a class above the writer's.
        writer: Any = imageio.get_writer(unfinished, format="GIF" if gif else "FFMPEG", **settings)
        with writer as film:
            for _ in _play(policy, env, options):
                with blame_input(f"{agent.env_id} cannot draw itself"):
                    picture = env.render()
                assert picture is not None
                # H.264 halves the colours' resolution, and takes no odd widths.
                film.append_data(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
    say(f"Film {target}, {rate:g} pictures a second")
