"""The environments of a run: one to train in, one to evaluate in, wrapped alike."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from rlsd.cli import workers
from rlsd.cli.errors import blame_input
from rlsd.cli.masks import check_masks
from rlsd.cli.plan import Plan
from rlsd.cli.probe import like, make

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

#: Added to the run's seed for evaluations, so that they meet no episode of the training, and the last none of the rest:
#: the seed of an evaluation during training grows with the steps.
EVALUATION_SEED = 2**29
FINAL_EVALUATION_SEED = 2**30


def training_env(plan: Plan) -> VecEnv:
    """Make the environment to train in, with ``VecNormalize`` around it where the hyperparameters say so."""
    from stable_baselines3.common.vec_env import VecNormalize

    params = plan.hyperparams
    if plan.options.workers is not None:
        env = workers.vec_env(plan.options, plan.env_id, plan.env_kwargs)
        env.seed(plan.seed)
    else:
        env = make(plan.env_id, params.n_envs, plan.options.vec_env, plan.seed, plan.env_kwargs)
    if plan.options.algo == "ppo_mask":
        check_masks(env, plan.env_id)
    return env if params.normalize is None else VecNormalize(env, **params.normalize)


def evaluation_env(plan: Plan, seed: int, trained_in: VecEnv) -> VecEnv:
    """Make an environment that shows the agent what it saw in training, with rewards as the environment gives them.

    :param trained_in: the environment the agent is in; its ``VecNormalize`` statistics are copied.
    """
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

    # Where the fastest way to run the very same environment is another than one after the other, it is taken.
    kind = like(plan.options.vec_env, "auto")
    env = make(plan.env_id, plan.options.n_eval_envs, kind, seed % 2**31, plan.env_kwargs)
    statistics = unwrap_vec_normalize(trained_in)
    if statistics is not None:
        env = VecNormalize(
            env, training=False, norm_obs=statistics.norm_obs, norm_reward=False, clip_obs=statistics.clip_obs
        )
        copy_statistics(statistics, env)
    # Images are transposed by SB3 around the training environment: the same here, or the two do not match.
    return BaseAlgorithm._wrap_env(env, verbose=0, monitor_wrapper=False)


def copy_statistics(source: VecNormalize, target: VecNormalize) -> None:
    """Give ``target`` the running means and variances of ``source``."""
    target.epsilon = source.epsilon
    if source.norm_obs:
        target.obs_rms = copy.deepcopy(source.obs_rms)
    target.ret_rms = copy.deepcopy(source.ret_rms)


def load_statistics(path: Path, env: VecEnv) -> None:
    """Read ``VecNormalize`` statistics that were saved beside an agent into the environment it goes on in."""
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from rlsd.io.statistics_file import read_statistics
    from rlsd.observations import as_items

    target = unwrap_vec_normalize(env)
    if target is None or not path.is_file():
        return
    with blame_input(f"cannot read {path}"):
        found = read_statistics(path)
        if found.obs_rms is not None and target.norm_obs:
            mine, theirs = (as_items(rms) for rms in (target.obs_rms, found.obs_rms))
            if {k: v.mean.shape for k, v in mine.items()} != {k: v.mean.shape for k, v in theirs.items()}:
                raise ValueError("its statistics are of other observations")
        copy_statistics(found, target)
