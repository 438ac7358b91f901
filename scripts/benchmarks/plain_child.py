"""A cold process that trains plain Stable-Baselines3, or sbx: ``python plain_child.py JSON``, which prints JSON.

It is run by its path and imports nothing of rlsd, so that what its start costs is what it costs somebody who does not
have rlsd, and so that it also runs under another Python, in which only the peer is installed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

#: Added to the seed for evaluations, so that they meet no episode of the training.
EVALUATION_SEED = 2**29
#: Copies of the environment to evaluate in.
EVALUATION_ENVS = 10


def make_env(task: dict[str, Any], seed: int, n_envs: int | None = None) -> Any:
    """Make the environments as Stable-Baselines3 itself makes them: monitored, one after the other.

    :param n_envs: how many; by default as many as are trained in.
    """
    from stable_baselines3.common.env_util import make_vec_env

    if task["env_id"].startswith("MinAtar/"):
        importlib.import_module("minatar.gym").register_envs()
    elif task["env_id"].startswith("ALE/"):
        importlib.import_module("ale_py")
    return make_vec_env(task["env_id"], n_envs or task["n_envs"], seed=seed, env_kwargs=task["env_kwargs"])


def normalized(env: Any, task: dict[str, Any], **changes: Any) -> Any:
    """Put ``VecNormalize`` around environments where the task says so."""
    if task["normalize"] is None:
        return env
    from stable_baselines3.common.vec_env import VecNormalize

    return VecNormalize(env, **{**task["normalize"], **changes})


def make_agent(task: dict[str, Any], env: Any) -> Any:
    """Build the agent from plain values, as they stand in ``config.yml``."""
    library = importlib.import_module(task["library"])
    kwargs = {key: _scheduled(value) for key, value in task["kwargs"].items()}
    if isinstance(kwargs.get("train_freq"), list):
        kwargs["train_freq"] = tuple(kwargs["train_freq"])
    policy = dict(kwargs.get("policy_kwargs") or {})
    if "activation_fn" in policy:
        policy["activation_fn"] = _activation(str(policy["activation_fn"]).removeprefix("nn."), task["library"])
    if policy:
        kwargs["policy_kwargs"] = policy
    return getattr(library, task["algorithm"])(task["policy"], env, seed=task["seed"], device=task["device"], **kwargs)


def _scheduled(value: Any) -> Any:
    """Return ``lin_NUMBER`` as a schedule that falls to 0, and any other value as it is."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    start = float(value.removeprefix("lin_"))
    return lambda progress: start * progress


def _activation(name: str, library: str) -> Any:
    if library == "sbx":
        return getattr(importlib.import_module("flax.linen"), {"SiLU": "silu"}.get(name, name.lower()))
    return getattr(importlib.import_module("torch").nn, name)


def stop_at_target(task: dict[str, Any], evaluation_env: Any = None) -> Any:
    """Return the callback that evaluates every so many steps, and stops once an evaluation reaches the target.

    Its ``report`` says when that was: on the system's clock and in processor time of this process since its start.

    :param evaluation_env: makes the environments to evaluate in, from their number, their seed and those that are
        trained in; by default they are made as Stable-Baselines3 makes them.
    """
    import numpy as np
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import sync_envs_normalization

    class StopAtTarget(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.evaluations: list[tuple[int, float]] = []
            self.report: dict[str, Any] = {}
            self._next = task["eval_freq"]

        def _init_callback(self) -> None:
            count, seed = min(EVALUATION_ENVS, task["eval_episodes"]), task["seed"] + EVALUATION_SEED
            if evaluation_env is not None:
                self._env = evaluation_env(count, seed, self.training_env)
                return
            env = normalized(make_env(task, seed, count), task, training=False, norm_reward=False)
            self._env = type(self.model)._wrap_env(env, verbose=0, monitor_wrapper=False)

        def _on_step(self) -> bool:
            if self.num_timesteps < self._next:
                return True
            self._next += task["eval_freq"]
            sync_envs_normalization(self.training_env, self._env)
            episodes, _ = evaluate_policy(
                self.model, self._env, n_eval_episodes=task["eval_episodes"], return_episode_rewards=True
            )
            self.evaluations.append((self.num_timesteps, float(np.mean(episodes))))
            return not self._done(self.evaluations[-1][1] >= task["target"])

        def _on_training_end(self) -> None:
            if not self.report.get("reached"):
                self._done(False)  # given up, with all that it took
            self._env.close()

        def _done(self, reached: bool) -> bool:
            now = {"ended": time.monotonic(), "cpu": time.process_time()}
            self.report = {"reached": reached, "steps": self.num_timesteps, "evaluations": self.evaluations, **now}
            return reached

    return StopAtTarget()


def versions(task: dict[str, Any]) -> dict[str, str]:
    """Return the versions of what the peer is made of."""
    from importlib.metadata import version

    peer = ("sbx-rl", "jax", "flax") if task["library"] == "sbx" else ("torch",)
    return {package: version(package) for package in ("stable-baselines3", "gymnasium", "numpy", *peer)}


def build(task: dict[str, Any]) -> Any:
    """Make environment and agent."""
    return make_agent(task, normalized(make_env(task, task["seed"]), task))


def solve(task: dict[str, Any]) -> dict[str, Any]:
    """Train until an evaluation reaches the target, or to the last step."""
    agent = build(task)
    stopping = stop_at_target(task)
    agent.learn(task["n_timesteps"], callback=stopping)
    return dict(stopping.report)


def learn(task: dict[str, Any]) -> dict[str, Any]:
    """Train, and time it from after the imports to the end of ``learn()``, compilation included."""
    importlib.import_module(task["library"])
    importlib.import_module("stable_baselines3.common.env_util")
    wall, cpu = time.perf_counter(), time.process_time()
    agent = build(task)
    agent.learn(task["n_timesteps"])
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "steps": int(agent.num_timesteps)}


def check(task: dict[str, Any]) -> dict[str, Any]:
    """Build everything and train nothing: does the peer take this task?"""
    build(task).get_env().close()
    return {"versions": versions(task)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps({"check": check, "learn": learn, "solve": solve}[given["do"]](given)))
