"""The average of an agent's weights: its formula, plain agents of it, and a training that does not notice."""

from __future__ import annotations

import copy
import json
import math
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    copied,
    differences,
    distilled,
    kind_named,
    logged,
    scramble,
    training_state,
    untouched_generators,
)
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

import rlsd
from rlsd.rng import private_numbers
from rlsd.teachers.frozen_policy import named_tensors
from rlsd.wrapping import plain

BOXES = {"SAC", "TQC", "CrossQ", "TD3", "DDPG"}
every_algorithm = pytest.mark.parametrize("name", ALL_ALGORITHMS)


def agent_of(name: str, **changes: Any) -> Any:
    return build(ALL_ALGORITHMS[name], "box" if name in BOXES else "discrete", **changes)


class Entries(BaseCallback):
    """Looks at the policy before each rollout: what the update left."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict[str, Any]]] = []

    def on_boundary(self) -> None:
        self.seen.append((self.model.num_timesteps, copied(dict(named_tensors(self.model.policy)))))

    def _on_step(self) -> bool:
        return True


@every_algorithm
def test_the_training_does_not_notice_and_the_copy_is_plain_and_acts(name: str, tmp_path: Any) -> None:
    steps = (16 if name == "ARS" else 5) * ROLLOUT
    without = agent_of(name)
    without.learn(steps)
    expected = copied(training_state(without))
    agent = agent_of(name)
    average = rlsd.average(agent, horizon=2 * ROLLOUT)
    agent.learn(steps)
    assert average.ready, "no policy entered"
    with untouched_generators():
        one = average.agent()
        average.save(tmp_path / "average")
    assert not differences(expected, training_state(agent))
    assert logged(agent) == logged(without)
    assert type(one) is ALL_ALGORITHMS[name]
    assert differences(dict(named_tensors(one.policy)), dict(named_tensors(agent.policy))), "it is the live policy"
    assert not {id(t) for t in named_tensors(one.policy).values()} & {
        id(t) for t in named_tensors(agent.policy).values()
    }
    with private_numbers(0):
        loaded = ALL_ALGORITHMS[name].load(tmp_path / "average.zip", device="cpu")
    assert type(loaded) is ALL_ALGORITHMS[name]
    assert not differences(dict(named_tensors(loaded.policy)), dict(named_tensors(one.policy)))
    seen = agent.get_env().reset()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], one.predict(seen, deterministic=True)[0])


@pytest.mark.parametrize("horizon", [None, 3 * ROLLOUT, 1], ids=str)
def test_it_is_the_debiased_mean_of_the_policies_weighed_by_their_steps(horizon: int | None) -> None:
    agent, callback = build(PPO), Entries()
    average = rlsd.average(agent, horizon)
    agent.learn(6 * ROLLOUT, callback=callback)
    entered = [*callback.seen[1:], (6 * ROLLOUT, dict(named_tensors(agent.policy)))]
    assert [step for step, _ in entered] == [ROLLOUT * i for i in range(1, 7)]
    total, expected = 0.0, dict.fromkeys(entered[0][1], torch.zeros(()))
    for step, policy in entered:
        kept = math.exp(-ROLLOUT / (0.1 * step if horizon is None else horizon))
        total = kept * total + ROLLOUT
        expected = {key: kept * expected[key] + ROLLOUT * policy[key] for key in policy}
    for key, tensor in named_tensors(average.agent().policy).items():
        torch.testing.assert_close(tensor, expected[key] / total, rtol=1e-5, atol=1e-6)


def test_a_long_average_lies_further_back_than_a_short_one() -> None:
    """The retention factor is the right way round."""
    distances = []
    for horizon in (ROLLOUT, 50 * ROLLOUT):
        agent = build(PPO)
        average = rlsd.average(agent, horizon)
        agent.learn(8 * ROLLOUT)
        live = named_tensors(agent.policy)
        distances.append(
            sum(float((t - live[n]).detach().norm()) for n, t in named_tensors(average.agent().policy).items())
        )
    assert distances[0] < distances[1]


def test_running_statistics_are_averaged_and_counters_are_the_latest() -> None:
    agent, callback = build(PPO, "regularized"), Entries()
    average = rlsd.average(agent, horizon=100 * ROLLOUT)
    agent.learn(4 * ROLLOUT, callback=callback)
    policies = [*(policy for _, policy in callback.seen[1:]), dict(named_tensors(agent.policy))]
    found = named_tensors(average.agent().policy)
    for name in found:
        if name.endswith(("running_mean", "running_var")):
            mean = torch.stack([policy[name] for policy in policies]).mean(0)
            torch.testing.assert_close(found[name], mean, rtol=0.02, atol=0.02)
            assert not torch.equal(found[name], policies[-1][name])
        elif name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], policies[-1][name])
            assert int(found[name]) > 0


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_stopping_and_going_on_gives_the_same_average_to_the_bit(name: str, tmp_path: Any) -> None:
    whole = agent_of(name)
    rlsd.average(whole, 3 * ROLLOUT)
    whole.learn(8 * ROLLOUT, callback=rlsd.Checkpoints(tmp_path, every=4 * ROLLOUT, keep=9))
    scramble()
    resumed = rlsd.resume(tmp_path / str(4 * ROLLOUT))
    assert resumed.weight_average.horizon == 3 * ROLLOUT
    assert rlsd.average(resumed) is resumed.weight_average
    resumed.learn(4 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(whole.weight_average.tensors(), resumed.weight_average.tensors())
    assert whole.weight_average.state() == resumed.weight_average.state()


def test_a_zip_with_an_average_opens_in_plain_sb3_and_in_rlsd_which_takes_the_average_up(tmp_path: Any) -> None:
    agent = distilled(PPO)
    average = rlsd.average(agent)
    agent.learn(4 * ROLLOUT)
    agent.save(tmp_path / "agent")
    average.save(tmp_path / "average")
    for name in ("agent", "average"):
        assert type(PPO.load(tmp_path / name)) is PPO
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            assert "weight_average" not in json.loads(archive.read("data"))
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "agent")
    assert not differences(loaded.weight_average.tensors(), average.tensors())
    assert rlsd.SelfDistilled(PPO).load(tmp_path / "average").weight_average is None


def test_an_average_that_does_not_fit_or_is_damaged_is_one_clear_error(tmp_path: Any) -> None:
    agent = build(PPO)
    average = rlsd.average(agent)
    agent.learn(3 * ROLLOUT)
    with pytest.raises(ValueError, match="the saved average of the weights does not fit this policy"):
        average.load({"other": torch.zeros(2)}, average.state())
    with pytest.raises(ValueError, match="the saved average of the weights is damaged: 'entered_at'"):
        average.load(average.tensors(), {"horizon": None, "weight": 1.0})


def test_it_begins_anew_where_the_weights_are_exchanged() -> None:
    agent = build(PPO)
    average = rlsd.average(agent)
    agent.learn(3 * ROLLOUT)
    assert average.ready
    agent.set_parameters(agent.get_parameters())
    assert not average.ready
    agent.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert average.ready
    agent._setup_model()
    assert not differences(dict(named_tensors(average.agent().policy)), dict(named_tensors(agent.policy)))
    assert not average.ready


def test_it_begins_anew_with_a_student_that_takes_over() -> None:
    reborn = rlsd.DistillConfig(timing=rlsd.Reborn(every=4 * ROLLOUT, steps=1, kl_bound=1e9), strength=1.0)
    agent = distilled(PPO, distill=reborn)
    average = rlsd.average(agent)
    agent.learn(4 * ROLLOUT)
    assert agent.distiller.auxiliary.rebirths == 1
    assert not average.ready


def test_a_policy_that_is_not_finite_does_not_enter() -> None:
    agent = build(PPO)
    average = rlsd.average(agent)
    agent.learn(3 * ROLLOUT)
    before = copied(average.tensors())
    with torch.no_grad():
        next(agent.policy.parameters()).fill_(math.nan)
    agent.num_timesteps += 10 * ROLLOUT
    average.enter()
    assert not differences(before, average.tensors())


@pytest.mark.parametrize("kind", ["gsde", "image_chw", "dict", "normalized", "regularized"])
def test_agents_of_every_kind_are_copied_in_the_middle_of_a_rollout(kind: str) -> None:
    class Copy(BaseCallback):
        def _on_step(self) -> bool:
            agent = self.model.weight_average.agent()
            agent.predict(self.model._last_obs)
            assert agent.get_env() is None
            return True

    agent = build(PPO, kind)
    rlsd.average(agent)
    agent.learn(2 * ROLLOUT, callback=Copy())


def test_a_copy_has_no_replay_buffer_and_is_saved_with_the_kind_of_its_own(tmp_path: Any) -> None:
    agent = build(DQN, "goal")
    average = rlsd.average(agent)
    agent.learn(4 * ROLLOUT)
    one = average.agent()
    assert one.replay_buffer is None
    one.save(tmp_path / "one")
    loaded = DQN.load(tmp_path / "one", env=agent.get_env())
    assert type(loaded.replay_buffer) is kind_named("goal").arguments["replay_buffer_class"]


def test_the_entropy_coefficient_and_its_optimizer_belong_to_the_copy() -> None:
    agent = build(SAC, "box")
    average = rlsd.average(agent)
    agent.learn(4 * ROLLOUT)
    one: Any = average.agent()
    assert one.actor is one.policy.actor
    assert one.critic_target is one.policy.critic_target
    assert one.log_ent_coef is one.ent_coef_optimizer.param_groups[0]["params"][0]
    assert one.log_ent_coef is not agent.log_ent_coef


def test_agents_with_an_average_are_copied_with_it() -> None:
    agent = build(PPO)
    rlsd.average(agent)
    agent.learn(3 * ROLLOUT)
    agent.predict(agent.get_env().reset())  # SB3 cannot copy a policy that holds the graph of its latest update
    twin = copy.deepcopy(agent)
    assert twin.weight_average._agent is twin
    assert not differences(twin.weight_average.tensors(), agent.weight_average.tensors())
    twin.learn(ROLLOUT, reset_num_timesteps=False)
    assert differences(twin.weight_average.tensors(), agent.weight_average.tensors())


def test_an_average_of_a_compiled_policy_is_one_of_its_weights() -> None:
    agent = build(PPO)
    average = rlsd.average(agent)
    agent.learn(2 * ROLLOUT)
    before = average.state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent.policy = torch.compile(agent.policy, backend="eager")
        agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert average.state()["entered_at"] > before["entered_at"]
    assert average.state()["weight"] > before["weight"], "it began anew"
    assert type(average.agent().policy) is plain_policy(agent)


def plain_policy(agent: BaseAlgorithm) -> type:
    return type(agent.policy._orig_mod)


def test_a_class_of_ones_own_is_what_copies_are_of() -> None:
    class Mine(PPO):
        pass

    agent = build(rlsd.SelfDistilled(Mine))
    average = rlsd.average(agent)
    agent.learn(2 * ROLLOUT)
    assert type(average.agent()) is Mine is plain(type(agent))
    assert not {"distiller", "weight_average", "accelerator"} & vars(average.agent()).keys()
