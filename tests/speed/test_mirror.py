"""A copy acts, the agent's own policy trains and is saved; where both are on one device, no bit is different."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from agents import ROLLOUT, build, copied, differences, distillation_state, distilled, patches, training_state
from sb3_contrib import ARS, TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback

import rlsd
from rlsd.speed import NOTHING, Speed
from rlsd.speed.mirror import Mirror

CASES = [
    *((PPO, kind) for kind in ("discrete", "box", "gsde", "gsde_squashed", "image_hwc", "dict", "normalized")),
    *((PPO, "regularized"), (A2C, "box"), (MaskablePPO, "discrete")),
    *((SAC, "box"), (SAC, "gsde"), (SAC, "normalized"), (TD3, "box"), (DDPG, "box"), (DQN, "discrete")),
    *((DQN, "image_chw"), (TQC, "box"), (CrossQ, "box")),
]


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
@pytest.mark.parametrize("speed", [NOTHING, "exact"], ids=["alone", "with the rest"])
def test_a_mirror_on_the_same_device_changes_no_bit(algorithm: type[Any], kind: str, speed: Any) -> None:
    expected = copied(training_state(build(algorithm, kind).learn(5 * ROLLOUT)))
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None, speed=speed, rollout_device="cpu")
    agent.learn(5 * ROLLOUT)
    assert not differences(expected, training_state(agent))
    assert patches(agent) == [] and type(agent.policy) is type(build(algorithm, kind).policy)


def test_a_distilled_agent_trains_as_without_a_mirror() -> None:
    states = []
    for device in (None, "cpu"):
        agent = distilled(PPO, "normalized", speed=None, rollout_device=device).learn(5 * ROLLOUT)
        assert agent.distiller.deposits > 0
        states.append(copied((training_state(agent), distillation_state(agent))))
    assert not differences(*states)


class DuringRollouts(BaseCallback):
    """Does something at every step."""

    def __init__(self, action: Any) -> None:
        super().__init__()
        self.action = action

    def _on_step(self) -> bool:
        self.action(self.model)
        return True


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_what_acts_is_the_copy_and_what_is_saved_is_the_policy(algorithm: type[Any], tmp_path: Path) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), "box", distill=None, rollout_device="cpu")
    agent.learn(2 * ROLLOUT)
    mirror = agent.accelerator._mirror.policy
    ours, copies = ({id(p) for p in policy.parameters()} for policy in (agent.policy, mirror))
    assert not ours & copies

    def look(model: Any) -> None:
        parameter = next(model.policy.parameters())
        assert id(parameter) in ours
        with torch.no_grad():
            parameter.add_(1.0)  # as live parameters differ from the copy's between two refreshes
        model.save(tmp_path / "agent")
        saved = algorithm.load(tmp_path / "agent", device="cpu")
        assert not differences(dict(model.policy.state_dict()), dict(saved.policy.state_dict()))
        assert not hasattr(mirror, "optimizer") or mirror.optimizer is None

    agent.learn(ROLLOUT, callback=DuringRollouts(look))
    assert agent.device == torch.device("cpu")


COPIERS = [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))]


@pytest.mark.parametrize("copier", COPIERS, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("device", ["cpu", None])
@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [(PPO, "discrete"), (PPO, "box"), (PPO, "multidiscrete"), (A2C, "box"), (SAC, "box"), (DQN, "discrete")],
)
def test_a_copy_made_in_a_rollout_is_whole(algorithm: type[Any], kind: str, copier: Any, device: Any) -> None:
    twins: list[Any] = []
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None, rollout_device=device)
    agent.learn(4 * ROLLOUT)
    agent.learn(ROLLOUT, callback=DuringRollouts(lambda model: twins or twins.append(copier(model))))
    (twin,) = twins
    assert type(twin) is type(agent)
    assert vars(twin).keys() == vars(agent).keys()
    assert type(twin.policy) is type(agent.policy)
    assert vars(twin.policy).keys() == vars(agent.policy).keys()
    twin.learn(2 * ROLLOUT)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "gsde"), (SAC, "gsde"), (DQN, "discrete")])
def test_nothing_stays_behind_after_an_error(algorithm: type[Any], kind: str, error: Any, monkeypatch: Any) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None, rollout_device="cpu").learn(2 * ROLLOUT)

    def fail(*_: Any) -> Any:
        raise error("in env")

    own = type(build(algorithm, kind).policy)
    with monkeypatch.context() as patch:
        patch.setattr(agent.env, "step_wait", fail)
        with pytest.raises(error, match="in env"):
            agent.learn(ROLLOUT)
    assert type(agent.policy) is own and agent.device == torch.device("cpu")
    assert not [key for key in agent.policy.__dict__ if key.startswith("_rlsd")]
    agent.learn(2 * ROLLOUT)


def test_an_off_policy_mirror_may_lag() -> None:
    agent = build(SAC, "box")
    mirror = Mirror(agent, torch.device("cpu"))
    mirror.refresh(0, every=10)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(1.0)
    live = agent.policy.actor.latent_pi[0].weight
    for steps, same in ((9, False), (10, True)):
        mirror.refresh(steps, every=10)
        assert torch.equal(mirror.policy.actor.latent_pi[0].weight, live) is same
    agent = build(rlsd.SelfDistilled(SAC), "box", distill=None, speed=Speed(mirror_every=64), rollout_device="cpu")
    plain = build(SAC, "box").learn(6 * ROLLOUT)
    assert differences(dict(plain.policy.state_dict()), dict(agent.learn(6 * ROLLOUT).policy.state_dict()))


def test_each_learn_begins_to_act_with_the_parameters_of_now() -> None:
    agent = build(rlsd.SelfDistilled(SAC), "box", distill=None, speed=Speed(mirror_every=10**6), rollout_device="cpu")
    for _ in range(3):
        agent.learn(2 * ROLLOUT)
        stale = agent.accelerator._mirror.policy.actor.latent_pi[0].weight.clone()
        agent.learn(1)
        now = agent.accelerator._mirror.policy.actor.latent_pi[0].weight
        assert not torch.equal(now, stale), "it acts as in the first call for good"


def test_another_policy_gets_another_mirror() -> None:
    agent = build(rlsd.SelfDistilled(PPO), distill=None, rollout_device="cpu").learn(ROLLOUT)
    before = agent.accelerator._mirror
    agent.policy = copy.deepcopy(build(PPO, seed=9).policy)
    agent.learn(ROLLOUT)
    assert agent.accelerator._mirror is not before
    assert agent.accelerator._mirror.is_of(agent)


def test_a_policy_that_holds_tensors_of_a_graph_is_copied() -> None:
    agent = build(PPO)
    agent.policy.last = agent.policy.predict_values(torch.zeros(1, *agent.observation_space.shape))
    mirror = Mirror(agent, torch.device("cpu"))
    assert torch.equal(mirror.policy.last, agent.policy.last) and mirror.policy.last.grad_fn is None


@pytest.mark.parametrize("algorithm", [RecurrentPPO, ARS])
def test_algorithms_that_cannot_act_with_a_copy_are_refused(algorithm: type[Any]) -> None:
    with pytest.raises(ValueError, match=r"rollout_device is not for .*Leave it out"):
        build(rlsd.SelfDistilled(algorithm), "box", distill=None, rollout_device="cpu")
    agent = build(algorithm, "box")
    with pytest.raises(ValueError, match="rollout_device is not for"):
        rlsd.accelerate(agent, rollout_device="cpu")
    assert type(agent) is algorithm


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *((PPO, kind) for kind in ("discrete", "gsde", "image_chw")),
        *((A2C, "box"), (SAC, "box"), (SAC, "gsde"), (TD3, "box"), (DQN, "image_chw"), (CrossQ, "box")),
    ],
)
@pytest.mark.filterwarnings("ignore:You are trying to run")
def test_it_acts_on_the_cpu_and_trains_on_the_gpu(algorithm: type[Any], kind: str, tmp_path: Path) -> None:
    seen = []

    def look(model: Any) -> None:
        seen.append((model.device.type, next(model.policy.parameters()).device.type))
        model.save(tmp_path / "agent")

    agent = build(rlsd.SelfDistilled(algorithm), kind, device="cuda", rollout_device="cpu")
    agent.learn(6 * ROLLOUT, callback=DuringRollouts(look))
    assert set(seen) == {("cpu", "cuda")}
    assert agent.device.type == "cuda" and patches(agent) == []
    mirror = agent.accelerator._mirror
    mirror.refresh(10**9, 1)
    for live, acting in zip(mirror._live, mirror.policy.parameters(), strict=False):
        if len(mirror._live) == len(list(mirror.policy.parameters())):
            assert torch.equal(live.cpu(), acting)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:You are trying to run")
@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "box"), (DQN, "discrete"), (SAC, "box")])
def test_on_the_gpu_exact_is_plain_sb3(algorithm: type[Any], kind: str) -> None:
    plain = build(algorithm, kind, device="cuda").learn(6 * ROLLOUT)
    agent = build(rlsd.SelfDistilled(algorithm), kind, device="cuda", distill=None).learn(6 * ROLLOUT)
    one, other = ({k: v.cpu() for k, v in a.policy.state_dict().items()} for a in (plain, agent))
    assert not differences(one, other)
