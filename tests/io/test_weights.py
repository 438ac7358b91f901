"""Weights taken from a zip that anybody may have made: the tensors, nothing else, and all of them or none."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from agents import copied, differences
from gymnasium import spaces
from helpers import ALGORITHMS, disturb, small_agent, small_ppo, vec_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import recursive_getattr

import rlsd


def trained(name: str, **kwargs):
    agent = small_agent(name, **kwargs)
    agent.learn(24)
    disturb(agent.policy, 0.1)
    return agent


def weights_of(agent) -> dict[str, object]:
    """All that ``load_weights`` may change."""
    names, variables = agent._get_torch_save_params()
    held = {name: recursive_getattr(agent, name) for name in [*names, *variables]}
    return {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in held.items()}


def saved(agent, folder) -> Path:
    agent.save(folder / "agent.zip")
    return folder / "agent.zip"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_weights_of_every_algorithm_are_taken_over(name, tmp_path):
    original = trained(name)
    other = small_agent(name, seed=1)
    before = {key: value for key, value in vars(other).items() if isinstance(value, (int, float, str))}
    assert differences(weights_of(original), weights_of(other))
    rlsd.load_weights(saved(original, tmp_path), other)
    assert not differences(weights_of(original), weights_of(other))
    for key, value in before.items():
        assert getattr(other, key) == value, f"{key} was taken over too"
    observations = np.random.default_rng(0).uniform(-1, 1, (9, 3)).astype(np.float32)
    for one, same in zip(
        original.predict(observations, deterministic=True), other.predict(observations, deterministic=True), strict=True
    ):
        assert not differences(one, same)
    other.learn(24)
    assert differences(weights_of(original), weights_of(other)), "it trains on by itself"


def test_ars_goes_on_from_the_weights_that_were_loaded(tmp_path):
    original, other = trained("ARS"), small_agent("ARS", seed=1)
    original.policy.load_from_vector(original.weights.numpy())
    rlsd.load_weights(saved(original, tmp_path), other)
    assert torch.equal(other.weights, original.weights)


@pytest.mark.parametrize("path", [str, Path, lambda p: p.removesuffix(".zip")])
def test_a_path_may_be_given_as_sb3_takes_it(path, tmp_path):
    original, other = small_ppo(seed=1), small_ppo()
    rlsd.load_weights(path(str(saved(original, tmp_path))), other)
    assert not differences(weights_of(original), weights_of(other))


def test_a_distilled_agents_weights_fit_a_plain_one_and_the_other_way_round(tmp_path):
    wrapped, plain = small_agent("PPO", wrap=rlsd.SelfDistilled), small_agent("PPO", seed=1)
    rlsd.load_weights(saved(wrapped, tmp_path), plain)
    assert not differences(weights_of(wrapped), weights_of(plain))
    disturb(plain.policy)
    distiller = wrapped.distiller
    rlsd.load_weights(saved(plain, tmp_path), wrapped)
    assert not differences(weights_of(wrapped), weights_of(plain))
    assert wrapped.distiller is distiller


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        rlsd.load_weights(tmp_path / "nothing", small_ppo())


# No code


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_code_in_the_data_entry_is_not_run(tmp_path):
    agent, trace = small_ppo(seed=1), tmp_path / "ran"
    agent.evil = Evil(trace)
    file = saved(agent, tmp_path)
    PPO.load(file)
    assert trace.exists(), "SB3's own load runs it, else this tests nothing"
    trace.rmdir()
    other = small_ppo()
    rlsd.load_weights(file, other)
    assert not trace.exists()
    assert not differences(weights_of(agent), weights_of(other))


def replaced(file: Path, entry: str, content: bytes | None, compression: int = zipfile.ZIP_STORED) -> Path:
    """Another zip in which one entry holds something else, or is missing."""
    target = file.with_name("changed.zip")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(target, "w") as out:
        for info in archive.infolist():
            if info.filename != entry:
                out.writestr(info.filename, archive.read(info), compress_type=zipfile.ZIP_STORED)
            elif content is not None:
                out.writestr(entry, content, compress_type=compression)
    return target


def as_pth(value: object, **kwargs: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("write", [pickle.dumps, as_pth, lambda v: as_pth(v, _use_new_zipfile_serialization=False)])
@pytest.mark.parametrize("entry", ["policy.pth", "policy.optimizer.pth"])
def test_code_in_a_tensor_entry_is_an_error_and_is_not_run(entry, write, tmp_path):
    trace, agent = tmp_path / "ran", small_ppo()
    file = replaced(saved(small_ppo(seed=1), tmp_path), entry, write({"evil": Evil(trace)}))
    before = copied(weights_of(agent))
    with pytest.raises(ValueError, match=r"changed\.zip"):
        rlsd.load_weights(file, agent)
    assert not trace.exists()
    assert not differences(before, weights_of(agent))


# What does not fit


def change(of: dict, **changes) -> dict:
    return {**of, **changes}


def without(state: dict, key: str) -> dict:
    return {name: value for name, value in state.items() if name != key}


WEIGHT = "action_net.weight"
WRONG = {
    "shape": (lambda s: change(s, **{WEIGHT: s[WEIGHT].T.contiguous()}), r"'action_net\.weight' is \(64, 2\)"),
    "dtype": (
        lambda s: change(s, **{WEIGHT: s[WEIGHT].double()}),
        r"torch\.float64, \(2, 64\) torch\.float32 expected",
    ),
    "missing": (lambda s: without(s, WEIGHT), "the agent has it and the file does not"),
    "extra": (lambda s: change(s, more=torch.ones(1)), "the file has it and the agent does not"),
    "no tensor": (lambda s: change(s, **{WEIGHT: [1.0, 2.0]}), "is list"),
    "number as name": (lambda s: change(s) | {5: torch.ones(1)}, "the file has it and the agent does not"),
    "no dict": (lambda s: [1, 2], "holds a list, not named tensors"),
    "a tensor": (lambda s: torch.ones(3), "holds a Tensor, not named tensors"),
    "empty": (lambda s: {}, "the agent has it and the file does not"),
}


@pytest.mark.parametrize(("make", "said"), WRONG.values(), ids=WRONG.keys())
def test_tensors_that_do_not_fit_are_an_error_that_names_them(make, said, tmp_path):
    agent = small_ppo()
    changed = make(dict(small_ppo(seed=1).policy.state_dict()))
    file = replaced(saved(small_ppo(seed=1), tmp_path), "policy.pth", as_pth(changed))
    assert_refused(file, agent, said)


def assert_refused(file: Path, agent, said: str | None = None) -> None:
    before = copied(weights_of(agent))
    with pytest.raises(ValueError, match=said) as caught:
        rlsd.load_weights(file, agent)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert not differences(before, weights_of(agent)), "the agent was changed"


WRONG_OPTIMIZERS = {
    "too few": lambda s: change(s, param_groups=[change(s["param_groups"][0], params=[0, 1])]),
    "no state": lambda s: without(s, "state"),
    "no groups": lambda s: without(s, "param_groups"),
    "unknown parameter": lambda s: change(s, state={99: s["state"][0]}),
    "shape": lambda s: change(s, state=s["state"] | {0: change(s["state"][0], exp_avg=torch.ones(7, 7))}),
    "type": lambda s: change(s, state={0: {n: v.double() for n, v in s["state"][0].items()}}),
    "no count of steps": lambda s: change(s, state=s["state"] | {0: without(s["state"][0], "step")}),
    "numbers for moments": lambda s: change(s, state=s["state"] | {0: change(s["state"][0], exp_avg=3.0)}),
    "groups of numbers": lambda s: change(s, param_groups=[1, 2]),
    "state of one parameter for another": lambda s: change(s, state={0: s["state"][1]}),
    "state of numbers": lambda s: change(s, state={0: 3}),
}


@pytest.mark.parametrize("make", WRONG_OPTIMIZERS.values(), ids=WRONG_OPTIMIZERS.keys())
def test_an_optimizers_state_that_does_not_fit_is_an_error(make, tmp_path):
    original = trained("PPO")
    changed = make(original.policy.optimizer.state_dict())
    file = replaced(saved(original, tmp_path), "policy.optimizer.pth", as_pth(changed))
    assert_refused(file, trained("PPO", seed=1))


OPTIMIZERS: dict[str, dict[str, object]] = {
    "RMSprop": {},  # SB3's default for A2C
    "Adam": {"use_rms_prop": False},
    "AMSGrad": {"use_rms_prop": False, "policy_kwargs": {"net_arch": [6], "optimizer_kwargs": {"amsgrad": True}}},
    "SGD": {"use_rms_prop": False, "policy_kwargs": {"net_arch": [6], "optimizer_class": torch.optim.SGD}},
    "momentum": {
        "use_rms_prop": False,
        "policy_kwargs": {
            "net_arch": [6],
            "optimizer_class": torch.optim.SGD,
            "optimizer_kwargs": {"momentum": 0.9},
        },
    },
}


@pytest.mark.parametrize(
    ("mine", "theirs", "steps"),
    [
        (mine, theirs, 24 * (number % 2))
        for number, (mine, theirs) in enumerate(itertools.product(OPTIMIZERS, repeat=2))
    ],
)
def test_the_state_of_another_optimizer_is_an_error(mine, theirs, steps, tmp_path):
    file = saved(trained("A2C", **OPTIMIZERS[theirs]), tmp_path)
    agent = small_agent("A2C", seed=1, **OPTIMIZERS[mine]).learn(steps)
    if mine == theirs or theirs == "SGD":  # which keeps nothing
        rlsd.load_weights(file, agent)
    else:
        assert_refused(file, agent, "policy.optimizer, parameter 0 does not fit this agent: '")
    agent.learn(24)


@pytest.mark.parametrize(
    "regroup",
    [
        lambda groups: [change(groups[0], lr=9.0, betas=(0.0, 0.0), eps=7.0, weight_decay=3.0)],
        lambda groups: [{"params": groups[0]["params"]}],
        lambda groups: [change(groups[0], params=[0, 1]), change(groups[0], params=groups[0]["params"][2:])],
    ],
    ids=["other settings", "no settings", "other groups"],
)
def test_the_optimizers_settings_stay_the_agents_own(regroup, tmp_path):
    original, agent = trained("PPO"), trained("PPO", seed=1)
    content = original.policy.optimizer.state_dict()
    content["param_groups"] = regroup(content["param_groups"])
    before = copied(agent.policy.optimizer.state_dict()["param_groups"])
    rlsd.load_weights(replaced(saved(original, tmp_path), "policy.optimizer.pth", as_pth(content)), agent)
    found = agent.policy.optimizer.state_dict()
    assert not differences(before, found["param_groups"])
    assert not differences(original.policy.optimizer.state_dict()["state"], found["state"])
    agent.learn(8)


def test_an_entry_that_is_missing_is_an_error(tmp_path):
    file = replaced(saved(small_ppo(), tmp_path), "policy.pth", None)
    assert_refused(file, small_ppo(seed=1), r"it has no entry 'policy\.pth'")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_entry_is_read(compression, tmp_path):
    original, agent = small_ppo(seed=1), small_ppo()
    content = as_pth(original.policy.state_dict())
    rlsd.load_weights(replaced(saved(original, tmp_path), "policy.pth", content, compression), agent)
    assert not differences(weights_of(original), weights_of(agent))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_entry_larger_than_the_agents_weights_could_be_is_not_unfolded(compression, tmp_path):
    file = replaced(saved(small_ppo(), tmp_path), "policy.pth", bytes(70 * 10**6), compression)
    assert_refused(file, small_ppo(seed=1), "its entry 'policy.pth' is too large: 70.0 MB, at most 64")


# What no training leaves

HOSTILE_TENSORS = {
    "meta": lambda w: w.to("meta"),
    "sparse": lambda w: w.to_sparse(),
    "sparse rows": lambda w: w.to_sparse_csr(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "nested": lambda w: torch.nested.nested_tensor([w[0], w[1]]),
    "NaN": lambda w: w * float("nan"),
    "infinite": lambda w: w / 0,
    "one NaN": lambda w: torch.where(torch.arange(w.numel()).reshape(w.shape) == 5, float("nan"), w),
    "8 bits": lambda w: w.to(torch.float8_e4m3fn),
    "complex": lambda w: w.to(torch.complex64),
    "an array": lambda w: w.numpy(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS.keys())
def test_a_tensor_that_no_training_leaves_is_refused_and_nothing_is_changed(make, tmp_path):
    original = small_ppo(seed=1)
    weights = dict(original.policy.state_dict())
    weights[WEIGHT] = make(weights[WEIGHT])
    assert_refused(replaced(saved(original, tmp_path), "policy.pth", as_pth(weights)), small_ppo())


def test_a_tensor_that_repeats_one_number_or_shares_its_storage_is_read(tmp_path):
    original, agent = small_ppo(seed=1), small_ppo()
    weights = dict(original.policy.state_dict())
    weights[WEIGHT] = torch.full((1, 1), 3.0).expand(weights[WEIGHT].shape)
    pair = torch.arange(64.0 * 4).reshape(64, 4).t()
    weights["value_net.weight"] = pair[1:2]
    rlsd.load_weights(replaced(saved(original, tmp_path), "policy.pth", as_pth(weights)), agent)
    assert torch.equal(agent.policy.action_net.weight.data, torch.full_like(weights[WEIGHT], 3.0))
    assert torch.equal(agent.policy.value_net.weight.data, pair[1:2])


@pytest.mark.parametrize("value", [-90.0, 1e30])
def test_a_spread_that_would_be_none_or_infinite_is_refused(value, tmp_path):
    env = vec_env(action_space=spaces.Box(-1.0, 1.0, (2,)))
    original = small_ppo(env, seed=1)
    weights = dict(original.policy.state_dict()) | {"log_std": torch.full((2,), value)}
    file = replaced(saved(original, tmp_path), "policy.pth", as_pth(weights))
    assert_refused(file, small_ppo(env), "'log_std' is from .* would be 0 or infinite")


HOSTILE_STATES = {
    "an endless count": {"step": 10**400},
    "a count below 0": {"step": torch.tensor(-1.0)},
    "a number below 0": {"step": -1},
    "half a step": {"step": 0.5},
    "NaN steps": {"step": float("nan")},
    "a truth": {"step": True},
    "a count in words": {"step": "9" * 1000},
    "a negative mean of squares": {"exp_avg_sq": -1e-3},
    "a NaN mean of squares": {"exp_avg_sq": float("nan")},
    "an infinite mean": {"exp_avg": float("inf")},
}


@pytest.mark.parametrize(
    ("values", "parameter"),
    list(zip(HOSTILE_STATES.values(), itertools.cycle([0, 7]))),
    ids=HOSTILE_STATES.keys(),
)
def test_an_optimizers_state_that_no_training_leaves_is_refused(parameter, values, tmp_path):
    original = trained("PPO")
    content = original.policy.optimizer.state_dict()
    for name, value in values.items():
        held = content["state"][parameter][name]
        content["state"][parameter][name] = value if name == "step" else torch.full_like(held, value)
    file = replaced(saved(original, tmp_path), "policy.optimizer.pth", as_pth(content))
    assert_refused(file, trained("PPO", seed=1), f"policy.optimizer, parameter {parameter} does not fit this agent")


def test_statistics_of_a_batch_that_no_training_leaves_are_refused(tmp_path):
    original = trained("CrossQ")
    weights = dict(original.policy.state_dict())
    name = next(name for name in weights if name.endswith("ra_var"))
    weights[name] = -weights[name]
    file = replaced(saved(original, tmp_path), "policy.pth", as_pth(weights))
    assert_refused(file, trained("CrossQ", seed=1), "ra_var' is -.* which is never below 0")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 100.0])
def test_sacs_entropy_coefficient_must_be_one(value, tmp_path):
    content = as_pth({"log_ent_coef": torch.tensor([value])})
    file = replaced(saved(small_agent("SAC"), tmp_path), "pytorch_variables.pth", content)
    assert_refused(file, small_agent("SAC", seed=1), "'log_ent_coef' is ")


def test_a_variable_that_is_missing_is_an_error_and_one_that_the_writer_had_not_is_passed_by(tmp_path):
    file = replaced(saved(small_agent("SAC"), tmp_path), "pytorch_variables.pth", as_pth({}))
    assert_refused(file, small_agent("SAC", seed=1), "'log_ent_coef', the agent has it and the file does not")
    file = replaced(saved(small_agent("SAC"), tmp_path), "pytorch_variables.pth", as_pth({"log_ent_coef": None}))
    rlsd.load_weights(file, small_agent("SAC", seed=1))


def test_an_agent_that_does_not_take_what_fits_is_put_back(tmp_path, monkeypatch):
    original, agent = trained("SAC"), trained("SAC", seed=1)
    put = type(agent).set_parameters
    before = copied(weights_of(agent))

    def half(self, params, **kwargs):
        put(self, params, **kwargs)
        monkeypatch.setattr(type(agent), "set_parameters", put)
        raise RuntimeError("no more")

    monkeypatch.setattr(type(agent), "set_parameters", half)
    with pytest.raises(ValueError, match="does not fit this agent: RuntimeError: no more"):
        rlsd.load_weights(saved(original, tmp_path), agent)
    assert not differences(before, weights_of(agent)), "the agent was changed"


def test_sacs_entropy_coefficient_of_another_shape_is_an_error(tmp_path):
    content = as_pth({"log_ent_coef": torch.ones(3)})
    file = replaced(saved(small_agent("SAC"), tmp_path), "pytorch_variables.pth", content)
    assert_refused(file, small_agent("SAC", seed=1), "'log_ent_coef' is ")


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("PPO", "SAC"), ("SAC", "PPO"), ("DQN", "QRDQN"), ("SAC", "TQC"), ("TD3", "SAC"), ("PPO", "ARS")],
)
def test_another_algorithms_file_is_an_error(mine, theirs, tmp_path):
    assert_refused(saved(small_agent(theirs), tmp_path), small_agent(mine))


def test_other_networks_are_an_error(tmp_path):
    file = saved(small_agent("PPO", policy_kwargs={"net_arch": [7]}), tmp_path)
    assert_refused(file, small_agent("PPO"), "expected")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all", b"\0" * 1000])
def test_what_is_no_zip_is_an_error(content, tmp_path):
    file = tmp_path / "agent.zip"
    file.write_bytes(content)
    assert_refused(file, small_ppo())


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    agent = small_ppo(vec_env(), policy_kwargs={"net_arch": [4]}, seed=1)
    return saved(agent, tmp_path_factory.mktemp("original")).read_bytes()


mutations = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "zero"]), st.floats(0, 1), st.integers(1, 255)),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, how: list[tuple[str, float, int]]) -> bytes:
    mutant = bytearray(data)
    for kind, where, value in how:
        at = int(where * (len(mutant) - 1)) if mutant else 0
        if kind == "flip" and mutant:
            mutant[at] ^= value
        elif kind == "cut":
            del mutant[at : at + value]
        elif kind == "insert":
            mutant[at:at] = bytes([value]) * value
        elif kind == "zero":
            mutant[at : at + value] = bytes(len(mutant[at : at + value]))
    return bytes(mutant)


AGENT: dict[str, object] = {}


@given(how=mutations)
def test_a_mutated_file_is_read_or_refused_and_nothing_in_between(how, original, tmp_path_factory):
    agent = AGENT.setdefault("ppo", small_ppo(vec_env(), policy_kwargs={"net_arch": [4]}))
    file = tmp_path_factory.getbasetemp() / "mutant.zip"
    file.write_bytes(mutated(original, how))
    before, refused = copied(weights_of(agent)), None
    try:
        rlsd.load_weights(file, agent)
    except ValueError as error:
        refused = str(error)
    assert refused is None or "\n" not in refused
    assert refused is None or not differences(before, weights_of(agent)), "the agent was changed"
