"""A store by episode that begins empty: its files hold no state."""

from stable_baselines3 import PPO

import rlsd


def test_an_agent_that_was_saved_without_its_states_is_loaded(tmp_path):
    wanted = rlsd.recipe("remember").changed({"states.saved": False})
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, distill=wanted, seed=0)
    agent.learn(64).save(tmp_path / "agent")
    again = rlsd.SelfDistilled(PPO).load(tmp_path / "agent", env=agent.get_env())
    assert agent.distiller.states.count > 0 and again.distiller.states.count == 0
    assert again.learn(64).distiller.states.count > 0
