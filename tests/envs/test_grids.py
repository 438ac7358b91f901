"""GridCnn: the network for small grids of flags."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from rlsd_envs import GridCnn, make_vec_env


def test_an_agent_trains_on_minatar_through_it():
    pytest.importorskip("minatar")
    env = make_vec_env("MinAtar/Breakout-v1", n_envs=2, seed=0)
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=16,
        batch_size=32,
        n_epochs=1,
        device="cpu",
        policy_kwargs={"features_extractor_class": GridCnn},
    )
    before = agent.policy.features_extractor.filters[0].weight.detach().clone()
    agent.learn(32)
    assert not torch.equal(agent.policy.features_extractor.filters[0].weight, before), "the filters learn nothing"
    env.close()


def test_neighbours_in_the_grid_are_neighbours_in_the_filters():
    torch.manual_seed(0)
    net = GridCnn(spaces.Box(0, 1, (5, 6, 2), bool))
    grid = torch.zeros(1, 5, 6, 2)
    seen = []
    net.filters[0].register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    corner = torch.nn.functional.one_hot(torch.tensor(0), 60).reshape(1, 5, 6, 2)
    net(grid), net(grid + corner)
    changed = (seen[0] != seen[1])[0].any(0)
    assert changed.shape == (3, 4), "filters"
    assert changed[0, 0] and changed.sum() == 1, "a cell in the corner is seen in the corner alone"
    assert net(grid).shape == (1, 128), "features"


@pytest.mark.parametrize("shape", [(4,), (10, 10), (2, 10, 3)])
def test_what_is_no_grid_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=r"height, width, channels.*" + str(shape[0])):
        GridCnn(spaces.Box(0, 1, shape, np.float32))
