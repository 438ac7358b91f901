"""Agents trained in turns: each sees one whole training, and the same seeds give the same."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from agents import N_STEPS, ROLLOUT, build, config, copied, differences, distillation_state, scramble, training_state
from agents import distilled as wrapped
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

import rlsd
from rlsd.io.resume import Checkpoints, Stopped
from rlsd.teachers import Peers
from rlsd.together import learn_together


def peer(group: str, algorithm=PPO, kind: str = "discrete", **changes):
    agent = wrapped(algorithm, kind, config(teacher=Peers(group=group, every=ROLLOUT)), **changes)
    agent.action_space = copy.deepcopy(agent.action_space)  # kinds share theirs, and its generator
    return agent


def whole_state(agents):
    return copied([(training_state(agent), distillation_state(agent)) for agent in agents])


class Log(BaseCallback):
    """Notes who collects, at which step, and how much of the training remains."""

    def __init__(self, name: str, notes: list) -> None:
        super().__init__()
        self.name, self.notes = name, notes

    def _on_rollout_start(self) -> None:
        self.notes.append((self.name, self.num_timesteps, self.model._current_progress_remaining))

    def _on_step(self) -> bool:
        return True


def test_agents_take_turns_of_a_rollout_and_each_sees_the_whole_length():
    notes = []
    agents = [peer("turns", seed=seed) for seed in (1, 2)]
    learn_together(agents, 3 * ROLLOUT, callbacks=[Log("a", notes), [Log("b", notes)]])
    assert [(name, steps) for name, steps, _ in notes] == [(n, s * ROLLOUT) for s in range(3) for n in "ab"]
    assert [remaining for name, _, remaining in notes if name == "b"] == [
        1.0,
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    ]
    for agent in agents:
        assert agent.num_timesteps == 3 * ROLLOUT
        assert agent.distiller.deposits > 0
        assert agent.distiller.logged["distill/peers"] == 1.0


def test_a_longer_turn_is_several_rollouts():
    notes = []
    agents = [peer("longer", seed=seed) for seed in (1, 2)]
    learn_together(agents, 4 * ROLLOUT, turn=ROLLOUT + 1, callbacks=[Log("a", notes), Log("b", notes)])
    assert "".join(name for name, *_ in notes) == "aabbaabb"


def test_an_agent_by_itself_trains_as_in_its_own_learn():
    alone, together = wrapped(PPO), wrapped(PPO)
    alone.learn(4 * ROLLOUT)
    expected = whole_state([alone])
    scramble()
    together = wrapped(PPO)
    learn_together([together], 4 * ROLLOUT)
    assert not differences(expected, whole_state([together]))


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "normalized"), (SAC, "box"), (DQN, "discrete")])
def test_resumed_peers_train_as_if_they_had_never_stopped(algorithm, kind, tmp_path):
    half = 4 * ROLLOUT

    def begun(group):
        agents = [
            peer(group, algorithm, kind, seed=3),
            peer(group, algorithm, kind, seed=4, policy_kwargs={"net_arch": [7]}),
        ]
        learn_together(agents, half)
        return agents

    agents = begun(f"{kind} whole")
    learn_together(agents, half, reset_num_timesteps=False)
    expected = whole_state(agents)
    agents = begun(f"{kind} whole")
    for i, agent in enumerate(agents):
        rlsd.save_checkpoint(agent, tmp_path / str(i))
    scramble()
    agents = [rlsd.resume(tmp_path / str(i)) for i in range(2)]  # the last restores the generators
    learn_together(agents, half, reset_num_timesteps=False)
    assert all(agent.distiller.teacher.ready for agent in agents)
    assert not differences(expected, whole_state(agents))


def test_a_function_is_a_callback_as_in_learn():
    agents, called = [peer("functions", seed=seed) for seed in (1, 2)], [0, 0]

    def count(number):
        def callback(_locals, _globals) -> bool:
            called[number] += 1
            return called[number] < N_STEPS + 2

        return callback

    learn_together(agents, 3 * ROLLOUT, callbacks=[count(0), [Log("b", []), count(1)]])
    assert called == [N_STEPS + 2] * 2, "what it returns ends its agent's training"


class Failing(BaseCallback):
    def _on_step(self) -> bool:
        if self.n_calls == 12:
            raise RuntimeError("on purpose")
        return True


def test_what_one_raises_ends_them_all_between_two_rollouts():
    agents = [peer("failing", seed=seed) for seed in (1, 2, 3)]
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="on purpose"):
        learn_together(agents, 10 * ROLLOUT, callbacks=[None, Failing(), None])
    assert threading.active_count() == threads
    assert [agent.num_timesteps for agent in agents][::2] == [2 * ROLLOUT, ROLLOUT]
    learn_together(agents, 2 * ROLLOUT)


def test_a_checkpoint_that_stops_one_stops_them_all(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=10**6)
    agents = [peer("stopping", seed=seed) for seed in (1, 2)]
    checkpoints.request_stop()
    with pytest.raises(Stopped):
        learn_together(agents, 10 * ROLLOUT, callbacks=[None, checkpoints])
    assert rlsd.resume(tmp_path).num_timesteps == 0


def test_wrong_agents_and_callbacks_are_refused():
    agent = peer("refused")
    with pytest.raises(TypeError, match=r"takes self-distilled agents, got <.*PPO"):
        learn_together([agent, build(PPO)], 10)
    with pytest.raises(ValueError, match="was given an agent twice"):
        learn_together([agent, agent], 10)
    with pytest.raises(ValueError, match="callbacks must be one for each of 1 agents, got 2"):
        learn_together([agent], 10, callbacks=[None, None])


def test_agents_that_cannot_teach_each_other_are_refused_before_anything_is_trained():
    agents = [peer("unlike"), peer("unlike", DQN)]
    with pytest.raises(ValueError, match=r"'unlike' cannot teach each other: it acts by .* give other agents another"):
        learn_together(agents, 10 * ROLLOUT)
    assert [agent.num_timesteps for agent in agents] == [0, 0]
    learn_together([peer("one"), peer("other", DQN)], ROLLOUT)


def test_peers_that_are_trained_together_pull_towards_each_other():
    gaps = {}
    for strength in (0.0, 20.0):
        group = f"pulling {strength}"
        answers = config(teacher=Peers(group=group, every=1), strength=rlsd.Constant(strength))
        agents = [wrapped(PPO, distill=answers, seed=seed) for seed in (1, 2)]
        learn_together(agents, 12 * ROLLOUT)
        states = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        actor = agents[0].distiller.actor
        with torch.no_grad():
            p, q = (actor.parameters(agent.policy, states) for agent in agents)
            gaps[strength] = float(actor.family.kl(p, q).mean())
    assert gaps[20.0] < 0.5 * gaps[0.0], gaps
