"""The five answers as plain data: written down, read back, and checked."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import rlsd
from rlsd import (
    KL,
    MSE,
    Constant,
    DistillConfig,
    EveryStep,
    ReplayBuffer,
    Reservoir,
    ReturnGate,
    Schedule,
    Snapshot,
)
from rlsd.config import _REGISTRY, QUESTIONS, nearest
from rlsd.divergences import JensenShannon
from rlsd.gates import Behind, Disagreement, EntropyFloor, ValueAdvantage
from rlsd.states import Episodes, Minibatch, Mixture, Recent
from rlsd.strength import Adaptive, Relative, Strength
from rlsd.students import Phase, Reborn
from rlsd.students.keeper import Keep
from rlsd.teachers import (
    Best,
    Cascade,
    Ema,
    Ensemble,
    Expert,
    Frozen,
    Origin,
    Peers,
    Remember,
    Selective,
    Several,
    Stored,
)

positive = st.floats(0, 1e300, exclude_min=True)
temperatures = st.floats(1e-3, 1e3)
weights = st.floats(0, 1e300)
counts = st.integers(1, 10**12)
finite = st.floats(-1e300, 1e300)
above_one = st.floats(1, 1e300, exclude_min=True)
sizes = st.sampled_from(["loss", "gradient"])
shapes = st.sampled_from(["linear", "cosine", "exponential"])
gates = st.lists(st.builds(ReturnGate, st.floats(0, 1), st.floats(0, 1, exclude_min=True)), max_size=2)

#: Every answer there is, with every value its fields may take.
ANSWERS: dict[type, st.SearchStrategy] = {
    Snapshot: st.builds(Snapshot, every=counts),
    Reservoir: st.tuples(counts, counts).map(lambda both: Reservoir(capacity=max(both), batch_size=min(both))),
    ReplayBuffer: st.builds(ReplayBuffer, counts),
    Ema: st.builds(Ema, st.floats(0, 1), counts),
    Best: st.builds(Best, counts, st.integers(2, 10**6), st.integers(0, 10**12)),
    Ensemble: st.builds(Ensemble, counts, counts),
    Stored: st.builds(Stored, counts),
    Origin: st.builds(Origin),
    Frozen: st.one_of(
        st.builds(Frozen, st.text(min_size=1), vecnormalize=st.text()),
        st.builds(Frozen, agent=st.text(min_size=1)),
    ),
    Several: st.one_of(
        st.builds(Several, st.lists(st.builds(Frozen, st.text(min_size=1)), min_size=1, max_size=2), task=counts),
        st.builds(Several, st.just(["a.zip", "b.zip"]), weights=st.tuples(positive, positive), every=counts),
    ),
    Cascade: st.builds(Cascade, counts, above_one, weights, weights),
    Peers: st.builds(Peers, st.text(min_size=1), counts),
    Recent: st.tuples(counts, counts).map(lambda both: Recent(capacity=max(both), batch_size=min(both))),
    Selective: st.builds(Selective, counts, st.floats(0, 1, exclude_min=True), counts, st.floats(0, 1)),
    Remember: st.builds(Remember, st.floats(0, 0.5, exclude_min=True), counts, st.floats(0, 1, exclude_min=True)),
    Episodes: st.tuples(counts, counts).map(lambda both: Episodes(capacity=max(both), batch_size=min(both))),
    Minibatch: st.builds(Minibatch),
    Mixture: st.lists(st.tuples(st.builds(ReplayBuffer, counts), positive), min_size=2, max_size=4).map(
        lambda pairs: Mixture(parts=[part for part, _ in pairs], shares=[share for _, share in pairs])
    ),
    KL: st.builds(KL, st.sampled_from(["forward", "reverse"]), temperatures, weights, weights),
    JensenShannon: st.builds(
        JensenShannon, st.floats(0, 1, exclude_min=True, exclude_max=True), temperatures, value_weight=weights
    ),
    MSE: st.builds(MSE, value_weight=weights),
    Constant: st.builds(Constant, st.floats(0, 1e300), gates=gates, bound=positive),
    Schedule: st.builds(Schedule, positive, end=positive, shape=shapes, gates=gates, bound=positive),
    Adaptive: st.tuples(positive, positive, positive)
    .map(sorted)
    .flatmap(
        lambda three: st.builds(
            Adaptive, positive, st.just(three[1]), above_one, st.floats(1, 1e300), st.just(three[0]), st.just(three[2])
        )
    ),
    Relative: st.tuples(positive, positive, positive)
    .map(sorted)
    .flatmap(
        lambda three: st.builds(
            Relative, positive, sizes, st.just(three[1]), st.just(three[0]), st.just(three[2]), counts, gates=gates
        )
    ),
    EveryStep: st.builds(EveryStep, counts, critic_first=counts, teacher_acts=st.floats(0.01, 1)),
    Keep: st.builds(Keep, steps=counts, learning_rate=positive, batch_size=counts),
    Phase: st.builds(Phase, counts, counts, positive, counts),
    Reborn: st.builds(
        Reborn,
        every=st.integers(100, 10**12),
        mode=st.sampled_from(["sequential", "parallel"]),
        kind=st.sampled_from(["fresh", "last_layers", "shrink_and_perturb"]),
        steps=counts,
        kl_bound=positive,
        value_weight=weights,
        over=st.integers(1, 100),
        shrink=st.floats(0, 1),
        perturb=weights,
    ),
    ReturnGate: st.builds(ReturnGate, st.floats(0, 1), st.floats(0, 1, exclude_min=True)),
    Behind: st.tuples(finite, finite).filter(lambda two: two[0] != two[1]).map(lambda two: Behind(max(two), min(two))),
    ValueAdvantage: st.builds(ValueAdvantage, weights, positive),
    Disagreement: st.tuples(weights, weights)
    .filter(lambda two: two[0] != two[1])
    .map(lambda two: Disagreement(min(two), max(two))),
    EntropyFloor: st.builds(EntropyFloor, weights, positive),
}


def answering(question: str) -> st.SearchStrategy:
    return st.one_of([strategy for cls, strategy in ANSWERS.items() if cls.question == question])


configs = st.builds(DistillConfig, **{question: answering(question) for question in QUESTIONS})


def test_every_answer_is_tested_here():
    registered = {cls for answers in _REGISTRY.values() for cls in answers.values()}
    # An expert is a function, which no file holds: tests/teachers/test_expert.py.
    assert registered - {Expert} == set(ANSWERS), "give the new answer a strategy in ANSWERS"


# Written down and read back


@given(configs)
def test_a_config_survives_json(config):
    assert DistillConfig.from_json(config.to_json()) == config
    assert DistillConfig.from_json(config.to_json().encode()) == config


@settings(max_examples=10)  # YAML is read slowly
@given(configs)
def test_a_config_survives_yaml(config):
    assert DistillConfig.from_yaml(config.to_yaml()) == config


@given(configs)
def test_a_config_survives_plain_data(config):
    data = config.to_dict()
    assert DistillConfig.from_dict(data) == config
    assert json.loads(json.dumps(data)) == data, "nothing but plain data"
    assert list(data) == list(QUESTIONS)


@given(configs)
def test_a_config_that_is_changed_in_nothing_is_the_same(config):
    assert config.changed({}) == config
    assert config.changed({question: getattr(config, question) for question in QUESTIONS}) == config


def test_what_is_left_out_takes_its_default():
    assert DistillConfig.from_dict({}) == DistillConfig.from_yaml("") == DistillConfig()
    found = DistillConfig.from_yaml("teacher: {every: 7}\nstrength: {type: schedule, end: 0.5}")
    assert found == DistillConfig(teacher=Snapshot(every=7), strength=Schedule(end=0.5))


@pytest.mark.parametrize(
    ("question", "given_as", "meant"),
    [
        ("teacher", "snapshot", Snapshot()),
        ("teacher", {"every": 9}, Snapshot(every=9)),
        ("teacher", {"type": "snapshot", "every": 9.0}, Snapshot(every=9)),
        ("teacher", Snapshot(every=9), Snapshot(every=9)),
        ("states", {"capacity": np.int64(300), "batch_size": 30}, Reservoir(300, 30)),
        ("divergence", {"direction": "reverse", "temperature": 2}, KL("reverse", 2.0)),
        ("strength", 0.3, Constant(0.3)),
        ("strength", 0, Constant(0.0)),
        ("strength", np.float32(0.5), Constant(0.5)),
        ("strength", math.sqrt, Schedule(math.sqrt)),
        ("strength", {"value": 0.3, "gates": "return"}, Constant(0.3, gates=[ReturnGate()])),
        ("strength", {"gates": [{"type": "return", "margin": 0.2}]}, Constant(gates=[ReturnGate(0.2)])),
        ("strength", {"gates": ReturnGate(0.2)}, Constant(gates=(ReturnGate(0.2),))),
        ("timing", {"stride": 4}, EveryStep(4)),
    ],
)
def test_an_answer_may_be_given_as_itself_as_its_name_or_as_a_mapping(question, given_as, meant):
    assert getattr(DistillConfig.from_dict({question: given_as}), question) == meant
    assert getattr(DistillConfig(**{question: given_as}), question) == meant
    assert getattr(DistillConfig().changed({question: given_as}), question) == meant


def test_numbers_are_kept_as_plain_python_ones():
    config = DistillConfig.from_dict({"teacher": {"every": np.int32(9)}, "strength": np.float64(0.5)})
    assert type(config.teacher.every) is int
    assert type(config.strength.value) is float
    yaml.safe_load(config.to_yaml())


def test_a_config_and_its_answers_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DistillConfig().teacher = Snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Snapshot().every = 2


def falling(remaining: float) -> float:
    return remaining


def test_a_function_is_written_down_by_its_name_and_must_be_handed_over_again_to_load():
    config = DistillConfig(strength=falling)
    assert config.strength == Schedule(falling)
    name = config.to_dict()["strength"]["value"]["function"]
    assert name.endswith("test_config.falling")
    for text, read in ((config.to_json(), DistillConfig.from_json), (config.to_yaml(), DistillConfig.from_yaml)):
        with pytest.raises(ValueError, match=r"strength\.value was the Python function \S*test_config\.falling, "):
            read(text)
    assert DistillConfig.from_dict(config.to_dict() | {"strength": falling}) == config


# Changed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher.every": 4096}, {"teacher": Snapshot(4096)}),
        ({"states.capacity": 900, "states.batch_size": 90}, {"states": Reservoir(900, 90)}),
        ({"strength": 0.2, "strength.gates": "return"}, {"strength": Constant(0.2, gates=[ReturnGate()])}),
        ({"strength.end": 0.1, "strength": "schedule"}, {"strength": Schedule(end=0.1)}),
        ({"strength": 0.0}, {"strength": Constant(0.0)}),
        ({"divergence.temperature": 2.0}, {"divergence": KL("reverse", 2.0)}),
    ],
)
def test_changes_replace_whole_answers_or_with_dotted_keys_single_fields(changes, expected):
    config = DistillConfig(divergence=KL("reverse"), timing=EveryStep(3))
    as_it_was = dataclasses.replace(config)
    assert config.changed(changes) == dataclasses.replace(config, **expected)
    assert config == as_it_was


# Wrong


@pytest.mark.parametrize(
    ("data", "said"),
    [
        # unknown keys and names, with what is near
        ({"teachr": {}}, "unknown key teachr = {}; did you mean 'teacher'? known: teacher, states, divergence"),
        ({5: 1}, "unknown key 5 = 1; known: teacher"),
        ({"teacher": {"evry": 5}}, "unknown key teacher.evry = 5 for 'snapshot'; did you mean 'every'? known: every"),
        ({"teacher": "snapshoot"}, "unknown teacher 'snapshoot'; did you mean 'snapshot'?"),
        ({"teacher": {"type": "committee"}}, "unknown teacher 'committee'; known: snapshot, "),
        ({"teacher": {"type": None}}, "unknown teacher None; known: snapshot, "),
        ({"teacher": {"type": ["snapshot"]}}, "unknown teacher ['snapshot']; "),
        ({"strength": {"gates": ["retrn"]}}, "unknown gate 'retrn'; did you mean 'return'?"),
        ({"strength": {"gates": [{"margn": 1}]}}, "unknown gate None; known: return"),
        ({"strength": {"gates": [{"type": "return", "margn": 1}]}}, "unknown key gate.margn = 1 for 'return'; did"),
        # an answer of the wrong kind
        ({"teacher": 5}, "teacher must be a name, a mapping or an answer, got 5"),
        ({"teacher": None}, "teacher must be a name, a mapping or an answer, got None"),
        ({"teacher": ["snapshot"]}, "teacher must be a name, a mapping or an answer, got ['snapshot']"),
        ({"teacher": KL()}, "teacher must be an answer to 'teacher', got KL, which answers 'divergence'"),
        ({"strength": None}, "strength must be a name, a mapping or an answer, got None"),
        ({"strength": {"gates": 3}}, "strength.gates must be a list of gates, got 3"),
        ({"strength": {"gates": [Snapshot()]}}, "gate must be an answer to 'gate', got Snapshot"),
        # values out of range or of the wrong type
        ({"teacher": {"every": 0}}, "teacher.every must be a whole number >= 1, got 0"),
        ({"teacher": {"every": -5}}, "teacher.every must be a whole number >= 1, got -5"),
        ({"teacher": {"every": 1.5}}, "teacher.every must be a whole number >= 1, got 1.5"),
        ({"teacher": {"every": True}}, "teacher.every must be a whole number >= 1, got True"),
        ({"teacher": {"every": "5"}}, "teacher.every must be a whole number >= 1, got '5'"),
        ({"teacher": {"every": None}}, "teacher.every must be a whole number >= 1, got None"),
        ({"teacher": {"every": math.nan}}, "teacher.every must be a whole number >= 1, got nan"),
        ({"teacher": {"every": math.inf}}, "teacher.every must be a whole number >= 1, got inf"),
        ({"states": {"capacity": 0}}, "states.capacity must be a whole number >= 1, got 0"),
        ({"states": {"batch_size": 0}}, "states.batch_size must be a whole number >= 1, got 0"),
        ({"states": {"capacity": 9, "batch_size": 10}}, "states.capacity must be at least states.batch_size = 10, got"),
        ({"divergence": {"direction": "up"}}, "divergence.direction must be one of 'forward', 'reverse', got 'up'"),
        ({"divergence": {"direction": 1}}, "divergence.direction must be one of 'forward', 'reverse', got 1"),
        ({"divergence": {"temperature": 0}}, "divergence.temperature must be a number in [0.001, 1000], got 0"),
        ({"divergence": {"temperature": 1e99}}, "divergence.temperature must be a number in [0.001, 1000], got 1e+99"),
        ({"divergence": {"temperature": "hot"}}, "divergence.temperature must be a number in [0.001, 1000], got 'hot'"),
        ({"divergence": {"mean_weight": -1}}, "divergence.mean_weight must be a number >= 0, got -1"),
        ({"divergence": {"std_weight": math.nan}}, "divergence.std_weight must be a number >= 0, got nan"),
        ({"divergence": {"type": "mse", "direction": "forward"}}, "unknown key divergence.direction = 'forward' for"),
        ({"strength": {"bound": 0}}, "strength.bound must be a number > 0, got 0"),
        ({"states": {"type": "replay_buffer", "capacity": 9}}, "unknown key states.capacity = 9 for 'replay_buffer';"),
        ({"states": {"type": "replay_buffer", "batch_size": 0}}, "states.batch_size must be a whole number >= 1"),
        ({"strength": -0.1}, "strength.value must be a number >= 0, got -0.1"),
        ({"strength": True}, "strength.value must be a number >= 0, got True"),
        ({"strength": math.nan}, "strength.value must be a number >= 0, got nan"),
        ({"strength": math.inf}, "strength.value must be a number >= 0, got inf"),
        ({"strength": 10**400}, "strength.value must be a number >= 0, got 1000"),
        ({"strength": {"value": [1]}}, "strength.value must be a number >= 0, got [1]"),
        ({"strength": {"type": "schedule", "value": "high"}}, "strength.value must be a number >= 0, got 'high'"),
        ({"strength": {"type": "schedule", "value": {}}}, "strength.value must be a number >= 0, got {}"),
        ({"strength": {"type": "schedule", "end": -1}}, "strength.end must be a number >= 0, got -1"),
        (
            {"strength": {"type": "schedule", "shape": "round"}},
            "strength.shape must be one of 'linear', 'cosine', 'exponential', got 'round'",
        ),
        (
            {"strength": {"type": "schedule", "shape": "exponential"}},
            "strength.value and strength.end must be > 0 for an exponential schedule, got 1.0, 0.0",
        ),
        ({"strength": {"gates": {"type": "return", "margin": 2}}}, "gate.margin must be a number in [0, 1], got 2"),
        ({"strength": {"gates": {"type": "return", "width": 0}}}, "gate.width must be a number in (0, 1], got 0"),
        ({"timing": {"stride": 0}}, "timing.stride must be a whole number >= 1, got 0"),
        # no mapping at all
        ([], "a distillation config must be a mapping of teacher, states, divergence, strength, timing, got []"),
        ("snapshot", "a distillation config must be a mapping of teacher, states, divergence, strength, timing, got"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_one_value_error_that_names_key_value_and_range(data, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is what is looked at
        DistillConfig.from_dict(data)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Snapshot(every=0), "teacher.every must be a whole number >= 1, got 0"),
        (lambda: Reservoir(capacity=1, batch_size=2), "states.capacity must be at least states.batch_size = 2, got 1"),
        (lambda: KL("backward"), "divergence.direction must be one of 'forward', 'reverse', got 'backward'"),
        (lambda: Constant(-1), "strength.value must be a number >= 0, got -1"),
        (lambda: EveryStep(0.5), "timing.stride must be a whole number >= 1, got 0.5"),
        (lambda: DistillConfig().changed({"timing.stride": 0}), "timing.stride must be a whole number >= 1, got 0"),
        (lambda: DistillConfig().changed({"stride": 1}), "unknown key stride = 1; known: teacher"),
        (lambda: DistillConfig().changed({3: 4}), "unknown key 3 = 4; known: teacher"),
    ],
)
def test_answers_made_in_python_are_checked_the_same(make, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (DistillConfig.from_json, "{", "the distillation config is not valid JSON: "),
        (DistillConfig.from_json, b"\xff{}", "the distillation config is not valid JSON: "),
        (DistillConfig.from_json, "3", "a distillation config must be a mapping"),
        (DistillConfig.from_json, '{"strength": NaN}', "strength.value must be a number >= 0, got nan"),
        (DistillConfig.from_yaml, "{", "the distillation config is not valid YAML: "),
        (DistillConfig.from_yaml, "- teacher", "a distillation config must be a mapping"),
        (DistillConfig.from_yaml, "!!python/object/apply:os.getcwd []", "the distillation config is not valid YAML: "),
    ],
)
def test_a_text_that_cannot_be_read_is_one_value_error_of_one_line(read, text, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(text)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_is_refused_and_stays_whose_it_was():
    with pytest.raises(ValueError, match=r"strength 'constant' is already the name of rlsd\.strength\.Constant: give "):

        class Other(Strength, name="constant"):
            pass

    assert type(rlsd.recipe("snapshot").strength) is Constant


def test_a_definition_that_is_run_again_takes_its_name_again(monkeypatch):
    monkeypatch.setitem(_REGISTRY, "strength", dict(_REGISTRY["strength"]))

    def run_cell():
        @dataclasses.dataclass(frozen=True)
        class Again(Strength, name="again"):
            def at(self, remaining):
                return 1.0

        return Again

    before, after = run_cell(), run_cell()
    assert before is not after
    assert DistillConfig(strength="again").strength == after()


def test_the_nearest_name_comes_first_when_one_is_near():
    assert nearest("resevoir", ["snapshot", "reservoir"]) == "did you mean 'reservoir'? known: snapshot, reservoir"
    assert nearest("xyz", ["snapshot", "reservoir"]) == "known: snapshot, reservoir"


def test_a_config_is_shown_an_answer_a_line():
    config = rlsd.recipe("snapshot", strength=0.3)
    lines = repr(config).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(config.to_dict()), "a line for each question"
    assert "Snapshot(every=2048)" in lines[1] and "value=0.3" in lines[4]
    assert config._repr_html_().count("<tr>") == 5
