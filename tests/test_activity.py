"""What distillation did, in one line."""

from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

import rlsd
from rlsd.activity import Activity


@given(st.lists(st.booleans(), max_size=20))
def test_it_counts_updates_and_those_that_pulled(pulls):
    activity = Activity()
    for number, pulled in enumerate(pulls):
        activity.count(pulled, 10 * number)
    steps = [10 * number for number, pulled in enumerate(pulls) if pulled]
    expected = (len(pulls), len(steps), steps[0] if steps else None, steps[-1] if steps else None)
    assert (activity.updates, activity.pulled, activity.first, activity.last) == expected
    again = Activity()
    again.load(activity.state())
    assert again == activity, "saved and loaded it is another"


def test_an_agent_tells_from_when_it_was_pulled():
    pulling = rlsd.recipe("snapshot", teacher=rlsd.Snapshot(every=64))
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, distill=pulling)
    agent.learn(128)
    assert str(agent.distiller.activity) == "pulled in 3 of 4 updates, steps 64 to 128"


def test_an_agent_that_is_never_behind_was_idle():
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, distill="guard")
    agent.learn(64)
    assert str(agent.distiller.activity) == "idle in all 2 updates"
