"""Students that take the agent's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    logged,
    optimizers,
    patches,
    scramble,
    training_state,
    untouched_generators,
)
from helpers import check_goes_on_as_if_never_stopped, disturb
from stable_baselines3 import DQN, PPO, SAC

import rlsd
from rlsd.optimizers import load_state, optimizers_of, state_tensors
from rlsd.returns import Episodes
from rlsd.students import Reborn
from rlsd.students.imitation_loss import held_out, training_slots
from rlsd.students.initialization import fresh_policy, head_names, new_student
from rlsd.students.rebirth import take_over
from rlsd.students.rollback import RollbackGuard
from rlsd.teachers.frozen_policy import named_tensors

SEQUENTIAL = [
    ("PPO", "discrete"),
    ("PPO", "gsde"),
    ("PPO", "normalized"),
    ("A2C", "box"),
    ("TRPO", "box"),
    ("MaskablePPO", "multidiscrete"),
    ("DQN", "discrete"),
    ("QRDQN", "discrete"),
    ("SAC", "box"),
    ("TQC", "box"),
    ("CrossQ", "box"),
    ("TD3", "box"),
    ("DDPG", "box"),
    ("ARS", "box"),
]
PARALLEL = [case for case in SEQUENTIAL if case[0] not in ("A2C", "TRPO", "ARS")]
_CORE = ("PPO", "DQN", "SAC", "ARS")


def each(cases: list[tuple[str, ...]]) -> list[Any]:
    """One case of each way to be reborn; the rest in the slow run."""
    first = [next((case for case in cases if case[0] == name), None) for name in _CORE]
    return [pytest.param(*case, marks=[] if case in first else pytest.mark.slow) for case in cases]


#: Reborn soon, for next to nothing, whatever comes of it.
SOON = {"every": 2 * ROLLOUT, "steps": 4, "attempts": 1, "batch_size": 8, "kl_bound": 1e9, "episodes": 5}


def reborn(name: str = "PPO", on: str = "discrete", agent: Any = None, **answer: Any) -> Any:
    timing = Reborn(**{**SOON, **answer})
    return distilled(ALL_ALGORITHMS[name], on, distill=config(timing=timing), **(agent or {}))


def steps(name: str, rollouts: int) -> int:
    return rollouts * ROLLOUT * (5 if name == "ARS" else 1)


def whole(agent: Any) -> Any:
    return training_state(agent), distillation_state(agent)


# --- Until a student takes over, nothing is different ---------------------------------------------


@pytest.mark.parametrize(("name", "kind"), each(SEQUENTIAL))
def test_a_student_that_is_refused_leaves_no_trace(name: str, kind: str) -> None:
    total = steps(name, 6)
    plain = build(ALL_ALGORITHMS[name], kind).learn(total)
    agent = reborn(name, kind, kl_bound=1e-12).learn(total)
    assert agent.distiller.auxiliary.refused > 0
    assert not differences(training_state(plain), training_state(agent))
    assert logged(plain) == logged(agent)


@pytest.mark.parametrize(("name", "kind"), each(PARALLEL))
def test_a_student_beside_the_agent_leaves_no_trace(name: str, kind: str) -> None:
    plain = build(ALL_ALGORITHMS[name], kind).learn(6 * ROLLOUT)
    agent = reborn(name, kind, mode="parallel", every=10 * ROLLOUT, over=9 * ROLLOUT)
    agent.distiller.auxiliary.began = -9 * ROLLOUT  # so that it is due at once
    agent.learn(6 * ROLLOUT)
    student = agent.distiller.auxiliary.companion
    assert student is not None
    assert not differences(training_state(plain), training_state(agent))
    assert logged(plain) == logged(agent)
    assert not patches(agent)
    assert all(state_tensors(optimizer) for optimizer in optimizers_of(student.policy).values()), "it did not learn"


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_strength_zero_is_plain_sb3(mode: str) -> None:
    plain = build(PPO).learn(6 * ROLLOUT)
    timing = Reborn(**SOON, mode=mode, over=ROLLOUT)
    agent = distilled(PPO, distill=config(timing=timing, strength=0.0)).learn(6 * ROLLOUT)
    assert not differences(training_state(plain), training_state(agent))


# --- Taking over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), each(SEQUENTIAL))
def test_a_student_takes_over_in_the_agents_own_networks(name: str, kind: str) -> None:
    agent = reborn(name, kind).learn(steps(name, 3))
    kept = {key: id(parameter) for key, parameter in agent.policy.named_parameters()}
    student = new_student(agent, np.random.default_rng(5))
    with untouched_generators():
        take_over(agent, student, with_optimizers=False)
    assert {key: id(parameter) for key, parameter in agent.policy.named_parameters()} == kept
    assert not differences(dict(named_tensors(student)), dict(named_tensors(agent.policy)))
    assert not any(state_tensors(optimizer) for optimizer in optimizers_of(agent.policy).values())
    agent.learn(steps(name, 2), reset_num_timesteps=False)
    assert differences(dict(named_tensors(student)), dict(named_tensors(agent.policy))), "it does not learn on"


def test_the_bound_on_the_gap_is_kept() -> None:
    agent = reborn(steps=200, attempts=5, kl_bound=0.01, learning_rate=0.01, every=10**6)
    agent.learn(4 * ROLLOUT)
    disturb(agent.policy, 0.5)
    before, states = agent.distiller.actor.frozen(agent.policy), agent.distiller.states
    agent.distiller.auxiliary.began = -(10**7)
    agent.distiller.auxiliary.after(agent, lambda: None)
    assert agent.distiller.auxiliary.rebirths == 1
    slots = held_out(states.slots(), 4096)
    seen = states.gather(slots, torch.from_numpy(slots))
    actor = agent.distiller.actor
    with torch.no_grad():
        p, q = (actor.parameters(module, seen) for module in (before, agent.policy))
    gap = float(actor.family.kl(p, q).mean())
    assert gap == pytest.approx(agent.distiller.auxiliary.metrics()["rebirth_kl"], rel=1e-4)
    assert 0.0 < gap <= 0.01


def test_a_student_learns_values_too() -> None:
    agent = reborn(steps=400, learning_rate=0.01, every=10**6).learn(4 * ROLLOUT)
    disturb(agent.policy, 0.5)
    states = agent.distiller.states
    seen = states.gather(np.arange(states.count), torch.arange(states.count))
    before = agent.policy.predict_values(seen).detach()
    agent.distiller.auxiliary.began = -(10**7)
    agent.distiller.auxiliary.after(agent, lambda: None)
    error = (agent.policy.predict_values(seen) - before).square().mean()
    assert error < 0.1 * before.var()


def test_a_companion_brings_its_optimizer() -> None:
    agent = reborn(mode="parallel", over=ROLLOUT).learn(4 * ROLLOUT)
    assert agent.distiller.auxiliary.rebirths == 1
    assert state_tensors(agent.policy.optimizer)


def test_the_student_draws_on_states_that_are_not_held_out() -> None:
    many, few = np.arange(105) * 3 + 1, np.arange(5) + 7
    drawn = training_slots(many, 5000, np.random.default_rng(0))
    assert set(drawn) == set(many) - set(held_out(many, 4096))
    assert set(training_slots(few, 500, np.random.default_rng(0))) == set(few) == set(held_out(few, 10))


# --- What a student begins with -------------------------------------------------------------------

HEADS = {
    "PPO": {"action_net", "value_net"},
    "DQN": {"q_net.q_net.2"},
    "QRDQN": {"quantile_net.quantile_net.2"},
    "SAC": {"actor.mu", "actor.log_std", "critic.qf0.2", "critic.qf1.2"},
    "TD3": {"actor.mu.2", "critic.qf0.2", "critic.qf1.2"},
    "ARS": {"action_net.2"},
}


@pytest.mark.parametrize(("name", "expected"), HEADS.items())
def test_the_last_layers_are_those_that_give_actions_and_values(name: str, expected: set[str]) -> None:
    agent = build(ALL_ALGORITHMS[name], "discrete" if name in ("PPO", "DQN", "QRDQN") else "box")
    assert {key.rpartition(".")[0] for key in head_names(agent.policy)} == expected
    student = new_student(agent, np.random.default_rng(0), "last_layers")
    alike = {
        key for key, tensor in named_tensors(student).items() if torch.equal(tensor, named_tensors(agent.policy)[key])
    }
    changed = {key.rpartition(".")[0] for key in dict(student.named_parameters()).keys() - alike}
    assert {key for key in changed if "target" not in key} == expected


def test_shrink_and_perturb_mixes_old_and_fresh_weights() -> None:
    agent = build(SAC, "box")
    disturb(agent.policy, 0.3)
    fresh = fresh_policy(agent, np.random.default_rng(1))
    student = new_student(agent, np.random.default_rng(1), "shrink_and_perturb", shrink=0.7, perturb=0.2)
    old, new = named_tensors(agent.policy), named_tensors(fresh)
    for key, tensor in named_tensors(student).items():
        if "target" not in key:
            torch.testing.assert_close(tensor, 0.7 * old[key] + 0.2 * new[key])
    assert not differences(dict(student.critic.state_dict()), dict(student.critic_target.state_dict()))


@pytest.mark.parametrize(("name", "kind"), [*SEQUENTIAL, ("PPO", "dict")])
def test_fresh_weights_are_sb3s_own_and_draw_no_global_number(name: str, kind: str) -> None:
    agent = build(ALL_ALGORITHMS[name], kind)
    with untouched_generators():
        one, other = (fresh_policy(agent, np.random.default_rng(seed)) for seed in (1, 2))
        again = fresh_policy(agent, np.random.default_rng(1))
    assert type(one) is type(agent.policy)
    assert not differences(dict(named_tensors(one)), dict(named_tensors(again)))
    assert differences(dict(named_tensors(one)), dict(named_tensors(other)))
    assert one.use_sde == agent.policy.use_sde if hasattr(agent.policy, "use_sde") else True


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_the_state_of_an_optimizer_is_taken_up_whole(cls: Any) -> None:
    def trained(n: int) -> Any:
        net = torch.nn.Linear(2, 1)
        with torch.no_grad():
            net.weight.fill_(1.0)
            net.bias.zero_()
        return net, cls(net.parameters(), lr=0.1, **({"momentum": 0.9} if cls is torch.optim.SGD else {}))

    def step(net: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()

    (net, optimizer), (other, second) = trained(0), trained(0)
    step(net, optimizer)
    other.load_state_dict(net.state_dict())
    load_state(second, state_tensors(optimizer))
    step(net, optimizer)
    step(other, second)
    assert not differences(dict(net.state_dict()), dict(other.state_dict()))
    with pytest.raises(ValueError, match="a parameter number 7"):
        load_state(second, {"7/step": torch.tensor(1.0)})


# --- RollbackGuard ------------------------------------------------------------------------------------


def judged(agent: Any, returns: list[float], **settings: Any) -> tuple[RollbackGuard, list[bool | None]]:
    """A probation that began after returns of 0 to 10, and its verdicts as episodes end one by one."""
    probation = RollbackGuard(**({"episodes": 4, "tolerance": 0.05} | settings), ended=Episodes())
    for value in (0.0, 10.0):
        agent.ep_info_buffer.clear()
        agent.ep_info_buffer.extend({"r": value, "l": 5} for _ in range(20))
        probation.watch(agent)
    probation.begin(agent)
    verdicts = []
    for value in returns:
        agent.ep_info_buffer.append({"r": value, "l": 5})
        verdicts.append(probation.watch(agent))
    return probation, verdicts


@pytest.mark.parametrize(
    ("returns", "verdict"),
    [([9.8] * 4, True), ([9.4] * 4, False), ([30.0, -10.0, 20.0, 5.0], True), ([0.0] * 4, False)],
    ids=["near enough", "too far below", "chance may explain it", "fallen"],
)
def test_a_student_is_judged_by_its_own_episodes(returns: list[float], verdict: bool) -> None:
    agent = build(PPO).learn(ROLLOUT)
    _, verdicts = judged(agent, [-100.0, -100.0, *returns])  # the first two were begun by its predecessor
    assert verdicts == [None] * 5 + [verdict]


def test_without_new_episodes_nothing_is_decided() -> None:
    agent = build(PPO).learn(ROLLOUT)
    probation, _ = judged(agent, [10.0] * 3)
    assert [probation.watch(agent) for _ in range(5)] == [None] * 5
    assert probation.on
    assert len(probation.returns) == 1


@pytest.mark.parametrize(("name", "kind"), each(SEQUENTIAL))
def test_when_probation_fails_the_old_agent_comes_back_exactly(name: str, kind: str) -> None:
    agent = reborn(name, kind, every=10**6).learn(steps(name, 4))
    lesson, keys = agent.distiller.auxiliary, ("policy", "optimizer", "variables")
    agent.ep_info_buffer = [{"r": 10.0, "l": 5}] * 19 + [{"r": 10.0, "l": 5}]
    before = copied({key: training_state(agent)[key] for key in keys})
    lesson.began = -(10**7)
    lesson.after(agent, lambda: None)
    assert lesson.rebirths == 1
    assert lesson.probation.on
    disturb(agent.policy)
    for optimizer in optimizers(agent).values():
        optimizer.step()
    agent.ep_info_buffer = [{"r": -10.0, "l": 5} for _ in range(20)]
    lesson.after(agent, lambda: None)
    assert lesson.returned == 1
    assert not lesson.probation.on
    after = {key: training_state(agent)[key] for key in keys}
    assert not [d for d in differences(before, after) if "param_groups" not in d]
    if name == "ARS":
        assert torch.equal(agent.weights, torch.nn.utils.parameters_to_vector(agent.policy.parameters()))


@pytest.mark.parametrize("teacher", [rlsd.Ema(0.99), rlsd.Selective(every=1, average=1000.0)], ids=lambda a: a.name)
def test_an_average_begins_anew_whenever_another_network_takes_over(teacher: Any) -> None:
    timing = Reborn(**{**SOON, "every": 10**6})
    agent = distilled(PPO, distill=config(timing=timing, teacher=teacher)).learn(4 * ROLLOUT)
    lesson, average = agent.distiller.auxiliary, agent.distiller.teacher

    def same() -> bool:
        own = named_tensors(agent.policy)
        return all(torch.equal(tensor, own[name]) for name, tensor in named_tensors(average.policy).items())

    agent.ep_info_buffer = [{"r": 10.0, "l": 5} for _ in range(20)]
    assert not same()
    version = average.version
    lesson.began = -(10**7)
    lesson.after(agent, lambda: None)
    assert lesson.rebirths == 1
    assert same()
    assert average.weight == 1.0
    assert average.version == version + 1, "targets of before are not asked for anew"
    disturb(agent.policy)
    agent.ep_info_buffer = [{"r": -10.0, "l": 5} for _ in range(20)]
    lesson.after(agent, lambda: None)
    assert lesson.returned == 1
    assert same()


def test_no_other_student_begins_while_one_is_on_probation() -> None:
    agent = reborn(every=3 * ROLLOUT, episodes=10**6, agent={"stats_window_size": 5}).learn(8 * ROLLOUT)
    assert agent.distiller.auxiliary.rebirths == 1
    assert agent.distiller.auxiliary.probation.on


def test_a_student_is_not_judged_against_too_few_episodes() -> None:
    agent = reborn(every=ROLLOUT, episodes=2).learn(2 * ROLLOUT)
    assert agent.distiller.auxiliary.rebirths == 2
    assert not agent.distiller.auxiliary.probation.on


# --- Stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    each([(*case, "sequential") for case in SEQUENTIAL]) + each([(*case, "parallel") for case in PARALLEL]),
)
def test_resumed_in_the_middle_is_as_never_stopped(name: str, kind: str, mode: str, tmp_path: Path) -> None:
    total = steps(name, 7)
    few = {} if name in ("DDPG", "ARS") else {"stats_window_size": 5}

    def agent() -> Any:
        return reborn(name, kind, few, mode=mode, over=2 * ROLLOUT, episodes=10)

    checkpoints = rlsd.Checkpoints(tmp_path, every=steps(name, 3))
    agent().learn(total, callback=checkpoints)
    expected = copied(whole(agent().learn(total)))
    scramble()
    again = rlsd.resume(min(tmp_path.iterdir(), key=lambda path: int(path.name)))
    lesson = again.distiller.auxiliary
    assert lesson.companion is not None if mode == "parallel" else lesson.rebirths > 0
    again.learn(total - again.num_timesteps, reset_num_timesteps=False)
    assert lesson.rebirths > 0
    assert not differences(expected, whole(again))


@pytest.mark.parametrize("timing", [Reborn(**SOON), rlsd.Phase(every_rollouts=2)], ids=lambda a: a.name)
def test_resumed_with_an_average_that_began_anew_is_as_never_stopped(timing: Any, tmp_path: Path) -> None:
    answers = config(timing=timing, teacher=rlsd.Ema(0.9))
    agent = distilled(PPO, distill=answers, stats_window_size=5).learn(5 * ROLLOUT)
    assert agent.distiller.teacher.weight < 2.0, "it did not begin anew lately"
    check_goes_on_as_if_never_stopped(agent, tmp_path, 6 * ROLLOUT)


@pytest.mark.parametrize("rollouts", [1, 2, 3])
def test_steps_are_counted_through_every_learn(rollouts: int) -> None:
    agent = reborn(every=5 * ROLLOUT)
    for _ in range(6 // rollouts):
        agent.learn(rollouts * ROLLOUT)
    assert agent.distiller.clock.steps(agent) == 6 * ROLLOUT
    assert agent.distiller.auxiliary.rebirths == 1


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("A2C", "parallel", "A2C's update only suits the policy that acted"),
        ("TRPO", "parallel", "use timing.mode 'sequential'"),
        ("ARS", "parallel", "ARS has no update that a student could run beside it: use timing.mode 'sequential'"),
        ("RecurrentPPO", "sequential", "RecurrentPPO's critic is not stored with them: use timing 'phase'"),
    ],
)
def test_what_cannot_be_reborn_is_refused_in_one_line(name: str, mode: str, words: str) -> None:
    with pytest.raises(TypeError, match=words) as raised:
        reborn(name, "box", mode=mode, over=ROLLOUT)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("mode", "answers", "words", "instead"),
    [
        ("parallel", {"strength": "adaptive"}, "use 'constant', in parallel also 'schedule'", {"strength": "schedule"}),
        ("sequential", {"strength": "adaptive"}, "timing 'reborn' lays none on them: use 'constant'", {}),
        ("parallel", {"strength": {"gates": ["entropy_floor"]}}, "gate 'entropy_floor' decides which states", {}),
        ("parallel", {"strength": {"gates": ["value_advantage"]}}, "leave the gate out, or use timing 'phase'", {}),
        (
            "sequential",
            {"strength": {"gates": ["return"]}},
            "gate 'return' has nothing to weigh .*: leave the gate out, or use timing.mode 'parallel'",
            {"strength": {"gates": ["return"]}, "timing": Reborn(**SOON, mode="parallel", over=ROLLOUT)},
        ),
        ("parallel", {"divergence": {"value_weight": 100}}, "timing.value_weight = 0.5: set that", {}),
    ],
)
def test_answers_that_would_change_nothing_are_refused_in_one_line(
    mode: str, answers: dict[str, Any], words: str, instead: dict[str, Any]
) -> None:
    timing = Reborn(**SOON, mode=mode, over=ROLLOUT)
    with pytest.raises(TypeError, match=words) as raised:
        distilled(PPO, distill=config(**{"timing": timing, **answers}))
    assert "\n" not in str(raised.value)
    assert distilled(PPO, distill=config(**{"timing": timing, **instead})).distiller.auxiliary is not None


def test_the_present_minibatch_is_not_enough() -> None:
    answers = config(timing=Reborn(), states="minibatch")
    with pytest.raises(TypeError, match="more states than those of the present minibatch: use states 'reservoir'"):
        distilled(PPO, distill=answers)


def test_a_parallel_phase_must_end_before_the_next_begins() -> None:
    with pytest.raises(ValueError, match=r"timing\.over must be at most timing\.every = 10, got 20"):
        Reborn(every=10, over=20, mode="parallel")
    assert Reborn(every=10, over=20).mode == "sequential"


def test_a_dqn_students_target_follows_as_often_as_the_agents() -> None:
    agent = reborn("DQN", mode="parallel", every=100 * ROLLOUT, over=90 * ROLLOUT)
    agent.distiller.auxiliary.began = -99 * ROLLOUT
    agent.learn(2 * ROLLOUT)
    student: Any = agent.distiller.auxiliary.companion.policy
    assert isinstance(agent, DQN)
    start = copied(dict(student.q_net_target.state_dict()))
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert differences(start, dict(student.q_net_target.state_dict()))


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("states", ["recent", "mixture", "reservoir"])
@pytest.mark.parametrize("teacher", ["ema", "ensemble", "snapshot"])
def test_students_suit_every_teacher_and_store(teacher: str, states: str, mode: str) -> None:
    timing = Reborn(**SOON, mode=mode, over=ROLLOUT)
    agent = distilled(PPO, distill=config(timing=timing, teacher=teacher, states=states)).learn(5 * ROLLOUT)
    assert agent.distiller.auxiliary.rebirths > 0
