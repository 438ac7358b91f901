"""What must be the same of two scaled runs, on however many workers."""

from __future__ import annotations

from typing import Any

from agents import copied, optimizers

N_ENVS = 4
STEPS = 8
ROLLOUT = N_ENVS * STEPS


def state_of(agent: Any) -> dict[str, Any]:
    """All that must not depend on the split."""
    normalizer = agent.get_vec_normalize_env()
    kept = {
        "policy": dict(agent.policy.state_dict()),
        "optimizer": {name: optimizer.state_dict() for name, optimizer in optimizers(agent).items()},
        "seen": agent._last_obs,
        "starts": agent._last_episode_starts,
        "steps": (agent.num_timesteps, agent._n_updates),
        "episodes": [(episode["r"], episode["l"]) for episode in agent.ep_info_buffer],
        "distiller": None if agent.distiller is None else agent.distiller.tensors(),
    }
    if normalizer is not None:
        observed = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
        kept["statistics"] = [vars(rms) for rms in (*observed.values(), normalizer.ret_rms)]
        kept["returns"] = normalizer.returns
    return copied(kept)
