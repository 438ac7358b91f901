"""How strongly: numbers at given points of training, and gates that multiply them."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, config, distilled
from helpers import check_goes_on_as_if_never_stopped, small_agent
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

import rlsd
from rlsd import Constant, ReturnGate, Schedule
from rlsd.actors import actor_for
from rlsd.gates import EntropyFloor, Gate, GateInput, GateState
from rlsd.returns import FEWEST
from rlsd.strength import Adaptive, Coefficient, Controller, Feedback, Relative, Strength

shapes = st.sampled_from(["linear", "cosine", "exponential"])


def agent_at(remaining: float, *returns: float):
    """As much of an agent as a strength looks at. One return stands for as many as it takes."""
    episodes = deque({"r": r} for r in returns for _ in range(FEWEST))
    return SimpleNamespace(_current_progress_remaining=remaining, ep_info_buffer=episodes, _stats_window_size=FEWEST)


def test_a_constant_is_the_same_throughout():
    assert [Constant(0.3).at(remaining) for remaining in (1.0, 0.5, 0.0)] == [0.3] * 3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [8.0, 6.5, 5.0, 3.5, 2.0]),
        # 2 + 6 (1 + cos(pi done)) / 2
        ("cosine", [8.0, 7.1213203, 5.0, 2.8786797, 2.0]),
        # 8 * (1/4) ** done
        ("exponential", [8.0, 5.6568542, 4.0, 2.8284271, 2.0]),
    ],
)
def test_a_schedule_goes_from_its_start_to_its_end_in_its_shape(shape, expected):
    schedule = Schedule(8.0, end=2.0, shape=shape)
    assert [schedule.at(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)] == pytest.approx(expected)


@given(start=st.floats(1e-3, 10), end=st.floats(1e-3, 10), shape=shapes, remaining=st.floats(-0.5, 1.5))
def test_a_schedule_never_leaves_the_range_between_its_ends(start, end, shape, remaining):
    value = Schedule(start, end=end, shape=shape).at(remaining)
    assert min(start, end) * (1 - 1e-9) <= value <= max(start, end) * (1 + 1e-9)


def test_a_schedule_falls_from_one_to_zero_by_default():
    assert [Schedule().at(remaining) for remaining in (1.0, 0.4, 0.0)] == pytest.approx([1.0, 0.4, 0.0])


def test_a_function_is_given_the_remaining_progress_as_everywhere_in_sb3():
    schedule = Schedule(lambda remaining: 2 * remaining**2)
    assert [schedule.at(remaining) for remaining in (1.0, 0.5, 0.0)] == [2.0, 0.5, 0.0]
    assert Schedule(lambda _: np.float32(0.5)).at(1.0) == 0.5


def test_a_function_is_never_given_less_than_nothing_remaining_though_sb3_ends_past_the_end():
    schedule = Schedule(lambda remaining: remaining)
    assert [schedule.at(remaining) for remaining in (-0.28, 1.28)] == [0.0, 1.0]
    agent = distilled(PPO, distill=config(strength=lambda remaining: remaining)).learn(2 * ROLLOUT + 1)
    assert agent.num_timesteps == 3 * ROLLOUT
    assert agent.distiller.coefficient.value == 0.0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "much", None])
def test_a_function_that_returns_no_strength_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match=r"strength\.value\(0\.25\) must be a number >= 0, got "):
        Schedule(lambda _: value).at(0.25)


@pytest.mark.parametrize(
    ("strength", "off"),
    [(Constant(0.0), True), (Constant(1e-9), False), (Schedule(0.0, end=1.0), False), (Schedule(lambda _: 0), False)],
)
def test_only_a_strength_that_can_never_be_more_than_zero_is_off(strength, off):
    assert strength.off is off


# Gates


def test_a_strength_is_multiplied_by_each_of_its_gates():
    agent = agent_at(0.5, 0.0)
    dial = Coefficient(Schedule(4.0, gates=[ReturnGate(margin=0.0, width=1.0), ReturnGate(margin=0.0, width=0.5)]))
    assert dial.update(agent_at(1.0, 0.0), refreshed=True) == 0.0, "the teacher was just taken"
    agent = agent_at(0.5, 100.0)
    dial.update(agent, refreshed=True)  # the teacher has 100, the range is 0..100
    # 2 (half of 4, half of the way) x 0.3 / 1 x 0.3 / 0.5
    assert dial.update(agent_at(0.5, 70.0), refreshed=False) == pytest.approx(2 * 0.3 * 0.6)
    assert dial.value == pytest.approx(2 * 0.3 * 0.6)


def test_without_gates_the_strength_is_the_schedules():
    assert Coefficient(Schedule(4.0)).update(agent_at(0.5), refreshed=False) == 2.0


class Broken(Strength):
    def at(self, remaining):
        return self.found


class BrokenControl(Controller):
    at = Broken.at


@pytest.mark.parametrize("found", [-1, float("nan"), float("inf"), None])
def test_a_strength_of_ones_own_that_returns_none_is_an_error_that_names_it(found):
    strength = Broken()
    object.__setattr__(strength, "found", found)
    with pytest.raises(ValueError, match=r"Broken\.at\(0\.25\) must be a number >= 0, got "):
        Coefficient(strength).update(agent_at(0.25), refreshed=False)
    dial = Coefficient(Constant())
    dial.control = BrokenControl()
    dial.control.found = found
    with pytest.raises(ValueError, match=r"BrokenControl\.at\(0\.25\) must be a number >= 0, got "):
        dial.update(agent_at(0.25), refreshed=False)


def test_two_agents_with_the_same_answer_have_gates_of_their_own():
    strength = Constant(1.0, gates=[ReturnGate()])
    one, other = Coefficient(strength), Coefficient(strength)
    one.update(agent_at(1.0, 50.0), refreshed=True)
    assert one.state() != other.state()


def test_a_loaded_dial_goes_on_as_the_saved_one():
    strength = Constant(2.0, gates=[ReturnGate(0.0, 1.0), ReturnGate(0.2, 0.5)])
    original = Coefficient(strength)
    for value, refreshed in ((0.0, False), (100.0, True), (60.0, False)):
        original.update(agent_at(1.0, value), refreshed)
    loaded = Coefficient(strength)
    loaded.load(json.loads(json.dumps(original.state())))
    for value in (40.0, 90.0, 130.0, 20.0):
        agent = agent_at(1.0, value)
        assert loaded.update(agent, refreshed=False) == original.update(agent, refreshed=False)


def test_the_state_of_another_number_of_gates_is_refused():
    state = Coefficient(Constant(1.0, gates=[ReturnGate()])).state()
    with pytest.raises(ValueError, match="argument"):
        Coefficient(Constant(1.0)).load(state)


class Fixed(GateState):
    """Weighs states as a test says."""

    def __init__(self, weights) -> None:
        self.fixed = weights

    def weights(self, situation):
        return self.fixed


def test_what_gates_weigh_state_by_state_is_multiplied():
    dial = Coefficient(Constant(1.0))
    situation = GateInput(None, torch.zeros(3, 2), torch.zeros(3, 2))
    assert dial.weights(situation) is None, "1 everywhere"
    dial.per_state = [Fixed(torch.tensor([1.0, 0.5, 0.0])), Fixed(None), Fixed(torch.tensor([0.5, 0.5, 1.0]))]
    assert dial.weights(situation).tolist() == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)], ids=str)
def test_weights_of_another_shape_are_refused_and_not_spread_over_all_states(shape):
    dial = Coefficient(Constant(1.0))
    dial.per_state = [Fixed(torch.ones(shape))]
    with pytest.raises(ValueError, match=re.escape(f"Fixed.weights must return the shape (3,), got {shape}")):
        dial.weights(GateInput(None, torch.zeros(3, 2), torch.zeros(3, 2)))


class Stuck(GateState):
    """Is open as far as a test says."""

    def __init__(self, value) -> None:
        self.value = value

    def update(self, agent, refreshed):
        return self.value


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1, None])
def test_a_gate_that_returns_no_number_from_0_to_1_is_refused(value):
    dial = Coefficient(Constant(1.0))
    dial.gates = [Stuck(value)]
    with pytest.raises(ValueError, match=re.escape(f"Stuck.update must be a number in [0, 1], got {value}")):
        dial.update(agent_at(1.0), refreshed=False)


def test_only_gates_that_decide_state_by_state_are_asked_to():
    dial = Coefficient(Constant(1.0, gates=[ReturnGate(), EntropyFloor()]))
    assert dial.per_state == [dial.gates[1]]


# Adaptive


def fed(divergence: float | None = None, loss: float | None = None, ratio: float | None = None) -> Feedback:
    return Feedback(divergence, loss, ratio)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (0.0151, 2.0),  # above 1.5 times 0.01
        (0.0149, 1.0),
        (0.01, 1.0),
        (0.0067, 1.0),
        (0.0066, 0.5),  # below 0.01 over 1.5
        (0.0, 0.5),
        (None, 1.0),
        (math.nan, 1.0),
        (math.inf, 1.0),
    ],
)
def test_an_adaptive_strength_doubles_above_its_target_and_halves_below(divergence, expected):
    dial = Coefficient(Adaptive(0.01))
    assert dial.update(agent_at(1.0), refreshed=False) == 1.0, "the strength at the start"
    dial.control.learn(fed(divergence))
    assert dial.update(agent_at(0.5), refreshed=False) == expected


@given(
    found=st.lists(st.none() | st.floats(0, 1), max_size=30),
    target=st.floats(1e-3, 0.1),
    factor=st.floats(1.01, 4),
    tolerance=st.floats(1, 3),
)
def test_an_adaptive_strength_is_that_of_ppos_rule_and_never_leaves_its_bounds(found, target, factor, tolerance):
    control = Adaptive(target, 0.7, factor, tolerance, low=0.2, high=3.0).build()
    beta = 0.7
    for divergence in found:
        control.learn(fed(divergence))
        if divergence is not None and divergence > tolerance * target:
            beta *= factor
        if divergence is not None and divergence < target / tolerance:
            beta /= factor
        beta = min(max(beta, 0.2), 3.0)
        assert control.at(0.5) == pytest.approx(beta, rel=1e-12)
        assert 0.2 <= control.at(0.5) <= 3.0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": 0.0}, "strength.target must be a number > 0, got 0.0"),
        ({"factor": 1.0}, "strength.factor must be a number > 1, got 1.0"),
        ({"tolerance": 0.9}, "strength.tolerance must be a number >= 1, got 0.9"),
        ({"low": 0.0}, "strength.low must be a number > 0, got 0.0"),
        ({"value": 0.001}, "strength.value must lie between strength.low = 0.01 and strength.high = 10, got 0.001"),
        ({"value": 11}, "strength.value must lie between strength.low = 0.01 and strength.high = 10, got 11"),
    ],
)
def test_what_is_no_adaptive_strength_is_refused(fields, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Adaptive(**fields)


@pytest.mark.parametrize("name", ["PPO", "TRPO", "ARS"])
def test_an_adaptive_strength_follows_the_divergences_of_a_real_agent(name):
    values = []
    for target in (1e6, 1e-12):  # never reached, and always passed once the teacher lags
        distill = config(strength=Adaptive(target), teacher=rlsd.Snapshot(every=3 * ROLLOUT))
        agent = distilled(ALL_ALGORITHMS[name], "box", distill=distill).learn(12 * ROLLOUT)
        values.append(agent.distiller.coefficient.control.value)
        assert agent.distiller.coefficient.state()["control"] == {"value": values[-1]}
    assert values[0] < 0.2
    assert values[1] > 1.0


# Relative


losses = st.floats(-10, 10)
divergences = st.floats(0, 10)


@given(found=st.lists(st.tuples(losses, divergences), min_size=1, max_size=12), window=st.integers(1, 5))
def test_a_relative_strength_is_a_share_of_the_loss_over_the_divergence(found, window):
    control = Relative(0.3, value=0.5, floor=0.01, cap=20.0, window=window).build()
    assert control.at(1.0) == 0.5, "the strength at the start"
    expected = 0.5
    for i in range(len(found)):
        loss, divergence = found[i]
        control.learn(fed(divergence, loss))
        latest = np.array(found[max(i + 1 - window, 0) : i + 1])
        if latest[:, 1].mean() > 0:
            with np.errstate(over="ignore"):  # a divergence of next to nothing asks for more than a float holds
                expected = np.clip(0.3 * np.abs(latest[:, 0]).mean() / latest[:, 1].mean(), 0.01, 20.0)
        assert control.at(0.0) == pytest.approx(expected)


@given(ratios=st.lists(st.floats(0.01, 10), min_size=1, max_size=12), window=st.integers(1, 5))
def test_a_relative_strength_of_gradients_is_a_share_over_their_mean_ratio(ratios, window):
    control = Relative(0.3, of="gradient", floor=0.001, cap=100.0, window=window).build()
    for i, ratio in enumerate(ratios):
        control.learn(fed(1.0, 5.0, ratio))
        assert control.at(0.0) == pytest.approx(0.3 / np.mean(ratios[max(i + 1 - window, 0) : i + 1]))


def test_one_update_without_a_gradient_of_its_own_does_not_silence_the_penalty():
    control = Relative(0.1, of="gradient", floor=0.01, cap=10.0, window=10).build()
    for _ in range(9):
        control.learn(fed(1.0, None, 1.0))
    control.learn(fed(1.0, None, 1e12))
    # Nine that ask for 0.1, and one that asks for the floor, whose ratio is 0.1 / 0.01.
    assert control.at(0.0) == pytest.approx(0.1 / ((9 * 1.0 + 10.0) / 10))


@pytest.mark.parametrize(
    "nothing", [fed(None, 1.0, 1.0), fed(math.nan, 1.0, None), fed(1.0, math.inf, None), fed(0.0, 1.0, None)]
)
def test_an_update_that_tells_nothing_leaves_a_relative_strength_as_it_is(nothing):
    control = Relative(value=0.25).build()
    control.learn(nothing)
    assert control.at(1.0) == 0.25
    gradient = Relative(value=0.25, of="gradient").build()
    for feedback in (nothing._replace(ratio=None), nothing._replace(ratio=math.nan), nothing._replace(ratio=0.0)):
        gradient.learn(feedback)
        assert gradient.at(1.0) == 0.25


def test_an_algorithm_that_logs_no_loss_is_found_out_at_its_first_update():
    with pytest.raises(RuntimeError, match="logs none under train/: use of='gradient'"):
        Relative().build().learn(fed(1.0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"share": 0.0}, "strength.share must be a number > 0, got 0.0"),
        ({"of": "reward"}, "strength.of must be one of 'loss', 'gradient', got 'reward'"),
        ({"window": 0}, "strength.window must be a whole number >= 1, got 0"),
        ({"floor": 0}, "strength.floor must be a number > 0, got 0"),
        ({"floor": 2.0}, "strength.value must lie between strength.floor = 2 and strength.cap = 10, got 1"),
        ({"cap": 0.5}, "strength.value must lie between strength.floor = 0.001 and strength.cap = 0.5, got 1"),
    ],
)
def test_what_is_no_relative_strength_is_refused(fields, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Relative(**fields)


def wrapped(name: str, strength) -> object:
    return small_agent(name, wrap=rlsd.SelfDistilled, distill={"strength": strength})


@pytest.mark.parametrize(
    ("name", "of", "said"),
    [
        ("ARS", "loss", "against a loss, and a ARS has none: use 'adaptive', 'constant' or 'schedule'"),
        ("ARS", "gradient", "against a loss, and a ARS has none: use 'adaptive', 'constant' or"),
        (
            "TRPO",
            "gradient",
            "needs gradients that an optimizer takes, and a TRPO steps by itself: use of",
        ),
    ],
)
def test_an_agent_that_cannot_give_what_a_relative_strength_goes_by_is_refused_with_a_way_out(name, of, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        wrapped(name, Relative(of=of))


@pytest.mark.parametrize("name", [name for name in ALL_ALGORITHMS if name != "ARS"])
def test_a_relative_strength_finds_what_it_goes_by_in_every_other_algorithm(name):
    for of in ("loss", "gradient"):
        if name == "TRPO" and of == "gradient":
            continue
        distill = config(strength=Relative(of=of), teacher=rlsd.Snapshot(every=2 * ROLLOUT))
        kind = "discrete" if name in ("DQN", "QRDQN") else "multidiscrete" if name == "MaskablePPO" else "box"
        agent = distilled(ALL_ALGORITHMS[name], kind, distill=distill).learn(5 * ROLLOUT)
        seen = agent.distiller.coefficient.control.seen
        assert seen, of
        assert all(own >= 0 and penalty >= 0 for own, penalty in seen)
        assert agent.distiller.coefficient.control.value != 1.0, "nothing was learned from the updates"


def test_the_value_that_is_shown_is_the_one_in_force():
    agent = distilled(distill=config(strength=Relative(cap=1.0, value=0.5))).learn(6 * ROLLOUT)
    shown = [dump["distill/coef"] for dump in agent.logger.output_formats[0].dumps if "distill/coef" in dump]
    assert shown[0] == 0.5
    assert shown[-1] != 0.5
    assert all(0.001 <= value <= 1.0 for value in shown)


# Saved and resumed


@pytest.mark.parametrize(
    "strength",
    [
        Adaptive(1e-6, factor=1.1),
        Relative(0.3, window=3),
        Relative(0.3, of="gradient", window=3, gates=EntropyFloor(0.5, 0.5)),
    ],
    ids=["adaptive", "loss", "gradient"],
)
def test_an_agent_whose_strength_follows_its_updates_goes_on_as_if_never_stopped(strength, tmp_path):
    agent = distilled(distill=config(strength=strength)).learn(5 * ROLLOUT)
    before = agent.distiller.coefficient.state()
    check_goes_on_as_if_never_stopped(agent, tmp_path / "saved", 4 * ROLLOUT)
    assert agent.distiller.coefficient.state() != before, "nothing was learned after it was saved"


@given(found=st.lists(st.tuples(losses, divergences, st.floats(0, 10)), max_size=8))
def test_a_loaded_control_goes_on_as_the_saved_one(found):
    for strength in (Adaptive(0.5, factor=1.3), Relative(0.7, window=3), Relative(0.7, of="gradient", window=3)):
        original = strength.build()
        for loss, divergence, ratio in found:
            original.learn(fed(divergence, loss, ratio))
        loaded = strength.build()
        loaded.load(json.loads(json.dumps(original.state())))
        for control in (original, loaded):
            control.learn(fed(0.3, 0.2, 0.1))
        assert loaded.at(0.5) == original.at(0.5)
        assert loaded.state() == original.state()


def test_a_strength_asks_its_gates_whether_they_can_work_with_the_agent():
    class Refusing(Gate):
        def build(self):
            return GateState()

        def check(self, agent, actor):
            raise TypeError("not with me")

    agent = small_agent("PPO")
    with pytest.raises(TypeError, match="not with me"):
        Relative(gates=Refusing()).check(agent, actor_for(agent))


@pytest.mark.parametrize("of", ["loss", "gradient"])
def test_what_is_learned_beside_the_agents_own_update_has_nothing_to_be_relative_to(of):
    with pytest.raises(TypeError, match="and timing 'phase' learns beside it: use 'constant', 'schedule' or timing"):
        rlsd.Phase().check(Relative(of=of))
    rlsd.Phase().check(Adaptive())
