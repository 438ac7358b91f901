"""Is `remember` idle while the task stays what it is? Each trial trains plain SB3 and the same with it, from one seed.

python scripts/experiments/idle.py --results docs/results/idle.json

A trial is idle when there was no alarm and every parameter and optimizer state is the same, bit for bit. What the file
has already is not trained again. LunarLander, MiniGrid, MinAtar and HalfCheetah need ``pip install 'rlsd[envs]'``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from experiments.retention_settings import words_of
from rlsd import SelfDistilled, __version__
from rlsd.cli.environments import training_env
from rlsd.cli.options import parse
from rlsd.cli.plan import Plan, plan_new

#: Algorithm, environment and the share of the steps asked for: off-policy steps take many times as long.
TRIALS = (
    ("ppo", "CartPole-v1", 1.0),
    ("ppo", "Acrobot-v1", 1.0),
    ("ppo", "Pendulum-v1", 1.0),
    ("ppo", "MountainCarContinuous-v0", 1.0),
    ("ppo", "LunarLander-v3", 1.0),
    ("ppo", "MiniGrid-FourRooms-v0", 1.0),
    ("ppo", "MinAtar/Breakout-v1", 1.0),
    ("ppo", "HalfCheetah-v5", 1.0),
    ("dqn", "CartPole-v1", 0.5),
    ("sac", "Pendulum-v1", 0.1),
    ("td3", "Pendulum-v1", 0.1),
    ("dqn", "LunarLander-v3", 0.5),
    ("sac", "MountainCarContinuous-v0", 0.1),
    ("td3", "MountainCarContinuous-v0", 0.1),
)


def trained(plan: Plan, distill: str | None) -> Any:
    """Return an agent trained with the settings of a plan, of plain SB3's class where nothing is distilled."""
    env = training_env(plan)
    made: Any = plan.algorithm if distill is None else SelfDistilled(plan.algorithm)
    extra = {} if distill is None else {"distill": distill}
    kwargs = plan.hyperparams.agent_kwargs(env.action_space) | extra
    agent = made(plan.hyperparams.policy, env, seed=plan.seed, device="cpu", **kwargs)
    agent.learn(plan.n_timesteps)
    env.close()
    return agent


def same(ours: Any, theirs: Any) -> bool:
    """Tell whether two states of a policy and its optimizers are the same, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def trial(algo: str, env: str, steps: int, seed: int) -> dict[str, Any]:
    """Train both, and return what was seen."""
    plan = plan_new(parse([*words_of(env, algo, steps, {}, "cpu", "logs"), "--seed", str(seed)]))
    plain, ours = trained(plan, None), trained(plan, "remember")
    teacher = ours.distiller.teacher
    states = [agent.get_parameters() for agent in (plain, ours)]
    return {
        "steps": int(ours.num_timesteps),
        "starts": teacher.test.count,
        "alarms": teacher.test.alarms,
        "evidence": round(teacher.test.evidence, 3),
        "deposits": ours.distiller.deposits,
        "same_bits": same(*states),
    }


def main() -> None:
    """Run the trials that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="of PPO; DQN takes half of them, SAC and TD3 a tenth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for seed in asked.seeds:
        for algo, env, share in TRIALS:
            name = f"{algo} {env} {int(asked.steps * share)} seed {seed}"
            if name not in data:
                data[name] = trial(algo, env, int(asked.steps * share), seed) | {"version": __version__}
                lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
                asked.results.write_text("{\n" + lines + "\n}\n")
            print(f"{name:<48}{data[name]}", flush=True)


if __name__ == "__main__":
    main()
