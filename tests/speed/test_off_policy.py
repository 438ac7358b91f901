"""The updates of SAC, TD3, DDPG and DQN as the library does them are SB3's, to the last bit."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from agents import build, config, copied, differences, logged, make_env, optimizers, patches, training_state
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import rlsd
from rlsd.speed import off_policy

STEPS = 240  # 56 gradient steps, if no setting says otherwise


def trained(algorithm: type[Any], speed: Any, kind: str = "box", steps: int = STEPS, **changes: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of SB3, about settings that are meant
        agent = build(algorithm, kind, **changes)
    return rlsd.accelerate(agent, speed).learn(steps)


def state_of(agent: Any) -> Any:
    return copied({"training": training_state(agent), "log": logged(agent)})


def by_hand(agent: Any) -> bool:
    return agent.policy in off_policy._UPDATES


def wide(*widths: int, **more: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [*widths], **more}}


SETTINGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "SAC": (SAC, {}),
    "SAC, fixed coefficient": (SAC, {"ent_coef": 0.1}),
    "SAC, starting coefficient": (SAC, {"ent_coef": "auto_0.2", "target_entropy": -1.0}),
    "SAC, one critic": (SAC, wide(8, n_critics=1)),
    "SAC, three critics": (SAC, wide(8, n_critics=3)),
    "SAC, shared extractor": (SAC, wide(8, share_features_extractor=True)),
    "SAC, tanh, unequal": (SAC, {"policy_kwargs": {"net_arch": {"pi": [7], "qf": [9, 5]}, "activation_fn": nn.Tanh}}),
    "SAC, wide": (SAC, {"batch_size": 64, **wide(64, 64)}),
    "SAC, rows that are no power of two": (SAC, {"batch_size": 100, "gradient_steps": 1}),
    "SAC, a step after each": (SAC, {"train_freq": 1, "gradient_steps": -1}),
    "SAC, after each episode": (SAC, {"train_freq": (1, "episode"), "env": 1, "gradient_steps": -1}),
    "SAC, rare targets": (SAC, {"target_update_interval": 3, "gradient_steps": 5, "tau": 0.3}),
    "SAC, memory": (
        SAC,
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ),
    "SAC, n steps": (SAC, {"n_steps": 3}),
    "SAC, schedule": (SAC, {"learning_rate": lambda left: 0.02 * left}),
    "SAC, normalized": (SAC, {"kind": "normalized"}),
    "SAC, betas": (SAC, wide(6, optimizer_kwargs={"betas": (0.8, 0.95), "eps": 1e-7})),
    "TD3": (TD3, {}),
    "TD3, delay": (TD3, {"policy_delay": 3, "target_policy_noise": 0.4, "target_noise_clip": 0.2}),
    "TD3, wide": (TD3, {"batch_size": 100, **wide(40, 30)}),
    "TD3, three critics": (TD3, wide(8, n_critics=3)),
    "TD3, a step after each": (TD3, {"train_freq": 1, "gradient_steps": 1}),
    "DDPG": (DDPG, {}),
    "DQN": (DQN, {"kind": "discrete"}),
    "DQN, clip": (DQN, {"kind": "discrete", "max_grad_norm": 0.05, "tau": 0.5, "batch_size": 30}),
    "DQN, one-hot": (DQN, {"kind": "discrete_observations", "gradient_steps": -1}),
    "DQN, wide": (DQN, {"kind": "discrete", "batch_size": 64, **wide(64, 64)}),
    "DQN, tanh": (DQN, {"kind": "discrete", **wide(8, activation_fn=nn.Tanh)}),
}


def prepared(changes: dict[str, Any]) -> dict[str, Any]:
    if changes.get("env") == 1:
        changes = {**changes, "env": make_env("box", 1)}
    return changes


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_exact_update_is_bit_identical_to_sb3s(setting: str) -> None:
    algorithm, changes = SETTINGS[setting]
    plain, exact = (trained(algorithm, speed, **prepared(changes)) for speed in (None, "exact"))
    assert by_hand(exact), "SB3's own update ran"
    assert exact._n_updates >= 28, "nothing was learned"
    assert not differences(state_of(plain), state_of(exact))


@pytest.mark.parametrize(
    "setting", ["SAC", "SAC, fixed coefficient", "SAC, three critics", "SAC, wide", "TD3", "TD3, wide", "DDPG", "DQN"]
)
def test_a_quick_step_is_sb3s_within_a_millionth(setting: str) -> None:
    algorithm, changes = SETTINGS[setting]
    changes = prepared(changes) | {"learning_rate": 1e-3}
    plain, quick = (trained(algorithm, speed, **changes) for speed in (None, "exact"))
    rlsd.accelerate(quick, rlsd.Speed(fused_adam=True))
    for _ in range(10):
        with torch.no_grad():
            for mine, its in zip(quick.policy.parameters(), plain.policy.parameters(), strict=True):
                mine.copy_(its)
        for agent in (plain, quick):
            np.random.seed(1)  # noqa: NPY002 - SB3's generator
            torch.manual_seed(1)
            agent.train(gradient_steps=1, batch_size=agent.batch_size)
        assert off_policy._UPDATES[quick.policy][0][1], "the quick update did not run"
        for mine, its in zip(quick.policy.parameters(), plain.policy.parameters(), strict=True):
            assert (mine - its).abs().max() <= 1e-6 * (1 + its.abs().max()), "more than rounding"
        for key, value in plain.logger.name_to_value.items():
            assert quick.logger.name_to_value[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


class _OwnCritic(SAC):
    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        super().train(gradient_steps, batch_size)


LEFT_TO_SB3: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "gSDE": (SAC, {"kind": "gsde"}),
    "a train of its own": (_OwnCritic, {}),
    "images": (SAC, {"kind": "box_image"}),
    "dictionaries": (TD3, {"kind": "box_dict"}),
    "hindsight": (SAC, {"kind": "box_goal"}),
    "another activation": (SAC, wide(6, activation_fn=nn.ELU)),
    "no hidden layer": (SAC, wide()),
    "weight decay": (TD3, wide(6, optimizer_kwargs={"weight_decay": 0.01})),
    "another optimizer": (DQN, {"kind": "discrete", **wide(6, optimizer_class=torch.optim.RMSprop)}),
    "TQC": (TQC, {}),
    "CrossQ": (CrossQ, {}),
    "QRDQN": (QRDQN, {"kind": "discrete"}),
}


@pytest.mark.parametrize("setting", LEFT_TO_SB3)
def test_what_is_not_known_by_hand_is_left_to_sb3(setting: str) -> None:
    algorithm, changes = LEFT_TO_SB3[setting]
    plain, exact = (trained(algorithm, speed, steps=60, **changes) for speed in (None, "exact"))
    assert not by_hand(exact)
    assert exact._n_updates >= 5, "nothing was learned"
    assert not differences(state_of(plain), state_of(exact))


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
@pytest.mark.parametrize("change", ["forward hook", "gradient hook", "layer", "optimizer"])
def test_what_changes_while_it_learns_is_noticed(algorithm: type[Any], change: str) -> None:
    """A hook, another layer, another optimizer: from then on as SB3 does it, or by hand with what is new."""
    agents = []
    for speed in (None, "exact"):
        agent = trained(algorithm, speed, "discrete" if algorithm is DQN else "box", steps=60)
        network = agent.q_net.q_net if algorithm is DQN else agent.critic.q_networks[0]
        optimizer = agent.policy.optimizer if algorithm is DQN else agent.critic.optimizer
        if change == "forward hook":
            network[0].register_forward_hook(lambda module, args, out: out * 1.5)
        elif change == "gradient hook":
            network[0].weight.register_hook(lambda gradient: gradient * 0.5)
        elif change == "layer":
            network[0] = copy.deepcopy(network[0]).requires_grad_(False)
        else:
            optimizer.param_groups[0]["weight_decay"] = 0.1
        agents.append(agent.learn(60, reset_num_timesteps=False))
    assert not differences(state_of(agents[0]), state_of(agents[1]))


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
@pytest.mark.parametrize("speed", ["exact", "max"])
def test_a_distilled_agent_learns_the_same(algorithm: type[Any], speed: str) -> None:
    kind = "discrete" if algorithm is DQN else "box"
    agents = []
    for how in (None, speed):
        agent = build(rlsd.SelfDistilled(algorithm), kind, distill=config(), speed=how, learning_rate=1e-3)
        agents.append(agent.learn(STEPS))
    plain, quick = agents
    assert by_hand(quick) and not by_hand(plain)
    assert plain.distiller.deposits == quick.distiller.deposits > 0, "nothing was distilled"
    assert not patches(quick)
    if speed == "exact":
        assert not differences(state_of(plain), state_of(quick))
    shown, its = (
        {key: value for key, value in agent.distiller.present_figures().items() if "time" not in key}
        for agent in agents
    )
    assert its == pytest.approx(shown, rel=1e-2, abs=1e-4)
    assert "distill/grad_ratio" in shown, "gradients were not compared"


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
def test_an_agent_that_was_updated_by_hand_is_copied_pickled_and_saved(algorithm: type[Any], tmp_path: Any) -> None:
    agent = trained(algorithm, "exact", "discrete" if algorithm is DQN else "box", steps=80)
    expected = copied(dict(agent.policy.state_dict()))
    agent.save(tmp_path / "agent.zip")
    for other in (
        copy.deepcopy(agent.policy),
        pickle.loads(pickle.dumps(agent.policy)),
        algorithm.load(tmp_path / "agent.zip").policy,
    ):
        assert not differences(expected, dict(other.state_dict()))
    loaded = algorithm.load(tmp_path / "agent.zip")
    ours, its = optimizers(agent), optimizers(loaded)
    for name, optimizer in ours.items():
        assert not differences(copied(optimizer.state_dict()), its[name].state_dict())


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
def test_hooks_of_optimizers_are_called_as_often(algorithm: type[Any]) -> None:
    calls: dict[str, list[int]] = {}
    for speed in ("none", "exact"):
        agent = build(algorithm, "discrete" if algorithm is DQN else "box")
        rlsd.accelerate(agent, None if speed == "none" else speed)
        count = calls[speed] = [0, 0]
        for optimizer in optimizers(agent).values():

            def before(*_: Any, count: list[int] = count) -> None:
                count[0] += 1

            def after(*_: Any, count: list[int] = count) -> None:
                count[1] += 1

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
        agent.learn(60)
        assert by_hand(agent) is (speed == "exact")
    assert calls["none"] == calls["exact"] and min(calls["exact"]) > 5


@pytest.mark.parametrize("algorithm", [SAC])
def test_an_actor_that_gives_nan_is_refused_as_in_sb3(algorithm: type[Any]) -> None:
    agent = trained(algorithm, "exact", steps=60)
    with torch.no_grad():
        agent.actor.mu.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        agent.train(gradient_steps=1, batch_size=8)


def test_gradients_that_are_not_autograds_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> Any:
        yield [torch.ones(2)], [torch.ones(2) + 2**-20]

    monkeypatch.setattr("rlsd.speed.update_sac.SACUpdate.compare", wrong)
    assert not by_hand(trained(SAC, "exact", steps=60))
    assert by_hand(trained(SAC, rlsd.Speed(fused_adam=True), steps=60)), "within what may round otherwise"


def test_statistics_of_a_normalized_environment_are_used() -> None:
    agent = trained(SAC, "exact", "normalized", steps=60)
    assert isinstance(agent.get_env(), VecNormalize) and by_hand(agent)


def test_noise_of_actions_is_left_alone() -> None:
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    plain, exact = (trained(SAC, speed, action_noise=copy.deepcopy(noise)) for speed in (None, "exact"))
    assert not differences(state_of(plain), state_of(exact))
