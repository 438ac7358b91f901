"""Perceptrons by hand against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlsd.speed import mlp


@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    rows=st.integers(1, 70),
    kinds=st.lists(st.sampled_from([nn.Tanh, nn.ReLU]), min_size=4, max_size=4),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_are_autograds(widths, rows, kinds, last, seed):
    torch.manual_seed(seed)
    modules = []
    for i, kind in zip(range(len(widths) - 1), kinds, strict=False):
        modules += [nn.Linear(widths[i], widths[i + 1]), kind()]
    network = nn.Sequential(*modules[:-1])
    x, slope = torch.randn(rows, widths[0]), torch.randn(rows, widths[-1])
    out = network(x)
    theirs = torch.autograd.grad(out, list(network.parameters()), slope)
    layers = mlp.layers_of(network)
    into = [(torch.empty_like(layer.weight), torch.empty_like(layer.bias)) for layer in layers]
    for quick in (False, True):
        way = mlp.MLPBuffers(layers, rows, quick)
        with torch.no_grad():
            way.bind()
            torch.testing.assert_close(way.forward(x), out, rtol=1e-5, atol=1e-5)
            way.backward(slope, into)
        for ours, other in zip([g for pair in into for g in pair], theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_a_pass_follows_parameters_to_other_storage():
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    way, x = mlp.MLPBuffers(mlp.layers_of(network), 3), torch.randn(3, 5)
    way.bind()
    way.forward(x)
    for p in network.parameters():
        p.data = p.data.clone() + 0.1
    way.bind()
    assert torch.equal(way.forward(x), network(x)), "an old storage was used"


class _Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked():
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].register_forward_hook(lambda *_: None)
    return network


def _half_frozen():
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.Linear(2, 2), nn.ELU()),
        lambda: nn.Sequential(nn.Linear(2, 2, bias=False)),
        lambda: nn.Linear(2, 2).double(),
        lambda: _Scaled(2, 2),
        _hooked,
        _half_frozen,
    ],
    ids=["elu", "no bias", "double", "own layer", "hook", "frozen"],
)
def test_what_is_not_known_by_hand_is_refused(network):
    assert mlp.layers_of(network()) is None, "a network was taken for a perceptron that it is not"
