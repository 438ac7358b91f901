"""PPO's update as the library does it is SB3's: parameters, optimizer, log, random numbers, to the last bit."""

from __future__ import annotations

import copy
import pickle
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from agents import N_ENVS, build, config, copied, differences, generators, logged, make_env, patches
from gymnasium import spaces
from helpers import vec_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

import rlsd
from rlsd.distiller import Distiller
from rlsd.speed import update, update_blocks, update_check, update_eager, update_hand
from rlsd.speed.mlp import Preprocessor
from rlsd.speed.update_blocks import Block
from rlsd.speed.update_heads import DiscreteHead, GaussianHead, LogProbsOfTwo

ROLLOUTS = 12  # of two epochs of two minibatches: 48 gradient steps


class Plain(PPO):
    """SB3's update; with a distiller, inside its context."""

    distiller = None

    def train(self):
        with nullcontext() if self.distiller is None else self.distiller.armed(self):
            self.update()

    def update(self):
        super().train()


class Owned(Plain):
    def update(self):
        update.train(self, exact=True)


class Quick(Plain):
    def update(self):
        update.train(self, exact=False)


def trained(algorithm, kind="discrete", distill=None, rollouts=ROLLOUTS, **changes):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mini-batch size")  # truncated minibatches are meant
        agent = build(algorithm, kind, **changes)
    if distill is not None:
        agent.distiller = Distiller(distill, agent)
    agent.learn(rollouts * N_ENVS * agent.n_steps)
    return agent


def state(agent):
    """All that an update changes."""
    return {
        "policy": dict(agent.policy.state_dict()),
        "optimizer": agent.policy.optimizer.state_dict(),
        "gradients": [p.grad for p in agent.policy.parameters()],
        "log": logged(agent),
        "updates": agent._n_updates,
        "generators": generators(),
        "buffer": [agent.rollout_buffer.values, agent.rollout_buffer.observations],
        "distillation": None if agent.distiller is None else agent.distiller.state(),
    }


def state_of(algorithm, **changes):
    return copied(state(trained(algorithm, **changes)))


SETTINGS = {
    "discrete": {},
    "box": {"kind": "box"},
    "discrete without entropy": {"ent_coef": 0.0},
    "box without entropy": {"kind": "box", "ent_coef": 0.0},
    "odd coefficients": {"kind": "box", "ent_coef": 0.037, "vf_coef": 0.71, "max_grad_norm": 0.03},
    "value clipping": {"clip_range_vf": 0.1, "clip_range": 0.07},
    "value clipping box": {"kind": "box", "clip_range_vf": 0.1},
    "early stopping": {"target_kl": 0.003, "n_epochs": 5},
    "early stopping box": {"kind": "box", "target_kl": 0.01, "n_epochs": 5},
    "early stopping in one epoch": {"target_kl": 1e-9, "n_epochs": 5},
    "advantages as they are": {"normalize_advantage": False},
    "truncated minibatch": {"batch_size": 7},
    "truncated minibatch of one": {"batch_size": 5, "n_steps": 8},
    "one minibatch": {"batch_size": 16, "n_epochs": 7},
    "larger than the rollout": {"batch_size": 50},
    "schedules": {"learning_rate": lambda left: 0.02 * left, "clip_range": lambda left: 0.1 + 0.2 * left},
    "relu, unequal towers": {"policy_kwargs": {"net_arch": {"pi": [5, 1, 9], "vf": [33]}, "activation_fn": nn.ReLU}},
    "no hidden layers": {"kind": "box", "policy_kwargs": {"net_arch": []}},
    "wide": {"kind": "box", "policy_kwargs": {"net_arch": [64, 64]}, "n_steps": 64, "batch_size": 64},
    "separate extractors": {"policy_kwargs": {"net_arch": [6], "share_features_extractor": False}},
    "discrete observations": {"kind": "discrete_observations"},
    "normalized": {"kind": "normalized"},
    "elu, by autograd": {"policy_kwargs": {"net_arch": [6], "activation_fn": nn.ELU}},
    "cnn": {"kind": "image_chw", "rollouts": 6},
    "cnn, box": {"kind": "image_chw", "rollouts": 3, "target_kl": 0.01, "clip_range_vf": 0.1},
    "own betas": {"policy_kwargs": {"net_arch": [6], "optimizer_kwargs": {"betas": (0.8, 0.95), "eps": 1e-7}}},
    "weight decay": {"policy_kwargs": {"net_arch": [6], "optimizer_kwargs": {"weight_decay": 0.01}}},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_exact_update_is_bit_identical_to_sb3s(setting):
    changes = SETTINGS[setting]
    theirs, ours = state_of(Plain, **changes), state_of(Owned, **changes)
    assert not differences(theirs, ours), "an update differs from SB3's"


#: Whose features take more than what they are made of, by as much as 32 times.
GROWING = [
    spaces.Discrete(500),
    spaces.MultiDiscrete([40, 60]),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.MultiBinary(30),
]


@pytest.mark.parametrize("cls", [Owned, Quick])
@pytest.mark.parametrize("space", GROWING, ids=lambda space: type(space).__name__)
def test_observations_that_grow_are_preprocessed_for_each_minibatch_and_no_bit_differs(cls, space, monkeypatch):
    monkeypatch.setattr(update_blocks, "_ROOM", 0)
    sizes, preprocess = [], Preprocessor.__call__
    monkeypatch.setattr(Preprocessor, "__call__", lambda self, seen: sizes.append(len(seen)) or preprocess(self, seen))
    settings = {"batch_size": 10, "n_steps": 16}
    ours, theirs = (trained(one, env=vec_env(space, n=N_ENVS), **settings) for one in (cls, Plain))
    assert max(sizes) == 10, "a minibatch at a time"
    if cls is Owned:
        assert not differences(state(theirs), state(ours))
    assert all(bench.block.rollout is None for bench in update_hand.workspace_of(ours, cls is Quick).benches)


def test_a_network_of_very_many_inputs_is_left_to_autograd():
    ours, theirs = (trained(one, env=vec_env(spaces.Discrete(5000), n=N_ENVS), rollouts=1) for one in (Owned, Plain))
    assert not update_hand.can_work_on(ours)
    assert not differences(state(theirs), state(ours))


def test_observations_that_stay_small_are_preprocessed_once():
    sizes, rollout = [], trained(Owned, "discrete_observations", rollouts=1).rollout_buffer
    update_blocks.Rollout(rollout, lambda seen: sizes.append(len(seen)) or seen.float())
    assert sizes == [1, len(rollout.observations)]


@pytest.mark.parametrize("kind", ["discrete", "box", "image_chw"])
@pytest.mark.parametrize("stride", [1, 3])
def test_an_exact_update_is_bit_identical_with_distillation(kind, stride):
    answers = config(timing=rlsd.EveryStep(stride=stride))
    theirs, ours = (state_of(cls, kind=kind, distill=answers, rollouts=6) for cls in (Plain, Owned))
    assert ours["distillation"]["penalty"]["deposits"] > 0, "nothing was distilled"
    assert not differences(theirs, ours), "an update differs from SB3's under distillation"


def test_figures_of_the_distillation_are_the_same():
    agents = [trained(cls, distill=config(), rollouts=6) for cls in (Plain, Owned)]
    theirs, ours = ({k: v for k, v in a.distiller.present_metrics().items() if "time" not in k} for a in agents)
    assert theirs == pytest.approx(ours, rel=1e-6), "the distillation measured something else"
    assert "distill/grad_ratio" in ours, "gradients were not compared"


@pytest.mark.parametrize("setting", [s for s in SETTINGS if "cnn" not in s])
def test_perceptrons_are_known_by_hand_here(setting):
    agent = trained(Owned, **SETTINGS[setting] | {"rollouts": 1})
    known = not ({"elu, by autograd", "weight decay"} & {setting})
    verdicts = update_check._VERDICTS.get(agent.policy, {})
    assert list(verdicts.values()) == [True] * known, "gradients by hand were not used, or were and should not be"


@pytest.mark.parametrize(
    "setting", ["discrete", "box", "value clipping box", "early stopping", "wide", "one minibatch"]
)
def test_a_quick_update_equals_sb3s_up_to_rounding(setting):
    changes = SETTINGS[setting] | {"learning_rate": 1e-3, "rollouts": 1}
    plain, quick = trained(Plain, **changes), trained(Quick, **changes)
    np.random.seed(0)  # noqa: NPY002 - SB3's generator
    for _ in range(10):
        PPO.train(plain)
    np.random.seed(0)  # noqa: NPY002
    for _ in range(10):
        quick.train()
    for a, b in zip(plain.policy.parameters(), quick.policy.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6 * (1 + a.abs().max()), "parameters differ by more than rounding"
    for key, value in plain.logger.name_to_value.items():
        assert quick.logger.name_to_value[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_a_quick_update_distils():
    answers = config(timing=rlsd.EveryStep(stride=2))
    plain, quick = (trained(cls, distill=answers, rollouts=3, learning_rate=1e-3) for cls in (Plain, Quick))
    assert quick.distiller.deposits == plain.distiller.deposits > 0, "nothing was distilled"
    for a, b in zip(plain.policy.parameters(), quick.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(
    rows=st.integers(2, 40),
    actions=st.integers(1, 6),
    discrete=st.booleans(),
    quick=st.booleans(),
    entropy=st.sampled_from([0.0, 0.013]),
    seed=st.integers(0, 999),
)
def test_closed_forms_are_autograds(rows, actions, discrete, quick, entropy, seed):
    torch.manual_seed(seed)
    block = Block(1, rows, 1, None if discrete else actions)
    log_std = nn.Parameter(torch.randn(actions) * 0.3)
    into = torch.empty(actions)
    head = DiscreteHead(block, actions, quick) if discrete else GaussianHead(block, log_std, into, quick)
    output = torch.randn(rows, actions, requires_grad=True)
    block.actions.copy_(torch.randint(actions, (1, rows, 1)) if discrete else torch.randn(1, rows, actions))
    slope = torch.randn(rows)
    if discrete:
        log_prob, logits = update_eager._categorical(output, block.actions[0, :, 0])
        entropies = -(logits * logits.softmax(-1)).sum(-1)
    else:
        log_prob, scale = update_eager._normal(output, log_std, block.actions[0])
        entropies = torch.distributions.Normal(output, scale).entropy().sum(-1)
    objective = (slope * log_prob).sum() - entropy * entropies.sum()
    theirs = torch.autograd.grad(objective, [output, log_std], allow_unused=True)
    with torch.no_grad():
        (row,) = block.rows[0]
        head.log_prob(row, output.detach())
        ours = head.backward(row, slope.numpy(), np.float32(entropy))
    torch.testing.assert_close(row.log_probs, log_prob.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.entropies(1)[0], entropies.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)
    if not discrete:
        torch.testing.assert_close(into, theirs[1], rtol=1e-4, atol=1e-4)


@given(rows=st.integers(1, 70), scale=st.floats(-6, 2), seed=st.integers(0, 2**16))
def test_log_probabilities_of_two_choices_are_torchs_to_the_last_bit(rows, scale, seed):
    logits = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed)) * 10**scale
    logits[::3, 1] = logits[::3, 0]  # equally likely
    found = torch.empty(rows, 2)
    LogProbsOfTwo(rows)(logits.numpy(), found.numpy())
    assert torch.equal(found, logits - logits.logsumexp(-1, keepdim=True))


def test_a_ratio_that_equals_its_bound_only_by_rounding_gets_autograds_gradient():
    agent = trained(Owned, rollouts=1, n_steps=64, batch_size=128)
    space = update_hand.workspace_of(agent, quick=False)
    (bench,) = space.benches
    (row,) = bench.block.rows[0]
    ratio = np.nextafter(np.float32(1.2), np.float32(2))
    row.advantages[...] = np.random.default_rng(0).normal(size=len(row.advantages)).astype(np.float32)
    leaf = torch.full((len(row.advantages),), float(ratio), requires_grad=True)
    advantages = torch.from_numpy(row.advantages)
    loss = -torch.min(advantages * leaf, advantages * torch.clamp(leaf, 0.8, 1.2)).mean()
    (theirs,) = torch.autograd.grad(loss, leaf)
    row.ratios_array[...], bench.clipped[...] = ratio, np.float32(1.2)
    np.multiply(row.advantages, row.ratios_array, row.plain)
    np.multiply(row.advantages, bench.clipped, row.clipped)
    row.slopes[...] = row.advantages * (np.float32(-1) / np.float32(len(row.advantages)))
    step = update_hand.Step(agent, space.adam, update_hand.Coefficients(0.2, None, 0.0, 0.5, 0.5), quick=False)
    step._slope_of_log_probs(bench, row)
    assert (row.plain == row.clipped).any(), "the example shows nothing"
    assert torch.equal(torch.from_numpy(bench.slope), theirs * leaf.detach()), "the gradient differs from autograd's"


def test_early_stopping_is_announced_as_sb3_does(capsys):
    said = []
    for cls in (Plain, Owned):
        trained(cls, target_kl=0.003, n_epochs=5, verbose=1, rollouts=3)
        said.append([line for line in capsys.readouterr().out.splitlines() if "Early" in line])
    assert said[0] and said[0] == said[1], "SB3 says something else"


@pytest.mark.parametrize("cls", [Owned, Quick])
@pytest.mark.parametrize("kind", ["discrete", "box", "image_chw"])
def test_nothing_is_left_behind(cls, kind):
    agent = build(cls, kind)
    names = [set(vars(agent.policy)), set(vars(agent.policy.optimizer))]
    before = [p.data_ptr() for p in agent.policy.parameters()]
    agent.learn(4 * N_ENVS * agent.n_steps)
    assert [set(vars(agent.policy)), set(vars(agent.policy.optimizer))] == names, "an attribute was left behind"
    assert not patches(agent), "a patch was left behind"
    assert [p.data_ptr() for p in agent.policy.parameters()] == before, "a parameter has other storage"


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_a_copy_made_right_after_shares_nothing(kind):
    agent = trained(Owned, kind, rollouts=2)
    _forget_distribution(agent.policy)
    copy_of = copy.deepcopy(agent.policy)
    storages = {t.untyped_storage().data_ptr() for t in _tensors(agent.policy)}
    assert not storages & {t.untyped_storage().data_ptr() for t in _tensors(copy_of)}, "the copy shares storage"
    assert len(storages) == len(_tensors(agent.policy)), "parameters and state of the agent share storage"
    pickled = pickle.dumps(agent.policy.state_dict())
    assert len(pickled) < 4 * sum(p.numel() for p in agent.policy.parameters()) + 6000, "pickling takes more along"
    assert not differences(dict(agent.policy.state_dict()), dict(pickle.loads(pickled))), "pickling lost something"


def test_a_saved_agent_goes_on_as_if_it_had_not_stopped(tmp_path):
    agent = trained(Owned, rollouts=2)
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", make_env("discrete"), device="cpu")
    assert not differences(dict(agent.policy.state_dict()), dict(loaded.policy.state_dict())), "parameters differ"
    ours, theirs = agent.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert not differences(ours, theirs), "the optimizer's state differs"


def test_parameters_loaded_between_updates_are_taken_up():
    theirs, ours = trained(Plain, rollouts=2), trained(Owned, rollouts=2)
    for agent in (theirs, ours):
        parameters = agent.get_parameters()
        agent.set_parameters({k: copied(v) for k, v in parameters.items()})
        with torch.no_grad():
            for p in agent.policy.parameters():
                p.mul_(0.5)
        np.random.seed(1)  # noqa: NPY002
        agent.train()
    assert not differences(dict(theirs.policy.state_dict()), dict(ours.policy.state_dict())), "old ones were used"


@pytest.mark.parametrize("kind", ["discrete", "box", "image_chw"])
def test_an_agent_that_has_diverged_is_refused_as_by_sb3(kind):
    for cls in (Plain, Owned, Quick):
        agent = trained(cls, kind, rollouts=2)
        agent.rollout_buffer.advantages[3] = np.inf
        with pytest.raises(ValueError, match="distribution"):
            agent.train()
        assert not patches(agent), "a patch was left behind"


def test_where_bits_differ_autograd_is_used(monkeypatch):
    monkeypatch.setattr(update_check, "_same", lambda *_: False)
    monkeypatch.setattr(update_hand, "train", lambda *_, **__: pytest.fail("gradients by hand were used"))
    ours = trained(Owned, rollouts=2)
    monkeypatch.undo()
    theirs = trained(Plain, rollouts=2)
    assert not differences(dict(theirs.policy.state_dict()), dict(ours.policy.state_dict())), "autograd's differs"


def test_hooks_of_others_see_what_they_see_in_sb3():
    def gradients(cls):
        agent, told = build(cls, "box"), {}
        for name, p in agent.policy.named_parameters():
            keep = told.setdefault(name, [])
            p.register_post_accumulate_grad_hook(lambda p, keep=keep: keep.append(p.grad.clone()))
        end = told.setdefault("step", [])
        agent.policy.optimizer.register_step_pre_hook(
            lambda *_: end.extend(p.grad.clone() for p in agent.policy.parameters())
        )
        agent.learn(2 * N_ENVS * agent.n_steps)
        return told

    theirs = gradients(Plain)
    assert theirs["log_std"] and theirs["step"], "the hooks were never called"
    assert not differences(theirs, gradients(Owned)), "a hook saw another gradient"


def test_hooks_that_change_gradients_are_obeyed():
    def parameters(cls):
        agent = build(cls, "box")
        agent.policy.log_std.register_hook(lambda gradient: gradient * 3)
        agent.learn(2 * N_ENVS * agent.n_steps)
        return dict(agent.policy.state_dict())

    assert not differences(parameters(Plain), parameters(Owned)), "a gradient hook was passed over"


class _OwnEvaluation(ActorCriticPolicy):
    def evaluate_actions(self, obs, actions):
        return super().evaluate_actions(obs, actions)


class _OwnTraining(PPO):
    def train(self):
        super().train()


class _Sgd(torch.optim.SGD):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)


def _full(algorithm=PPO, kind="discrete", **changes):
    agent = build(algorithm, kind, **changes)
    agent.rollout_buffer.full = True
    return agent


@pytest.mark.parametrize("kind", ["discrete", "box", "image_chw", "normalized", "discrete_observations"])
def test_plain_agents_are_owned(kind):
    assert update.can_own(_full(kind=kind)), "an agent that is SB3's own was refused"
    assert update.can_own(_full(rlsd.SelfDistilled(PPO), kind)), "a wrapped agent was refused"


def _with_scheduler():
    agent = _full()
    torch.optim.lr_scheduler.StepLR(agent.policy.optimizer, 1)
    return agent


@pytest.mark.parametrize(
    "agent",
    [
        lambda: _full(kind="gsde"),
        lambda: _full(kind="gsde_squashed"),
        lambda: _full(kind="multidiscrete"),
        lambda: _full(kind="multibinary"),
        lambda: _full(kind="dict"),
        lambda: _full(kind="regularized"),
        lambda: _full(policy_kwargs={"optimizer_class": _Sgd, "optimizer_kwargs": {}}),
        lambda: _full(_OwnTraining),
        lambda: _full(A2C),
        lambda: PPO(_OwnEvaluation, make_env("discrete"), n_steps=8, batch_size=8, device="cpu"),
        _with_scheduler,
        lambda: build(PPO),
    ],
    ids=[
        *("gsde", "squashed", "multidiscrete", "multibinary", "dict", "own extractor", "sgd", "own train", "a2c"),
        *("own evaluation", "scheduler", "no rollout"),
    ],
)
def test_anything_else_is_left_to_sb3(agent):
    assert not update.can_own(agent()), "an agent was owned whose update may be another"


def _tensors(policy):
    state_tensors = [t for entry in policy.optimizer.state.values() for t in entry.values()]
    return [*policy.parameters(), *state_tensors]


def _forget_distribution(policy):
    # As SB3's rollouts leave it: tensors with a graph, which no policy can be copied with.
    policy.action_dist.distribution = None


def test_spaces_of_the_examples_are_those_meant():
    assert isinstance(build(PPO, "box").action_space, spaces.Box)
    assert isinstance(build(PPO).action_space, spaces.Discrete)
