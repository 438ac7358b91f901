"""What rlsd is timed against: each peer says before anything is timed whether it can do the work, then does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.children import plain_task, rlsd_task, run_plain, run_rlsd
from benchmarks.learning import learning, work_of
from benchmarks.pairs import Side, Timing, Work
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.provenance import provenance

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from benchmarks.single_file import Settings
    from rlsd.cli.plan import Plan

#: What sbx is timed on.
SBX_ALGORITHMS = ("ppo", "sac")
#: Hyperparameters that the single file has, or that change nothing at their default.
_SINGLE_FILE = ("policy", "n_envs", "n_timesteps", "policy_kwargs", "learning_rate", "clip_range", "normalize")


class Peer:
    """One peer.

    :param plan: what is trained; made for rlsd, and asked of the peer too.
    :raises UserError: when the peer cannot do that.
    """

    #: Whether each run is a process of its own, of rlsd too: then no warm-up is run.
    fresh = False

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def rlsd(self, steps: int) -> Side:
        """Return rlsd's side."""
        return Side("rlsd", learning(self.plan, steps))

    def side(self, steps: int) -> Side:
        """Return the peer's side."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return a line about what the peer runs."""
        raise NotImplementedError

    def versions(self) -> dict[str, Any]:
        """Return the versions of what the peer is made of."""
        found: dict[str, Any] = provenance([])["versions"]
        return {name: found[name] for name in ("stable-baselines3", "gymnasium", "torch", "numpy")}


class PlainSB3(Peer):
    """Stable-Baselines3 as it is, on environments as it makes them.

    :param same_env: give it the environments that rlsd has instead.
    """

    def __init__(self, plan: Plan, same_env: bool) -> None:
        super().__init__(plan)
        self.same_env = same_env

    def side(self, steps: int) -> Side:  # noqa: D102
        return Side("sb3", lambda number: work_of(*self.build(self.plan.seed + number), steps))

    def build(self, seed: int) -> tuple[BaseAlgorithm, VecEnv]:
        """Make agent and environments."""
        plan = replace(self.plan, seed=seed)
        env = self._env(plan)
        settings = plan.hyperparams.agent_kwargs(env.action_space)
        return plan.algorithm(plan.hyperparams.policy, env, seed=seed, device=plan.device, **settings), env

    def describe(self) -> str:  # noqa: D102
        where = "the same environments" if self.same_env else "DummyVecEnv and Monitor, as its make_vec_env makes them"
        return f"plain Stable-Baselines3, {where}"

    def _env(self, plan: Plan) -> VecEnv:
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize

        from rlsd.cli.environments import training_env

        if self.same_env:
            return training_env(plan)
        params = plan.hyperparams
        env = make_vec_env(plan.env_id, params.n_envs, seed=plan.seed, env_kwargs=plan.env_kwargs)
        return env if params.normalize is None else VecNormalize(env, **params.normalize)


class SingleFile(Peer):
    """PPO in a single file: :mod:`benchmarks.single_file`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        if plan.options.algo != "ppo":
            raise UserError(f"--peer single-file is PPO alone, not {plan.options.algo}: use --peer sb3")
        if plan.env_kwargs or plan.hyperparams.policy != "MlpPolicy":
            raise UserError(f"--peer single-file has no {plan.hyperparams.policy}, only MlpPolicy: use --peer sb3")
        self._check_spaces()
        self.settings = _single_file_settings(plan)

    def side(self, steps: int) -> Side:  # noqa: D102
        from benchmarks.single_file import Training

        def prepare(number: int) -> Work:
            training = Training(self.plan.env_id, self.settings, self.plan.seed + number)
            return Work(lambda: training.learn(steps), training.close)

        return Side("single-file", prepare)

    def describe(self) -> str:  # noqa: D102
        return "PPO in a single file, plain torch, on Gymnasium's SyncVectorEnv"

    def _check_spaces(self) -> None:
        from gymnasium.spaces import Box, Discrete

        from rlsd.cli.probe import spaces_of

        observations, actions = spaces_of(self.plan.env_id, {})
        if not isinstance(observations, Box) or not isinstance(actions, Box | Discrete):
            raise UserError(f"--peer single-file takes Box observations and Box or Discrete actions, not {actions}")


def _single_file_settings(plan: Plan) -> Settings:
    """Return the plan's hyperparameters as the single file takes them.

    :raises UserError: for one that it does not have: the two sides would not do the same work.
    """
    from dataclasses import fields

    from benchmarks.single_file import Settings
    from rlsd.cli.checks import lin_start

    values = dict(plan.hyperparams.values)
    known = {field.name for field in fields(Settings)}
    policy = dict(values.get("policy_kwargs") or {})
    unknown = [
        key for key, value in values.items() if key not in (*known, *_SINGLE_FILE) and value not in (None, False)
    ]
    unknown += [f"policy_kwargs.{key}" for key in policy if key not in ("net_arch", "activation_fn", "ortho_init")]
    widths = policy.get("net_arch", [64, 64])
    if isinstance(widths, dict):
        if widths.get("pi") != widths.get("vf"):
            unknown.append("policy_kwargs.net_arch with two shapes")
        widths = widths.get("pi", [])
    if unknown:
        raise UserError(f"--peer single-file has no {', '.join(unknown)}: use --peer sb3, or change --hyperparams")
    given = {key: value for key, value in values.items() if key in known}
    for key in ("learning_rate", "clip_range"):
        if key in values:
            given |= {key: float(lin_start(values[key])), f"anneal_{key}": str(values[key]).startswith("lin_")}
    given |= {"normalize": plan.hyperparams.normalize is not None, "hidden": tuple(widths)}
    if "activation_fn" in policy:
        given["activation"] = str(policy["activation_fn"]).removeprefix("nn.")
    return Settings(**given)


class Sbx(Peer):
    """sbx-rl, the JAX sibling of SB3, from after its imports to the end of ``learn()``: its compilation is work.

    :param python: the interpreter that has it; None for this one.
    """

    fresh = True

    def __init__(self, plan: Plan, python: str | None) -> None:
        super().__init__(plan)
        if plan.options.algo not in SBX_ALGORITHMS:
            raise UserError(f"--peer sbx is measured with {' and '.join(SBX_ALGORITHMS)}, not {plan.options.algo}")
        if python is None and importlib.util.find_spec("sbx") is None:
            raise UserError(
                "--peer sbx needs the package sbx-rl: pip install sbx-rl, or name a Python that has it: --peer-python"
            )
        self._more = {} if python is None else {"python": python}
        with blame_input(f"--peer sbx cannot do this{f' with {python}' if python else ''}"):
            self._versions = run_plain(plain_task(plan, "sbx", "check", plan.seed), **self._more)["versions"]

    def rlsd(self, steps: int) -> Side:
        """Return rlsd's side, in fresh processes as the peer's."""
        return Side("rlsd", self._prepare(lambda seed: run_rlsd(rlsd_task(self.plan, "learn", seed))))

    def side(self, steps: int) -> Side:  # noqa: D102
        def run(seed: int) -> dict[str, Any]:
            return run_plain(plain_task(self.plan, "sbx", "learn", seed), **self._more)

        return Side("sbx", self._prepare(run))

    def describe(self) -> str:  # noqa: D102
        return (
            f"sbx {self._versions['sbx-rl']} on JAX {self._versions['jax']}, DummyVecEnv and Monitor; every run of "
            "both sides a fresh process, timed from after the imports to the end of learn()"
        )

    def versions(self) -> dict[str, Any]:  # noqa: D102
        return dict(self._versions)

    def _prepare(self, run: Callable[[int], dict[str, Any]]) -> Callable[[int], Work]:
        def prepare(number: int) -> Work:
            return Work(lambda: Timing(**run(self.plan.seed + number)), lambda: None)

        return prepare
