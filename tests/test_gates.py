"""A teacher is followed while its student is behind it, and no longer."""

from __future__ import annotations

import json
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, config, distilled, untouched_generators
from helpers import check_goes_on_as_if_never_stopped, small_agent
from hypothesis import given
from hypothesis import strategies as st

import rlsd
from rlsd import ReturnGate
from rlsd.distributions import Bernoulli, Categorical, Gaussian, QValues
from rlsd.gates import Behind, Disagreement, EntropyFloor, GateInput, ValueAdvantage
from rlsd.returns import FEWEST


def agent(*returns: float):
    """As much of an agent as a gate looks at; these episodes are all it remembers. One stands for enough of them."""
    returns = returns * FEWEST if len(returns) == 1 else returns
    episodes = deque({"r": r, "l": 1, "t": 0.0} for r in returns)
    return SimpleNamespace(ep_info_buffer=episodes, _stats_window_size=max(len(returns), FEWEST))


def judged(gate, lowest: float = 0.0, highest: float = 100.0):
    """A gate that has seen returns from ``lowest`` to ``highest``, and whose teacher was taken at the latter."""
    gate.update(agent(lowest), refreshed=False)
    gate.update(agent(highest), refreshed=True)
    return gate


@pytest.mark.parametrize(
    ("student", "open_by"),
    [(120.0, 0.0), (100.0, 0.0), (96.0, 0.0), (95.0, 0.0), (90.0, 0.5), (87.0, 0.8), (85.0, 1.0), (10.0, 1.0)],
)
def test_a_gate_opens_from_the_margin_on_over_its_width(student, open_by):
    gate = judged(ReturnGate(margin=0.05, width=0.1).build())
    assert gate.update(agent(student), refreshed=False) == pytest.approx(open_by)


def test_what_is_compared_is_the_mean_over_the_remembered_episodes():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    # The mean is 60, its standard error sqrt((4 * 1 + 16) / 4 / 5) = 1; two of these are taken off.
    assert gate.update(agent(61.0, 61.0, 61.0, 61.0, 56.0), refreshed=False) == pytest.approx(0.4 - 0.02)


def test_what_chance_explains_is_no_fall():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    wide = agent(0.0, 0.0, 75.0, 150.0, 150.0)
    assert gate.update(wide, refreshed=False) == 0.0, "25 behind, and 34 is one standard error"
    assert gate.update(agent(75.0), refreshed=False) == pytest.approx(0.25)


def test_shares_are_of_the_range_of_returns_seen_so_far():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build(), lowest=-300.0, highest=-100.0)
    assert gate.update(agent(-150.0), refreshed=False) == pytest.approx(0.25)
    # A new low widens the range to 400.
    assert gate.update(agent(-500.0), refreshed=False) == pytest.approx(1.0)
    assert gate.update(agent(-200.0), refreshed=False) == pytest.approx(0.25)


def test_a_gate_is_closed_while_no_episode_has_finished():
    gate = ReturnGate(margin=0.0, width=1.0).build()
    assert gate.update(agent(), refreshed=True) == 0.0
    assert gate.update(SimpleNamespace(ep_info_buffer=None, _stats_window_size=1), refreshed=False) == 0.0


def test_a_gate_is_closed_until_enough_episodes_have_ended():
    gate = ReturnGate(margin=0.0, width=0.1).build()
    few = agent(*[0.0] * 19)
    few._stats_window_size = 100
    assert gate.update(few, refreshed=False) == 0.0
    assert gate.teacher is gate.lowest is None
    few.ep_info_buffer.append({"r": 0.0})
    gate.update(few, refreshed=False)
    assert gate.teacher == gate.lowest == 0.0


@pytest.mark.parametrize("remembered", [1, 2, FEWEST - 1])
def test_too_few_remembered_episodes_to_tell_chance_from_a_fall_open_no_gate(remembered):
    gate = judged(ReturnGate(margin=0.0, width=0.1).build())
    assert gate.update(agent(*[10.0] * FEWEST), refreshed=False) == 1.0
    few = SimpleNamespace(ep_info_buffer=[{"r": 10.0}] * remembered, _stats_window_size=remembered)
    assert gate.update(few, refreshed=False) == 0.0


def test_a_gate_is_closed_while_all_returns_are_the_same():
    gate = ReturnGate(margin=0.0, width=1.0).build()
    assert [gate.update(agent(7.0), refreshed=False) for _ in range(3)] == [0.0] * 3


def test_a_gate_closes_when_the_teacher_is_taken_from_the_student_as_it_is():
    gate = judged(ReturnGate(margin=0.0, width=0.1).build())
    assert gate.update(agent(50.0), refreshed=False) == 1.0
    assert gate.update(agent(50.0), refreshed=True) == 0.0
    assert gate.update(agent(45.0), refreshed=False) == pytest.approx(0.5), "the new teacher has 50"


def test_a_gate_opens_again_when_the_student_falls_behind_again():
    gate = judged(ReturnGate(margin=0.0, width=0.5).build())
    found = [gate.update(agent(r), refreshed=False) for r in (75.0, 110.0, 65.0)]
    assert found == pytest.approx([0.5, 0.0, 35 / 110 / 0.5])


def test_a_teacher_taken_before_enough_episodes_have_ended_is_judged_by_the_first_returns_that_come():
    gate = ReturnGate(margin=0.0, width=1.0).build()
    gate.update(agent(), refreshed=True)
    assert gate.update(agent(40.0), refreshed=False) == 0.0
    assert gate.teacher == 40.0


def test_returns_are_remembered_when_learn_begins_anew_and_sb3_forgets_them():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    gate.update(agent(), refreshed=True)
    assert gate.teacher == 100.0
    assert gate.update(agent(40.0), refreshed=False) == 0.6


@given(
    returns=st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), max_size=12),
    margin=st.floats(0.0, 1.0),
    width=st.floats(0.01, 1.0),
)
def test_a_gate_is_between_closed_and_open_whatever_happens(returns, margin, width):
    gate = ReturnGate(margin, width).build()
    for value, refreshed in returns:
        assert 0.0 <= gate.update(agent(value), refreshed) <= 1.0


def test_a_loaded_gate_goes_on_as_the_saved_one():
    original = judged(ReturnGate(0.0, 1.0).build(), lowest=-20.0)
    loaded = ReturnGate(0.0, 1.0).build()
    loaded.load(json.loads(json.dumps(original.state())))
    for value in (80.0, 10.0, 130.0, 30.0):
        assert loaded.update(agent(value), False) == original.update(agent(value), False)


def test_a_new_gate_can_be_saved_and_loaded():
    loaded = ReturnGate().build()
    loaded.load(json.loads(json.dumps(ReturnGate().build().state())))
    assert loaded.update(agent(3.0), refreshed=False) == 0.0


# Behind a return that is known


@pytest.mark.parametrize(("student", "open_by"), [(0.0, 1.0), (50.0, 0.75), (150.0, 0.25), (200.0, 0.0), (250.0, 0.0)])
def test_a_student_is_let_go_as_it_comes_up_to_its_teachers_return(student, open_by):
    # 1 - student / teacher, as published
    assert Behind(200.0).build().update(agent(student), refreshed=False) == pytest.approx(open_by)


@pytest.mark.parametrize(("student", "open_by"), [(-1500.0, 1.0), (-1200.0, 1.0), (-700.0, 0.5), (-200.0, 0.0)])
def test_returns_below_zero_are_counted_from_the_start_that_is_given(student, open_by):
    gate = Behind(-200.0, start=-1200.0).build()
    assert gate.update(agent(student), refreshed=False) == pytest.approx(open_by)


def test_the_gate_of_a_known_return_is_open_at_first_and_then_as_it_last_was():
    gate = Behind(100.0).build()
    assert gate.update(agent(), refreshed=True) == 1.0
    assert gate.update(agent(80.0), refreshed=False) == pytest.approx(0.2)
    assert gate.update(agent(), refreshed=False) == pytest.approx(0.2), "learn() began anew: SB3 forgets the episodes"


@given(returns=st.lists(st.floats(-1e6, 1e6), max_size=12), teacher=st.floats(-1e3, 1e3), below=st.floats(1e-3, 1e6))
def test_the_gate_of_a_known_return_is_between_closed_and_open_and_can_be_saved(returns, teacher, below):
    gate = Behind(teacher, teacher - below).build()
    for value in returns:
        assert 0.0 <= gate.update(agent(value), refreshed=False) <= 1.0
    loaded = Behind(teacher, teacher - below).build()
    loaded.load(json.loads(json.dumps(gate.state())))
    assert loaded.update(agent(), refreshed=False) == gate.update(agent(), refreshed=False)


# State by state


def situation(
    family=None,
    teacher: torch.Tensor | None = None,
    student: torch.Tensor | None = None,
    values: tuple[list[float], list[float]] | None = None,
    spread: list[float] | None = None,
) -> GateInput:
    empty = torch.zeros(1, 1)
    both = (None, None) if values is None else tuple(torch.tensor(side, dtype=torch.float32) for side in values)
    return GateInput(
        family or Categorical((2,)),
        empty if teacher is None else teacher,
        empty if student is None else student,
        *both,
        None if spread is None else torch.tensor(spread),
    )


def test_only_states_that_the_teacher_values_higher_are_pulled():
    gate = ValueAdvantage(margin=0.5, width=2.0).build()
    # The student's values have a standard deviation of 2.
    student = [-2.0, 2.0, -2.0, 2.0, -2.0, 2.0]
    above = [-1.0, 0.0, 0.5, 1.5, 2.5, 9.0]  # in standard deviations
    teacher = [value + 2.0 * more for value, more in zip(student, above, strict=True)]
    found = gate.weights(situation(values=(teacher, student)))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5, 1.0, 1.0])


def test_the_scale_of_values_is_their_spread_over_all_minibatches_until_there_are_many():
    gate = ValueAdvantage(width=1e6).build()
    generator = np.random.default_rng(0)
    batches = generator.normal(1e3, 5.0, (40, 16)) + np.arange(40)[:, None]
    for batch in batches:
        found = gate.weights(situation(values=((batch + 30.0).tolist(), batch.tolist())))
    assert (1e6 * found).tolist() == pytest.approx([30.0 / batches.std()] * 16, rel=1e-3)


def test_the_scale_of_values_follows_what_has_become_of_them():
    gate = ValueAdvantage(width=1e6).build()
    generator = np.random.default_rng(0)
    for scale, count in ((1.0, 100), (1000.0, 1000)):
        for _ in range(count):
            batch = generator.normal(0.0, scale, 64)
            found = gate.weights(situation(values=((batch + 500.0).tolist(), batch.tolist())))
    assert 1e6 * found[0].item() == pytest.approx(0.5, rel=0.05), "the early, small values have been forgotten"


def test_batches_of_one_state_have_a_scale_too():
    gate = ValueAdvantage(width=1e6).build()
    values = np.random.default_rng(0).normal(0.0, 3.0, 100)
    for value in values:
        found = gate.weights(situation(values=([value + 6.0], [value])))
    assert 1e6 * found.item() == pytest.approx(6.0 / values.std(), rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_do_not_spoil_the_scale(bad):
    gate = ValueAdvantage().build()
    gate.weights(situation(values=([bad, 1.0], [bad, 1.0])))
    gate.weights(situation(values=([0.0, 1.0], [0.0, 1.0])))
    before = gate.state()
    gate.weights(situation(values=([0.0, 1.0], [bad, 1.0])))
    assert gate.state() == before
    assert np.isfinite(before["running"]).all()


def test_values_that_are_all_the_same_leave_the_gate_closed():
    gate = ValueAdvantage().build()
    assert gate.weights(situation(values=([3.0] * 4, [3.0] * 4))).tolist() == [0.0] * 4


def test_states_on_which_the_members_disagree_are_let_go():
    gate = Disagreement(low=0.1, high=0.5).build()
    found = gate.weights(situation(spread=[0.0, 0.1, 0.2, 0.3, 0.5, 2.0]))
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.0, 0.0])


def choosing(first: float) -> torch.Tensor:
    """Two options, the first with this probability."""
    return torch.tensor([[np.log(first), np.log(1 - first)]], dtype=torch.float32)


def test_states_on_which_the_student_hardly_explores_are_let_go():
    gate = EntropyFloor(floor=0.2, width=0.4).build()
    sure = choosing(1 - 1e-6)
    for first in (0.5, 0.8, 0.9, 0.97, 0.999):
        breadth = -(first * np.log2(first) + (1 - first) * np.log2(1 - first))
        found = gate.weights(situation(teacher=sure, student=choosing(first))).item()
        assert found == pytest.approx(np.clip((breadth - 0.2) / 0.4, 0, 1), abs=1e-5)


def test_a_student_that_hardly_explores_is_still_pulled_to_a_teacher_that_does():
    gate = EntropyFloor(floor=0.2, width=0.4).build()
    student, broader = choosing(0.999), choosing(0.9)
    assert gate.weights(situation(teacher=broader, student=student)).item() == 1.0
    assert gate.weights(situation(teacher=student, student=student)).item() == 0.0, "as narrow is not broader"


@pytest.mark.parametrize(
    ("family", "narrow", "broad"),
    [
        (Categorical((2, 3)), [9.0, 0.0, 9.0, 0.0, 0.0], [0.0] * 5),
        (Bernoulli(2), [9.0, -9.0], [0.0, 0.0]),
        (Gaussian(2), [0.0, 0.0, -5.0, -5.0], [0.0, 0.0, -1.0, -1.0]),
        (QValues(3), [9.0, 0.0, 0.0], [0.1, 0.0, 0.0]),
    ],
)
def test_every_family_of_random_actions_can_be_too_narrow(family, narrow, broad):
    gate = EntropyFloor(floor=0.05, width=0.05).build()
    student, teacher = torch.tensor([narrow, broad]), torch.tensor([narrow, narrow])
    assert gate.weights(situation(family, teacher, student)).tolist() == [0.0, 1.0]


@given(
    values=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=8),
    spreads=st.lists(st.floats(0, 1e6), min_size=1, max_size=8),
    logits=st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8),
)
def test_what_a_gate_weighs_a_state_is_between_zero_and_one(values, spreads, logits):
    teacher, student = torch.tensor(logits), torch.tensor(logits).flip(0)
    given_ = situation(None, teacher, student, tuple(map(list, zip(*values, strict=True))), spreads)
    for gate in (ValueAdvantage(), Disagreement(), EntropyFloor()):
        with untouched_generators():
            found = gate.build().weights(given_)
        assert ((found >= 0) & (found <= 1)).all(), gate


# With real agents


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Behind(), "gate.teacher_return must be given for 'behind': the mean return of the teacher, got None"),
        (lambda: Behind(-5.0), "gate.teacher_return must be above gate.start = 0, got -5: where returns are negative"),
        (lambda: Behind("high"), "gate.teacher_return must be a finite number, got 'high'"),
        (lambda: Behind(1.0, float("nan")), "gate.start must be a finite number, got nan"),
        (lambda: ValueAdvantage(margin=-1), "gate.margin must be a number >= 0, got -1"),
        (lambda: ValueAdvantage(width=0), "gate.width must be a number > 0, got 0"),
        (lambda: Disagreement(low=0.4), "gate.high must be above gate.low = 0.4, got 0.3"),
        (lambda: EntropyFloor(width=0), "gate.width must be a number > 0, got 0"),
        (lambda: EntropyFloor(floor=-0.1), "gate.floor must be a number >= 0, got -0.1"),
    ],
)
def test_what_is_no_gate_is_refused(make, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        make()


@pytest.mark.parametrize(
    ("name", "gate", "said"),
    [
        ("TD3", EntropyFloor(), "the actor of TD3 is deterministic: leave the gate out, or use 'return'"),
        ("DDPG", EntropyFloor(), "the actor of DDPG is deterministic"),
        ("ARS", EntropyFloor(), "the actor of ARS is deterministic"),
        ("SAC", ValueAdvantage(), "needs an algorithm with state values, and a SAC has none: use PPO"),
        ("DQN", ValueAdvantage(), "needs an algorithm with state values, and a DQN has none: use PPO"),
    ],
)
def test_a_gate_that_cannot_judge_an_agent_is_refused_with_a_way_out(name, gate, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        small_agent(name, wrap=rlsd.SelfDistilled, distill={"strength": {"gates": [gate]}})


GATES = {
    "behind": Behind(1.0, start=-100.0),
    "value_advantage": ValueAdvantage(width=0.5),
    "disagreement": Disagreement(),
    "entropy_floor": EntropyFloor(0.5, 0.5),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES.keys())
def test_an_agent_with_a_gate_goes_on_as_if_never_stopped(gate, tmp_path):
    teacher = rlsd.Ensemble(k=2, every=1) if gate.wants_spread else rlsd.Snapshot(every=1)
    gated = config(strength=rlsd.Constant(0.7, gates=gate), teacher=teacher)
    agent = distilled(distill=gated, stats_window_size=2).learn(5 * ROLLOUT)
    assert agent.distiller.deposits > 0
    before = agent.distiller.coefficient.state()
    check_goes_on_as_if_never_stopped(agent, tmp_path / "saved", 4 * ROLLOUT)
    if before["gates"][0]:
        assert agent.distiller.coefficient.state() != before, "nothing was learned after it was saved"


@pytest.mark.parametrize("name", [name for name in ALL_ALGORITHMS if name not in ("TD3", "DDPG", "ARS")])
def test_how_far_the_gates_are_open_is_shown_for_every_algorithm(name):
    kind = "multidiscrete" if name == "MaskablePPO" else "discrete" if name in ("DQN", "QRDQN") else "box"
    gates = [EntropyFloor(0.5, 5.0), Disagreement()]
    if name in ("PPO", "A2C", "TRPO", "MaskablePPO"):
        gates.append(ValueAdvantage())
    distill = config(strength=rlsd.Constant(0.7, gates=gates), teacher=rlsd.Ensemble(k=2, every=2 * ROLLOUT))
    agent = distilled(ALL_ALGORITHMS[name], kind, distill=distill).learn(7 * ROLLOUT)
    assert 0.0 <= agent.distiller.present_metrics()["distill/open"] <= 1.0
    assert float(agent.distiller.penalty.dropped) == 0


def test_disagreement_with_a_teacher_of_one_is_refused():
    with pytest.raises(TypeError, match="'snapshot' is one: use teacher 'ensemble'"):
        distilled(distill=config(strength=rlsd.Constant(0.7, gates="disagreement")))
