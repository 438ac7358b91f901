"""Held where the agent no longer goes, free where it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import copied, differences, untouched_generators
from helpers import disturb, small_agent, small_ppo, vec_env
from penalties import loss_of

import rlsd
from rlsd.actors import actor_for
from rlsd.observations import as_items
from rlsd.teachers import Selective
from rlsd.teachers.selective import WINDOW

CONFIG = {
    "teacher": {"type": "selective", "every": 16},
    "states": {"type": "reservoir", "capacity": 64, "batch_size": 16},
}


def states(n: int, mean: float, seed: int = 0, size: int = 3) -> dict[str, np.ndarray]:
    return as_items(np.random.default_rng(seed).normal(mean, 1.0, (n, size)).astype(np.float32))


def built(agent, **fields):
    """A selective teacher with a first snapshot, and a reservoir of 256 old states around 0."""
    teacher = Selective(**{"every": 1, "steps": 200} | fields).build(actor_for(agent))
    store = rlsd.Reservoir(capacity=512, batch_size=16).build(np.random.SeedSequence(0), agent)
    size = agent.observation_space.shape[0]
    store.add(states(256, 0.0, size=size))
    teacher.take(agent)
    return teacher, store, size


def every_other_held(agent):
    """Change the policy and the teacher, hold every other stored state; return slots, targets before, and holds."""
    replay, teacher = agent.distiller.cache, agent.distiller.teacher
    slots = np.arange(replay.store.count)
    before = replay.targets[slots].clone()
    disturb(agent.policy, 0.5)
    teacher.take(agent)
    held = torch.zeros(len(slots))
    held[::2] = 0.7
    teacher.hold_weight = lambda observations: held
    replay.teach(replay._stale(slots))
    return slots, before, held


def test_states_unlike_those_met_now_are_held_and_the_others_are_free():
    teacher, store, size = built(agent := small_ppo())
    now = states(256, 8.0, seed=1, size=size)
    store.add(now)
    teacher.observe_states(agent, now)
    teacher.prepare(store)
    old, new = (torch.from_numpy(next(iter(s.values()))) for s in (states(256, 0.0, size=size), now))
    assert teacher.hold_weight(old).min() > 0.8
    assert teacher.hold_weight(new).max() == 0.0
    assert teacher.metrics()["discriminator_accuracy"] > 0.7


def test_nothing_is_held_while_the_agent_goes_where_it_always_went():
    teacher, store, size = built(agent := small_ppo(), steps=50)
    teacher.observe_states(agent, states(256, 0.0, seed=1, size=size))
    teacher.prepare(store)
    held = teacher.hold_weight(torch.from_numpy(next(iter(states(256, 0.0, seed=2, size=size).values()))))
    assert (held > 0).float().mean() < 0.1


def test_a_held_state_keeps_its_target_and_a_free_one_follows_the_snapshot():
    agent = rlsd.SelfDistilled(type(small_ppo()))(
        "MlpPolicy", vec_env(n=2), n_steps=16, batch_size=16, seed=0, distill=CONFIG
    )
    agent.learn(64)
    slots, before, held = every_other_held(agent)
    replay, teacher = agent.distiller.cache, agent.distiller.teacher
    assert torch.equal(replay.targets[slots][::2], before[::2])
    fresh = teacher.targets(replay.store.gather(slots, torch.from_numpy(slots)))
    assert torch.equal(replay.targets[slots][1::2], fresh[1::2])
    assert torch.equal(replay.holds[slots], held)


def test_the_loss_is_the_divergence_weighted_by_how_firmly_each_state_is_held():
    agent = rlsd.SelfDistilled(type(small_ppo()))(
        "MlpPolicy", vec_env(n=2), n_steps=16, batch_size=16, seed=0, distill=CONFIG
    )
    agent.learn(64)
    distiller = agent.distiller
    distiller.teacher.hold_weight = lambda observations: torch.linspace(0.1, 1.0, len(observations))
    disturb(agent.policy, 0.5)
    batches = []
    distiller.on_penalty.append(lambda batch, loss, gradient: batches.append(batch))
    distiller.penalty.begin(agent, 0.3)
    loss = loss_of(distiller.penalty)
    (batch,) = batches
    student = distiller.actor.parameters(agent.policy, batch.states)
    expected = 0.3 * (batch.hold * distiller.actor.family.kl(batch.targets, student)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert batch.hold.std() > 0


def test_a_new_state_enters_with_the_target_of_its_time():
    agent = rlsd.SelfDistilled(type(small_ppo()))(
        "MlpPolicy", vec_env(n=2), n_steps=16, batch_size=16, seed=0, distill=CONFIG
    )
    agent.learn(32)
    assert (agent.distiller.cache.versions[: agent.distiller.states.count] > 0).all()


def test_more_states_than_the_window_holds_are_sampled():
    teacher, _, size = built(agent := small_ppo(), average=1000.0)
    teacher.observe_states(agent, states(3 * WINDOW, 1.0, size=size))
    assert len(next(iter(teacher._recent.values()))) == WINDOW
    for seed in range(3):
        teacher.observe_states(agent, states(WINDOW // 2, float(seed), seed, size=size))
    assert len(next(iter(teacher._recent.values()))) == WINDOW


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN", "ARS"])
def test_it_draws_no_global_random_number(name):
    teacher, store, size = built(agent := small_agent(name))
    with untouched_generators():
        teacher.observe_states(agent, states(64, 3.0, size=size))
        teacher.prepare(store)
        teacher.hold_weight(torch.zeros(5, size))


@pytest.mark.parametrize("kind", ["vector", "image", "dict"])
def test_saved_and_resumed_it_is_as_if_never_stopped(kind, tmp_path):
    from helpers import OBSERVATION_SPACES

    policy, kwargs = {
        "vector": ("MlpPolicy", {}),
        "image": ("CnnPolicy", {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 4}}),
        "dict": ("MultiInputPolicy", {"net_arch": [4]}),
    }[kind]

    def make():
        cls = rlsd.SelfDistilled(type(small_ppo()))
        return cls(
            policy,
            vec_env(OBSERVATION_SPACES[kind], n=2),
            n_steps=8,
            batch_size=8,
            n_epochs=1,
            seed=0,
            device="cpu",
            distill=CONFIG,
            policy_kwargs=kwargs,
        )

    agent = make()
    agent.learn(64)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent")
    assert not differences(copied(agent.distiller.tensors()), copied(loaded.distiller.tensors()))
    assert agent.distiller.state() == loaded.distiller.state()


def test_states_read_where_they_lie_are_refused():
    with pytest.raises(TypeError, match="reservoir"):
        rlsd.SelfDistilled(type(small_agent("DQN")))(
            "MlpPolicy", "CartPole-v1", distill={"teacher": "selective", "states": "replay_buffer"}
        )


@pytest.mark.parametrize("visited", [0.0, 0.3, 1.0])
def test_a_state_weighs_from_visited_to_1_as_it_is_held_times_the_certainty_of_its_target(visited):
    teacher, *_ = built(small_ppo(), visited=visited)
    targets = torch.randn(7, teacher.actor.family.size, generator=torch.Generator().manual_seed(0))
    holds = torch.linspace(0.0, 1.0, 7)
    expected = [visited + (1.0 - visited) * hold for hold in holds.tolist()]
    found = teacher.loss_weight(holds, targets) / teacher.actor.family.confidence(targets)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("visited", [0.5, 1.0])
def test_states_met_now_are_drawn_to_the_teacher_too_and_held_ones_still_keep_their_targets(visited):
    agent = rlsd.SelfDistilled(type(small_ppo()))(
        "MlpPolicy",
        vec_env(n=2),
        n_steps=16,
        batch_size=16,
        seed=0,
        distill={**CONFIG, "teacher": {**CONFIG["teacher"], "visited": visited}},
    )
    disturb(agent.policy, 0.5)  # a policy that acts blindly teaches nothing
    agent.learn(64)
    slots, before, _ = every_other_held(agent)
    replay, teacher = agent.distiller.cache, agent.distiller.teacher
    assert torch.equal(replay.targets[slots][::2], before[::2])
    assert not torch.equal(replay.targets[slots][1::2], before[1::2])
    assert not teacher.inactive
    batch = replay.next()
    assert batch is not None and (batch.hold > 0).all()


def test_the_average_reaches_back_in_environment_steps_however_often_it_is_entered():
    agent = small_ppo()
    teacher = Selective(every=1, average=1000.0).build(actor_for(agent))
    expected, weight, before = None, 0.0, 0
    for steps in (100, 350, 360, 2000):
        disturb(agent.policy, 0.3)
        agent.num_timesteps = steps
        teacher.take(agent)
        now = {name: p.detach().double().clone() for name, p in agent.policy.named_parameters()}
        kept = weight * np.exp(-(steps - before) / 1000.0)
        weight, before = kept + 1.0, steps
        expected = now if expected is None else {n: (kept * expected[n] + now[n]) / weight for n in now}
    assert teacher.weight == pytest.approx(weight)
    found = dict(teacher.policy.named_parameters())
    assert found and all(torch.allclose(p.double(), expected[n], atol=1e-6) for n, p in found.items())


def test_without_an_average_the_teacher_is_the_snapshot_before_the_latest_to_the_bit():
    agent = small_ppo()
    teacher = Selective(every=1).build(actor_for(agent))
    taken = []
    for steps in (100, 200, 300, 400):
        disturb(agent.policy, 0.3)
        agent.num_timesteps = steps
        teacher.take(agent)
        taken.append(copied(dict(agent.policy.named_parameters())))
        before = taken[-2:][0]
        assert all(torch.equal(p, before[n]) for n, p in teacher.policy.named_parameters())
        assert teacher.refreshed_at == steps and teacher.version == len(taken)


@pytest.mark.parametrize(
    ("fields", "window"),
    [({"every": 1}, 256), ({"every": 700}, 700), ({"every": 9999}, WINDOW), ({"every": 1, "average": 9.0}, WINDOW)],
)
def test_states_count_as_met_lately_for_no_longer_than_the_teacher_is_old(fields, window):
    assert Selective(**fields).build(actor_for(small_ppo())).window == window


def test_a_target_of_what_was_left_meanwhile_is_not_of_the_policy_that_forgot_it():
    teacher, store, size = built(agent := small_ppo(), every=512)
    teacher.observe_states(agent, states(512, 0.0, seed=1, size=size))
    known = teacher.targets(old := torch.from_numpy(next(iter(states(64, 0.0, seed=2, size=size).values()))))
    # The agent leaves in the middle of a window, and forgets at once.
    disturb(agent.policy, 1.0)
    elsewhere = states(256, 8.0, seed=3, size=size)
    store.add(elsewhere)
    teacher.observe_states(agent, elsewhere)
    teacher.take(agent)
    teacher.prepare(store)
    assert (teacher.hold_weight(old) == 0).float().mean() > 0.5, (
        "half of the window is still of the states that were left"
    )
    assert torch.equal(teacher.targets(old), known), "they would be held to what is forgotten"
    teacher.observe_states(agent, states(512, 8.0, seed=4, size=size))
    teacher.take(agent)
    teacher.prepare(store)
    assert teacher.hold_weight(old).min() > 0.5, "from now on targets stay as they are"


def test_off_policy_agents_are_held_only_where_they_no_longer_go():
    for name in ("DQN", "SAC", "TD3"):
        answers = small_agent(name, wrap=rlsd.SelfDistilled, distill="selective").distiller.config
        assert (answers.teacher.visited, answers.teacher.average) == (0.0, 0.0)
