"""A run is the same however its environments are split over workers, and SB3 sees of it what it sees of a local one."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from agents import build, config, copied, differences, make_env, untouched_generators
from sb3_contrib import ARS, QRDQN, TRPO, MaskablePPO, RecurrentPPO
from scaling_states import N_ENVS, ROLLOUT, STEPS, state_of
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecCheckNan

import rlsd

SPLITS = ((1, 4), (2, 2), (4, 1))
SLOW_KINDS = ("multibinary", "image_hwc", "dict", "discrete_observations", "normalized")
KINDS = (
    "discrete",
    "multidiscrete",
    "box",
    "normalized_dict",
    *(pytest.param(k, marks=pytest.mark.slow) for k in SLOW_KINDS),
)
OFF_POLICY = {
    SAC: ("normalized", {"action_noise": NormalActionNoise(np.zeros(2), np.full(2, 0.3))}),
    TD3: ("box", {}),
    DQN: ("discrete", {"exploration_fraction": 0.9}),
    QRDQN: ("normalized_discrete", {"exploration_fraction": 0.9}),
}


def workers(n: int = 2, each: int = 2, **settings: Any) -> rlsd.LocalWorkers:
    return rlsd.LocalWorkers(n, each, **settings)


def scaled(algorithm: type[Any] = PPO, kind: str = "discrete", by: Any = None, **changes: Any) -> Any:
    """An agent whose rollouts are collected by workers."""
    changes = {"distill": None} | changes
    agent = build(rlsd.SelfDistilled(algorithm), kind, env=make_env(kind, N_ENVS), workers=by or workers(), **changes)
    return agent


def learnt(agent: Any, rollouts: int = 2) -> dict[str, Any]:
    agent.learn(rollouts * ROLLOUT)
    return state_of(agent)


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_over_workers_changes_no_bit_of_a_run(kind):
    whole, *parts = (learnt(scaled(PPO, kind, workers(*split), distill=config())) for split in SPLITS)
    for split, other in zip(SPLITS[1:], parts, strict=True):
        assert not differences(whole, other), f"{split} is another run than {SPLITS[0]}"


@pytest.mark.parametrize("algorithm", [pytest.param(A2C, marks=pytest.mark.slow), TRPO])
def test_the_split_changes_no_bit_for_other_on_policy_algorithms(algorithm):
    one, other = (learnt(scaled(algorithm, "normalized", workers(*split))) for split in ((1, 4), (4, 1)))
    assert not differences(one, other)


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", pytest.param("multibinary", marks=pytest.mark.slow)])
def test_masked_actions_are_never_taken_and_the_split_changes_no_bit(kind):
    class Allowed(BaseCallback):
        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            masks, actions = buffer.action_masks, buffer.actions.astype(int)
            assert (masks == 0).any(), "nothing was masked"
            sizes = [int(n) for n in getattr(self.model.action_space, "nvec", [])] or None
            sizes = sizes or ([2] * actions.shape[-1] if kind == "multibinary" else [masks.shape[-1]])
            starts = np.cumsum([0, *sizes[:-1]])
            assert np.take_along_axis(masks, actions + starts, axis=-1).all(), "a masked action was taken"

        def _on_step(self) -> bool:
            return True

    ended = []
    for split in ((1, 4), (2, 2)):
        agent = scaled(MaskablePPO, kind, workers(*split))
        agent.learn(3 * ROLLOUT, callback=Allowed())
        ended.append(state_of(agent))
    assert not differences(*ended)


@pytest.mark.parametrize(
    ("algorithm", "overlap"),
    [
        *((SAC, True), (DQN, False)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((SAC, False), (TD3, True), (DQN, True), (QRDQN, False))
        ),
    ],
)
def test_the_split_changes_no_bit_for_off_policy_algorithms(algorithm, overlap):
    kind, changes = OFF_POLICY[algorithm]
    ended = []
    for split in ((1, 4), (4, 1)):
        agent = scaled(algorithm, kind, workers(*split, fragment=5, overlap=overlap), **changes)
        state = learnt(agent)
        buffer = agent.replay_buffer
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        ended.append(state | {name: getattr(buffer, name) for name in names})
    assert not differences(*ended)


def test_off_policy_agents_keep_their_updates_per_step_and_bound_the_age_of_the_weights():
    alone, agent = build(SAC, "box", env=make_env("box", N_ENVS)), scaled(SAC, "box", workers(fragment=6))
    behind = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            behind.append(self.logger.name_to_value["scale/updates_behind"])
            return True

    alone.learn(4 * ROLLOUT)
    agent.learn(4 * ROLLOUT, callback=Watch())
    assert agent._n_updates == alone._n_updates > 0
    assert agent.num_timesteps == alone.num_timesteps
    a_step = agent.gradient_steps / agent.train_freq.frequency
    assert 0 < max(behind) <= 6 * a_step, "weights are older than a fragment"


class Rollouts(BaseCallback):
    """Keeps each rollout's buffer, and what the callbacks were told."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.rewards: list[np.ndarray] = []
        self.ended: list[Any] = []

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        self.rewards.append(self.locals["rewards"].copy())
        self.ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
        self.buffers.append({name: copied(getattr(self.model.rollout_buffer, name)) for name in names})


def local_twin(kind: str, taken: list[np.ndarray], seen: list[np.ndarray] | None = None) -> tuple[Any, Rollouts]:
    """Plain SB3 in the same environments, made to take the same actions.

    :param seen: what its policy is to judge, instead of what the environment shows.
    """
    agent, watch = build(PPO, kind, env=make_env(kind, N_ENVS)), Rollouts()
    judge = agent.policy.evaluate_actions
    actions = iter(taken)
    shown = iter(seen or [])

    def forward(observations: Any) -> Any:
        action = torch.from_numpy(next(actions)).reshape(N_ENVS, *agent.action_space.shape)
        judged = observations if seen is None else obs_as_tensor(next(shown), "cpu")
        values, log_prob, _ = judge(judged, action)
        return action, values, log_prob

    agent.policy.forward = forward
    agent.learn(ROLLOUT, callback=watch)
    return agent, watch


@pytest.mark.parametrize("kind", ["discrete", "box", pytest.param("image_hwc", marks=pytest.mark.slow)])
def test_the_buffer_and_the_callbacks_get_what_a_local_run_gives_them(kind):
    agent, watch = scaled(PPO, kind), Rollouts()
    agent.learn(ROLLOUT, callback=watch)
    (mine,) = watch.buffers
    taken = [a.astype(np.int64) if kind != "box" else a for a in mine["actions"]]
    _, local = local_twin(kind, taken)
    (theirs,) = local.buffers
    assert mine["episode_starts"].any() and len(watch.ended) > 2, "no episode ended"
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, atol=1e-5, err_msg=name)
    assert watch.steps == local.steps == list(range(N_ENVS, ROLLOUT + 1, N_ENVS))
    np.testing.assert_allclose(watch.ended, local.ended)


def test_the_statistics_of_vecnormalize_and_its_rewards_are_those_of_a_local_run():
    agent, watch = scaled(PPO, "normalized"), Rollouts()
    agent.learn(ROLLOUT, callback=watch)
    (mine,) = watch.buffers
    local, other = local_twin("normalized", list(mine["actions"]), list(mine["observations"]))
    normalizers = agent.get_vec_normalize_env(), local.get_vec_normalize_env()
    one, twin = ([vars(n.obs_rms), vars(n.ret_rms), n.returns, n.old_obs, n.old_reward] for n in normalizers)
    assert not differences(one, twin), "statistics differ from a local run's"
    # Before SB3 adds the values of episodes that were cut short.
    assert not differences(watch.rewards, other.rewards), "normalised rewards differ from a local run's"


def test_all_of_a_rollout_is_seen_through_the_statistics_of_its_beginning():
    agent, watch = scaled(PPO, "normalized"), Rollouts()
    normalizer = agent.get_vec_normalize_env()
    before = []

    class First(BaseCallback):
        def _on_rollout_start(self) -> None:
            before.append((normalizer.obs_rms.mean.copy(), normalizer.obs_rms.var.copy(), normalizer.old_obs))

        def _on_step(self) -> bool:
            return True

    agent.learn(2 * ROLLOUT, callback=[First(), watch])
    for (mean, var, raw), buffer in zip(before, watch.buffers, strict=True):
        expected = np.clip((raw - mean) / np.sqrt(var + normalizer.epsilon), -1.5, 1.5)
        np.testing.assert_allclose(buffer["observations"][0], expected, atol=1e-6)
    assert not np.allclose(before[0][0], before[1][0]), "the statistics did not move"


def test_raw_states_are_stored_for_distillation():
    agent = scaled(PPO, "normalized", distill=config())
    agent.learn(3 * ROLLOUT)
    states = np.concatenate([array.ravel() for array in agent.distiller.states.tensors().values() if array.dim() > 1])
    assert np.abs(states).max() <= 1.0, "a normalised state was stored: raw ones lie in [-1, 1]"
    assert agent.distiller.activity is not None


def test_collecting_draws_no_global_random_number_and_leaves_nothing_on_the_policy():
    agent = scaled(PPO, "box")
    kind = type(agent.policy)
    _, callback = agent._setup_learn(ROLLOUT, None)
    with untouched_generators():
        workers().vec_env("CartPole-v1")
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, STEPS)
    assert type(agent.policy) is kind and "forward" not in vars(agent.policy)


def test_a_callback_that_stops_a_rollout_half_way_ends_learn_and_training_can_go_on():
    agent = scaled()

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 3

    agent.learn(4 * ROLLOUT, callback=Stop())
    assert agent.num_timesteps == 3 * N_ENVS
    agent.learn(ROLLOUT, reset_num_timesteps=False)
    assert agent.num_timesteps == 3 * N_ENVS + ROLLOUT
    assert agent._n_updates > 0


@pytest.mark.parametrize(("overlap", "after"), [(False, (2, 2)), (False, (4, 1)), (True, (4, 1))])
def test_a_resumed_run_goes_on_to_the_bit_on_any_number_of_workers(overlap, after, tmp_path):
    def agent() -> Any:
        return scaled(PPO, "normalized", workers(overlap=overlap), distill=config())

    never_stopped = agent()
    never_stopped.learn(4 * ROLLOUT)
    stopped = agent()
    saving = rlsd.Checkpoints(tmp_path, every=2 * ROLLOUT)
    with pytest.raises(rlsd.Stopped):
        stopped.learn(4 * ROLLOUT, callback=[saving, _StopAt(saving, 2 * ROLLOUT)])
    resumed = rlsd.resume(tmp_path)
    if after != (2, 2):
        rlsd.scale(resumed, workers(*after, overlap=overlap))
    resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(state_of(never_stopped), state_of(resumed))


def test_an_off_policy_run_resumes_to_the_bit_in_the_middle_of_a_fragment(tmp_path):
    def agent() -> Any:
        return scaled(SAC, "normalized", workers(fragment=6, overlap=True))

    never_stopped = agent()
    never_stopped.learn(4 * ROLLOUT)
    stopped = agent()
    saving = rlsd.Checkpoints(tmp_path, every=2 * ROLLOUT)
    with pytest.raises(rlsd.Stopped):
        stopped.learn(4 * ROLLOUT, callback=[saving, _StopAt(saving, 2 * ROLLOUT)])
    base = stopped.env.unwrapped
    assert 0 < base._at < base._tape.steps, "the fragment is not half played"
    resumed = rlsd.resume(tmp_path)
    resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(state_of(never_stopped), state_of(resumed))


class _StopAt(BaseCallback):
    """Asks a callback to save and stop at the next boundary after some steps."""

    def __init__(self, saving: rlsd.Checkpoints, steps: int) -> None:
        super().__init__()
        self._saving, self._steps = saving, steps

    def _on_step(self) -> bool:
        if self.num_timesteps == self._steps:
            self._saving.request_stop()
        return True


def test_overlap_collects_by_the_policy_of_one_rollout_before():
    agent, watch = scaled(PPO, "box", workers(overlap=True), n_epochs=1), Rollouts()
    behind = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            behind.append(self.logger.name_to_value["scale/updates_behind"])

    agent.learn(3 * ROLLOUT, callback=[watch, Watch()])
    assert behind == [0, 1, 1]


def test_a_worker_that_was_started_anew_begins_episodes_in_its_environments_alone():
    agent = scaled(PPO, "normalized")
    agent.learn(ROLLOUT)
    fleet = agent.env.unwrapped.fleet
    collect = fleet.begin

    def one_lost(plan: Any) -> Any:
        fragments = collect(plan)()
        fragments[1].fresh[:] = True
        fragments[1].observations = {key: array.copy() for key, array in fragments[1].observations.items()}
        for array in fragments[1].observations.values():
            array[0] = 0.25
        return lambda: fragments

    fleet.begin = one_lost
    normalizer, watch = agent.get_vec_normalize_env(), Rollouts()
    returns, ended = [], []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 1:
                returns.append((normalizer.returns.copy(), normalizer.old_reward.copy()))
                ended.append(self.locals["dones"].copy())
            return True

    agent.learn(ROLLOUT, reset_num_timesteps=False, callback=[watch, Watch()])
    (buffer,) = watch.buffers
    assert buffer["episode_starts"][0, 2:].all() and not buffer["episode_starts"][0, :2].all()
    assert np.abs(np.diff(buffer["observations"][0, 2:], axis=0)).max() == 0, (
        "the new episodes' first states are not seen"
    )
    (after, reward), first = returns[0], slice(2, None)
    np.testing.assert_allclose(np.where(ended[0], reward, after)[first], reward[first], err_msg="returns go on")


def test_scale_moves_an_agent_in_the_middle_of_its_episodes():
    agent = build(PPO, "discrete", env=make_env("discrete", N_ENVS))
    agent.learn(ROLLOUT)
    seen, counted = agent._last_obs.copy(), [env.get_wrapper_attr("_steps") for env in agent.env.unwrapped.envs]
    assert rlsd.scale(agent, workers()) is agent
    assert agent.env.get_attr("_steps") == counted, "the episodes began anew"
    watch = Rollouts()
    agent.learn(ROLLOUT, reset_num_timesteps=False, callback=watch)
    np.testing.assert_array_equal(watch.buffers[0]["observations"][0], seen)
    assert agent.num_timesteps == 2 * ROLLOUT


def test_the_environments_answer_as_a_vector_environment_does():
    env = workers().vec_env(make_env("discrete", N_ENVS))
    env.seed(5)
    first = env.reset()
    assert first.shape == (N_ENVS, 3)
    local = make_env("discrete", N_ENVS)
    local.seed(5)
    np.testing.assert_array_equal(first, local.reset())
    env.set_attr("length", 9, indices=[1, 3])
    assert env.get_attr("length") == [5, 9, 5, 9]
    assert [list(mask) for mask in env.env_method("action_masks", indices=2)] == [
        list(mask) for mask in local.env_method("action_masks", indices=2)
    ]
    with pytest.raises(RuntimeError, match="whole fragments"):
        env.step(np.zeros(N_ENVS, int))


def test_an_id_and_functions_make_environments_at_the_workers():
    by_id = workers().vec_env("CartPole-v1")
    assert by_id.num_envs == N_ENVS and by_id.reset().shape == (N_ENVS, 4)
    for together in (lambda: make_env("box", 2), lambda n_envs: make_env("box", n_envs)):
        assert workers().vec_env(together).reset().shape == (N_ENVS, 3)
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, workers=workers(), seed=0)
    assert agent.learn(ROLLOUT).num_timesteps == ROLLOUT


def _holds_a_lock() -> Any:
    env = make_env("discrete", N_ENVS)
    env.envs[2].unwrapped.lock = threading.Lock()
    return env


def _locking() -> Any:
    lock = threading.Lock()

    def make_locked() -> Any:
        return lock

    return make_locked


REFUSED = {
    "another number": (lambda: scaled(by=workers(2, 3)), "has 4 environments, and 2 workers of 3 have 6"),
    "no environment": (lambda: rlsd.SelfDistilled(PPO)("MlpPolicy", None, workers=workers()), "workers need env="),
    "a lock": (lambda: workers().vec_env(_holds_a_lock()), "environment 2 cannot go to a worker.*lock"),
    "a function": (lambda: workers().vec_env(_locking()), "make_locked cannot be pickled for the workers: TypeError"),
    "too many": (lambda: workers(2, 3).vec_env(lambda: make_env("box", 2)), "each worker has 3 .* makes 2"),
    "a wrapper": (lambda: workers().vec_env(VecCheckNan(make_env("box", N_ENVS))), "see through a VecCheckNan"),
    "gSDE": (lambda: scaled(PPO, "gsde"), "workers cannot collect for PPO: gSDE.*use_sde=False"),
    "recurrent": (lambda: scaled(RecurrentPPO), "workers cannot collect for RecurrentPPO"),
    "ARS": (lambda: scaled(ARS, "discrete"), "workers cannot collect for ARS"),
    "noise": (
        lambda: scaled(SAC, "box", action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))),
        "OrnsteinUhlenbeckActionNoise: use NormalActionNoise",
    ),
    "workers of 0": (lambda: workers(0, 1), "n must be a whole number of at least 1, got 0"),
    "infos": (lambda: workers(infos="some"), "infos must be 'ended' or 'all', got 'some'"),
    "no workers": (lambda: rlsd.scale(build(PPO), 4), "scale takes RayWorkers or LocalWorkers, got 4"),
    "no agent": (lambda: rlsd.scale("agent", workers()), "scale takes an SB3 agent, got 'agent'"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_is_refused_in_one_line(case):
    wrong, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_infos_of_every_step_come_when_asked_for():
    seen: dict[str, list[bool]] = {"ended": [], "all": []}
    for infos, there in seen.items():

        class Watch(BaseCallback):
            def _on_step(self, there: list[bool] = there) -> bool:
                there += [bool(info) for info in self.locals["infos"]]
                return True

        scaled(by=workers(infos=infos)).learn(ROLLOUT, callback=Watch())
    assert all(seen["all"])
    assert 0 < sum(seen["ended"]) < ROLLOUT


def test_ray_that_is_missing_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"RayWorkers need Ray: pip install 'rlsd\[ray\]'"):
        rlsd.RayWorkers(1, 1)
