"""The tensor rollout buffer computes and hands out what SB3's does, to the last bit."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, VECTOR, copied, differences, generators
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from rlsd.speed.rollouts import TensorRolloutBuffer, give_back

DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def filled(cls: type[Any], seed: int, steps: int, envs: int, space: Any, actions: Any, **kwargs: Any) -> Any:
    """A buffer after a rollout of random numbers, with episodes that end now and then."""
    buffer = RolloutBuffer(steps, space, actions, device="cpu", n_envs=envs, **kwargs)
    buffer.__class__ = cls
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for _ in range(2):  # the second rollout replaces the first
        buffer.reset()
        for _ in range(steps):
            shape = (envs,) if isinstance(space, spaces.Discrete) else (envs, *space.shape)
            seen = rng.integers(0, 5, shape) if space.dtype != np.float32 else rng.normal(size=shape)
            acted = rng.integers(0, 4, (envs, 1)) if actions is DISCRETE else rng.normal(size=(envs, 2))
            value, log_prob = torch.randn(envs, 1) * 50, torch.randn(envs)
            buffer.add(seen.astype(space.dtype), acted, rng.normal(size=envs), rng.random(envs) < 0.3, value, log_prob)
        buffer.compute_returns_and_advantage(torch.randn(envs, 1), rng.random(envs) < 0.5)
    return buffer


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 12),
    envs=st.integers(1, 5),
    gamma=st.sampled_from([1.0, 0.98, 0.99, 0.0, 1 / 3, 1, np.float64(0.97), np.float32(0.97)]),
    gae_lambda=st.sampled_from([1, 1.0, 0.95, 0.8, 0.0, np.float64(0.9)]),
)
def test_returns_and_advantages_are_sb3s(seed: int, steps: int, envs: int, gamma: Any, gae_lambda: Any) -> None:
    arguments = {"gamma": gamma, "gae_lambda": gae_lambda}
    own, tensor = (
        filled(cls, seed, steps, envs, VECTOR, DISCRETE, **arguments) for cls in (RolloutBuffer, TensorRolloutBuffer)
    )
    assert not differences(_arrays(own), _arrays(tensor))


@pytest.mark.parametrize("batch_size", [None, 4, 7, 100])
@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize(
    ("space", "actions"), [(VECTOR, DISCRETE), (VECTOR, BOX), (IMAGE_CHW, DISCRETE), (spaces.Discrete(5), BOX)]
)
def test_minibatches_are_sb3s(space: Any, actions: Any, envs: int, batch_size: int | None) -> None:
    given_out = []
    for cls in (RolloutBuffer, TensorRolloutBuffer):
        buffer = filled(cls, 3, 8, envs, space, actions)
        np.random.seed(7)  # noqa: NPY002
        epochs = [[tuple(batch) for batch in buffer.get(batch_size)] for _ in range(2)]
        given_out.append((epochs, generators()["numpy"], _arrays(buffer)))
    assert not differences(*given_out)


def _arrays(buffer: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(buffer).items() if isinstance(value, (np.ndarray, int, bool))}


def test_a_minibatch_is_no_view_of_the_rollout() -> None:
    buffer = filled(TensorRolloutBuffer, 0, 8, 2, VECTOR, DISCRETE)
    (batch,) = buffer.get()
    batch.advantages.zero_()
    assert buffer.advantages.any()


def test_what_is_put_in_an_arrays_place_is_handed_out() -> None:
    buffer = filled(TensorRolloutBuffer, 0, 8, 2, VECTOR, DISCRETE)
    list(buffer.get(4))
    buffer.advantages = np.full_like(buffer.advantages, 2.5)
    assert all((batch.advantages == 2.5).all() for batch in buffer.get(4))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_a_copy_is_sb3s(copier: Any) -> None:
    buffer = filled(TensorRolloutBuffer, 0, 8, 2, VECTOR, DISCRETE)
    list(buffer.get(4))
    twin = copier(buffer)
    assert type(twin) is RolloutBuffer
    before = copied(_arrays(buffer))
    give_back(buffer)
    assert type(buffer) is RolloutBuffer
    assert vars(buffer).keys() == vars(twin).keys()
    assert not differences(before, _arrays(twin))


def test_only_sb3s_own_buffer_is_lent_the_class() -> None:
    space = spaces.Dict({"a": VECTOR})
    assert not TensorRolloutBuffer.suits(DictRolloutBuffer(4, space, DISCRETE, device="cpu"))
    assert not TensorRolloutBuffer.suits(type("Own", (RolloutBuffer,), {})(4, VECTOR, DISCRETE, device="cpu"))
    assert TensorRolloutBuffer.suits(RolloutBuffer(4, VECTOR, DISCRETE, device="cpu"))
