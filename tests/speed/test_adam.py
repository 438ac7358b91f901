"""Adam on one vector is Adam on each tensor, to the last bit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from agents import differences
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlsd.speed.adam import FlatAdam, can_flatten

SHAPES = [(64, 4), (64,), (3, 5), (1,), (2,), (1, 1), (7, 9)]


def made(shapes=SHAPES, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return parameters, torch.optim.Adam(parameters, **options)


def gradients(step, shapes=SHAPES):
    generator = torch.Generator().manual_seed(1000 + step)
    scale = 10.0 ** float(torch.randint(-6, 4, (), generator=generator))
    return [torch.randn(shape, generator=generator) * scale for shape in shapes]


def step_plain(optimizer, parameters, steps):
    for step in steps:
        for p, g in zip(parameters, gradients(step, [p.shape for p in parameters]), strict=True):
            p.grad = g
        optimizer.step()


def step_flat(flat, optimizer, steps):
    with flat.engaged(optimizer):
        for step in steps:
            shapes = [p.shape for p in flat.parameters]
            torch._foreach_copy_(flat.gradients, gradients(step, shapes))
            with torch.no_grad():
                flat.step()


def equal(optimizer, other):
    return not differences(optimizer.state_dict(), other.state_dict())


@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=2).map(tuple), min_size=1, max_size=6),
    lr=st.floats(1e-6, 1.0),
    betas=st.tuples(st.floats(0.0, 0.999), st.floats(0.0, 0.9999)),
    eps=st.sampled_from([1e-8, 1e-5, 1e-3]),
)
def test_parameters_and_state_are_bit_identical_to_torch(shapes, lr, betas, eps):
    ours, optimizer = made(shapes, lr=lr, betas=betas, eps=eps)
    theirs, other = made(shapes, lr=lr, betas=betas, eps=eps)
    step_flat(FlatAdam(optimizer), optimizer, range(20))
    step_plain(other, theirs, range(20))
    assert all(map(torch.equal, ours, theirs)), "a parameter differs from torch's"
    assert equal(optimizer, other), "the optimizer's state differs from torch's"


def test_many_steps_in_turns_with_torch_and_a_schedule_are_bit_identical():
    ours, optimizer = made()
    theirs, other = made()
    flat = FlatAdam(optimizer)
    for turn in range(30):
        for each in (optimizer, other):
            each.param_groups[0]["lr"] = 1e-2 / (turn + 1)
        steps = range(turn * 10, turn * 10 + 10)
        if turn % 3 == 2:
            step_plain(optimizer, ours, steps)
        else:
            step_flat(flat, optimizer, steps)
        step_plain(other, theirs, steps)
    assert all(map(torch.equal, ours, theirs)), "a parameter differs from torch's"
    assert equal(optimizer, other), "the optimizer's state differs from torch's"


def test_a_fused_step_equals_torch_up_to_rounding():
    ours, optimizer = made()
    theirs, other = made()
    step_flat(FlatAdam(optimizer, fused=True), optimizer, range(50))
    step_plain(other, theirs, range(50))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_storage_is_as_before_afterwards():
    parameters, optimizer = made()
    before = [p.data_ptr() for p in parameters]
    step_flat(FlatAdam(optimizer), optimizer, range(2))
    assert [p.data_ptr() for p in parameters] == before, "a parameter was left in the flat vector"
    own = [optimizer.state[p]["exp_avg"].untyped_storage() for p in parameters]
    assert [s.nbytes() for s in own] == [p.numel() * 4 for p in parameters], "the state was left in the flat vector"
    copied = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
    assert equal(optimizer, copied), "a copy of the optimizer differs"


def test_storage_is_as_before_also_after_a_failure():
    parameters, optimizer = made()
    before, flat = [p.data_ptr() for p in parameters], FlatAdam(optimizer)
    with pytest.raises(ZeroDivisionError), flat.engaged(optimizer):
        raise ZeroDivisionError
    assert [p.data_ptr() for p in parameters] == before, "a parameter was left in the flat vector"
    assert not optimizer.state, "state was made without a step"


def test_hooks_of_the_optimizer_are_called_and_see_the_gradient():
    parameters, optimizer = made()
    told = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: told.append((o, args, parameters[0].grad.clone())))
    optimizer.register_step_post_hook(lambda o, args, kwargs: told.append((o, args, parameters[0].detach().clone())))
    start = parameters[0].detach().clone()
    step_flat(FlatAdam(optimizer), optimizer, [0])
    assert [entry[:2] for entry in told] == [(optimizer, (optimizer,))] * 2, "the hooks were not called as torch does"
    assert torch.equal(told[0][2], gradients(0)[0]), "the pre-hook saw another gradient"
    assert not torch.equal(told[1][2], start), "the post-hook came before the step"


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.1}, {"foreach": True}, {"fused": True}],
    ids=str,
)
def test_other_kinds_of_adam_are_refused(options):
    assert can_flatten(made()[1]), "plain Adam was refused"
    assert not can_flatten(made(**options)[1]), "an Adam that steps otherwise was accepted"


def test_other_optimizers_are_refused():
    parameters, optimizer = made()
    optimizer.step = optimizer.step  # as a learning rate scheduler leaves it
    assert not can_flatten(optimizer), "an optimizer with its step replaced was accepted"
    assert not can_flatten(torch.optim.AdamW(parameters)), "AdamW was accepted"
    assert not can_flatten(torch.optim.Adam([{"params": [p]} for p in parameters])), "several groups were accepted"


def test_parameters_at_different_steps_are_refused():
    parameters, optimizer = made()
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert not can_flatten(optimizer), "parameters that were not stepped together were accepted"
