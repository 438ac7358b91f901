"""The keeper: the agent learns freely, and a second policy keeps what it knew of the tasks that it left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    KINDS,
    ROLLOUT,
    build,
    copied,
    differences,
    distillation_state,
    distilled,
    scramble,
    training_state,
)
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from teachers.test_remember import PHASE, BackAgain, Marked

import rlsd
from rlsd.actors import actor_for

SMALL = {"states.capacity": 128, "states.batch_size": 16, "teacher.every": 1, "teacher.level": 0.05}


def agent_of(name: str = "PPO", kind: str = "discrete", make: Any = Marked, **changes: Any) -> Any:
    env = DummyVecEnv([lambda: make(KINDS[kind].observations, KINDS[kind].actions)] * 2)
    return distilled(ALL_ALGORITHMS[name], kind, rlsd.recipe("keeper", **(SMALL | changes)), env=env)


def auxiliary(agent: Any) -> Any:
    return agent.distiller.auxiliary


@pytest.mark.parametrize(("name", "kind"), [("PPO", "discrete"), ("SAC", "box"), ("DQN", "discrete")])
def test_the_agent_is_plain_sb3s_to_the_bit_and_the_keeper_is_the_policy_of_the_change(name: str, kind: str) -> None:
    found = []
    for wrapped in (False, True):
        scramble()
        env = DummyVecEnv([lambda: Marked(KINDS[kind].observations, KINDS[kind].actions)] * 2)
        agent = agent_of(name, kind) if wrapped else build(ALL_ALGORITHMS[name], kind, env=env)
        agent.learn(PHASE)
        if wrapped:
            assert agent.keeper is None, "no task was left yet"
        at_change = copied(agent.policy.state_dict())
        agent.learn(10 * ROLLOUT, reset_num_timesteps=False)
        found.append(copied(training_state(agent)))
    assert not differences(*found)
    keeper = agent.keeper
    assert type(keeper) is ALL_ALGORITHMS[name], "it is not plain SB3's"
    module, live = (actor_for(one).module(one.policy).state_dict() for one in (keeper, agent))
    assert any(not torch.equal(module[key], live[key]) for key in live), "it is the live policy"
    other = build(ALL_ALGORITHMS[name], kind)
    other.policy.load_state_dict(at_change)
    wanted = actor_for(other).module(other.policy).state_dict()
    if name == "PPO":  # whose rollouts end at the change; the others went on for some steps before an update
        assert not differences(dict(wanted), dict(module))


def test_at_a_later_change_it_is_fitted_to_all_tasks_that_were_left() -> None:
    agent = agent_of(make=BackAgain, **{"timing.steps": 300, "timing.batch_size": 32})
    agent.learn(PHASE + 10 * ROLLOUT)
    first = auxiliary(agent).policy
    agent.learn(2 * PHASE - 10 * ROLLOUT, reset_num_timesteps=False)
    training = auxiliary(agent)
    assert training.fits == 2 and training.policy is not first
    store, teacher, family = agent.distiller.states, agent.distiller.teacher, agent.distiller.actor.family
    slots = store.slots()[store.tasks[store.slots()] == teacher.tasks[-2]]
    states = store.pick(slots)
    before, after = (
        family.kl(teacher.frozen.targets(states), one.targets(states)).mean() for one in (first, training.policy)
    )
    assert after < 0.2 * before, "it did not learn the task that was left last"
    assert agent.distiller.present_metrics()["distill/keeper_fits"] == 2.0


def test_stopped_and_resumed_it_is_as_if_never_stopped(tmp_path: Any) -> None:
    agent = agent_of(make=BackAgain, **{"timing.steps": 20})
    agent.learn(PHASE + 8 * ROLLOUT)
    rlsd.save_checkpoint(agent, tmp_path)
    agent.learn(2 * PHASE - 8 * ROLLOUT, reset_num_timesteps=False)
    expected = copied((training_state(agent), distillation_state(agent)))
    scramble()
    again = rlsd.resume(tmp_path)
    again.learn(2 * PHASE - 8 * ROLLOUT, reset_num_timesteps=False)
    assert auxiliary(again).fits == 2
    assert not differences(expected, copied((training_state(again), distillation_state(again))))


def test_it_saves_as_a_plain_zip_and_acts_where_episodes_begin_as_before(tmp_path: Any) -> None:
    agent = agent_of()
    agent.learn(PHASE)
    both = rlsd.ByStart(agent)
    observations = agent.env.reset()
    assert both.predict(observations)[1] is None, "it is the agent before any change"
    agent.learn(10 * ROLLOUT, reset_num_timesteps=False)
    agent.keeper.save(tmp_path / "keeper")
    loaded = PPO.load(tmp_path / "keeper")
    observations = np.repeat(agent._last_obs[:1], 8, 0)
    observations[:4, -1], observations[4:, -1] = 0.0, 1.0  # as episodes began, and as they begin now
    both = rlsd.ByStart(agent)
    actions, state = both.predict(observations, deterministic=True)
    assert state is not None and state[0].tolist() == [True] * 4 + [False] * 4
    old, new = (one.predict(observations, deterministic=True)[0] for one in (loaded, agent))
    assert actions.tolist() == [*old[:4], *new[4:]]
    # Within an episode whoever began it goes on.
    _, later = both.predict(observations[::-1], state, np.zeros(8, bool), deterministic=True)
    assert later is not None and later[0].tolist() == state[0].tolist()
    one, begun = both.predict(observations[0], deterministic=True)
    assert one.shape == () and begun is not None and begun[0].tolist() == [True]
    returns, _ = evaluate_policy(both, agent.env, n_eval_episodes=2, return_episode_rewards=True, warn=False)
    assert len(returns) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: distilled(PPO, "discrete", rlsd.recipe("keeper", teacher="snapshot")), "use teacher 'remember'"),
        (lambda: distilled(ALL_ALGORITHMS["RecurrentPPO"], "discrete", "keeper"), "use timing 'every_step'"),
        (lambda: rlsd.ByStart(distilled(PPO, "discrete", "snapshot")), "build it with distill='keeper'"),
    ],
    ids=["teacher", "recurrent", "none"],
)
def test_what_has_no_keeper_is_refused_in_a_line(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)
