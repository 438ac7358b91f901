"""PPO's update of perceptrons on the CPU: forward, loss and gradient by hand, all parameters stepped as one vector.

With ``quick`` off every bit is SB3's: the same operations on the same operands, in SB3's and autograd's order. Numpy
does what is only an addition, a multiplication or a comparison; matrix products, sums and transcendental functions are
torch's. With ``quick`` on, faster kernels round otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from rlsd.speed.adam import FlatAdam, can_flatten
from rlsd.speed.mlp import Layer, MLPBuffers, Preprocessor, is_standard, layers_of
from rlsd.speed.update_blocks import Block, Rollout, Row
from rlsd.speed.update_heads import DiscreteHead, GaussianHead, Head
from rlsd.speed.update_metrics import Figures, refuse_nan, report_early_stop

#: Transitions up to which several epochs' figures wait for each other.
_TOGETHER = 2**13
#: Inputs up to which it pays: beyond, matrix products take the time, and weights and moments kept once more the memory.
_WIDEST = 4096

_WORKSPACES: WeakKeyDictionary[ActorCriticPolicy, UpdateBuffers] = WeakKeyDictionary()


class Coefficients(NamedTuple):
    """What the losses are weighed and clipped with in one update."""

    clip: float
    clip_vf: float | None
    entropy: float
    value: float
    max_norm: float


class MinibatchWorkspace:
    """One block of minibatches and all that works on it."""

    def __init__(self, block: Block, actor: MLPBuffers, critic: MLPBuffers, head: Head) -> None:
        self.block, self.actor, self.critic, self.head = block, actor, critic, head
        size = block.size
        self.values = critic.outputs[-1].view(-1).numpy()
        self.critic_slope = torch.empty(size, 1)
        self.value_slope = self.critic_slope.view(-1).numpy()
        self.slope, self.clipped, self.inside = (np.empty(size, np.float32) for _ in range(3))
        self.keep = np.empty(size, np.bool_)


class UpdateBuffers:
    """The memory for one policy's updates, kept from one to the next."""

    def __init__(self, agent: Any, quick: bool) -> None:
        policy, buffer = agent.policy, agent.rollout_buffer
        self.quick = quick
        self.key = workspace_key(agent, quick)
        self.adam = FlatAdam(policy.optimizer, fused=quick)
        place = {id(p): view for p, view in zip(self.adam.parameters, self.adam.gradients, strict=True)}
        actor, critic = _towers(policy)
        assert actor is not None and critic is not None
        self.inputs = Preprocessor(policy)

        def places(layers: list[Layer]) -> list[tuple[Tensor, Tensor]]:
            return [(place[id(layer.weight)], place[id(layer.bias)]) for layer in layers]

        self.into_actor, self.into_critic = places(actor), places(critic)
        total = buffer.buffer_size * buffer.n_envs
        batch = min(agent.batch_size, total)
        gaussian = type(policy.action_dist) is DiagGaussianDistribution
        # Figures are computed for many small epochs at once; their order is kept only without a truncated minibatch.
        self.epochs = 1 if total % batch else max(1, min(agent.n_epochs, _TOGETHER // total))
        self.benches = []
        for count, size in ((total // batch, batch), (1, total % batch)):
            if size:
                block = Block(count, size, actor[0].inputs, actor[-1].outputs if gaussian else None, self.epochs)
                head: Head = (
                    GaussianHead(block, policy.log_std, place[id(policy.log_std)], quick)
                    if gaussian
                    else DiscreteHead(block, actor[-1].outputs, quick)
                )
                self.benches.append(
                    MinibatchWorkspace(block, MLPBuffers(actor, size, quick), MLPBuffers(critic, size, quick), head)
                )

    def bind(self) -> None:
        """Take up where the parameters lie now."""
        for bench in self.benches:
            bench.actor.bind()
            bench.critic.bind()

    @contextmanager
    def on(self, rollout: Rollout) -> Iterator[None]:
        """Let all blocks be of a rollout's transitions, and let go of it afterwards."""
        for bench in self.benches:
            bench.block.rollout = rollout
        try:
            yield
        finally:
            for bench in self.benches:
                bench.block.rollout = None

    def epoch(self, total: int, number: int, normalize: bool) -> Iterator[tuple[MinibatchWorkspace, list[Row]]]:
        """Draw an order from numpy's global generator, as SB3 does, and give the minibatches in it."""
        order = torch.from_numpy(np.random.permutation(total))  # noqa: NPY002
        start = 0
        for bench in self.benches:
            block = bench.block
            end = start + block.count * block.size
            yield bench, block.load(order[start:end], number, normalize, self.quick)
            start = end


def can_work_on(agent: Any) -> bool:
    """Tell whether an agent's networks are perceptrons that are known by hand, with an optimizer that is."""
    policy = agent.policy
    if "_get_samples" in agent.rollout_buffer.__dict__:  # somebody listens to what is drawn: see rlsd.states.Minibatch
        return False
    if not is_standard(policy) or not can_flatten(policy.optimizer) or isinstance(agent.observation_space, spaces.Dict):
        return False
    actor, critic = _towers(policy)
    if not actor or not critic or agent.device.type != "cpu" or actor[0].inputs > _WIDEST:
        return False
    used = [p for layer in (*actor, *critic) for p in (layer.weight, layer.bias)]
    used += [policy.log_std] if hasattr(policy, "log_std") else []
    stepped = policy.optimizer.param_groups[0]["params"]
    same = {id(p) for p in used} == {id(p) for p in stepped} and len(used) == len(stepped)
    return same and not any(p._backward_hooks for p in stepped)


def _towers(policy: Any) -> tuple[list[Layer] | None, list[Layer] | None]:
    extractor = policy.mlp_extractor
    return layers_of(extractor.policy_net, policy.action_net), layers_of(extractor.value_net, policy.value_net)


def workspace_key(agent: Any, quick: bool) -> tuple[Any, ...]:
    """Return what a workspace is made for; with another, another must be made."""
    buffer, policy = agent.rollout_buffer, agent.policy
    layers = [m for m in policy.mlp_extractor.modules() if not isinstance(m, nn.Sequential)]
    return (
        *(buffer.buffer_size, buffer.n_envs, agent.batch_size, quick, type(policy.action_dist)),
        *(type(layer) for layer in layers),
    )


def workspace_of(agent: Any, quick: bool) -> UpdateBuffers:
    """Return the workspace for an agent's policy."""
    policy = agent.policy
    found = _WORKSPACES.get(policy)
    if found is None or found.key != workspace_key(agent, quick) or not found.adam.fits(policy.optimizer):
        found = _WORKSPACES[policy] = UpdateBuffers(agent, quick)
    return found


@torch.no_grad()
@np.errstate(all="ignore")  # as torch, which goes on with what is not finite
def train(agent: Any, coefficients: Coefficients, quick: bool) -> Figures:
    """Do the epochs of one update."""
    space = workspace_of(agent, quick)
    rollout = Rollout(agent.rollout_buffer, space.inputs)
    figures = Figures()
    with space.adam.engaged(agent.policy.optimizer), space.on(rollout):
        space.bind()
        step = Step(agent, space.adam, coefficients, quick)
        for epoch in range(agent.n_epochs):
            going_on, done = True, []
            number = epoch % space.epochs
            for bench, rows in space.epoch(len(rollout), number, agent.normalize_advantage):
                for row in rows:
                    evaluate(bench, row, coefficients)
                    if agent.target_kl is not None:
                        kl = _approx_kl(row.log_probs, torch.from_numpy(row.old_log_probs)).numpy()
                        if kl > 1.5 * agent.target_kl:
                            going_on = False
                            report_early_stop(agent, epoch, kl)
                            break
                    step(space, bench, row)
                done.append((bench, rows[0].number, row.number + 1))
                if not going_on:
                    break
            agent._n_updates += 1
            if number + 1 == space.epochs or epoch + 1 == agent.n_epochs or not going_on:
                approx_kl = [_note(figures, bench, end, coefficients)[start:] for bench, start, end in done]
                figures.approx_kl = np.concatenate(approx_kl)
            if not going_on:
                break
    return figures


def evaluate(bench: MinibatchWorkspace, row: Row, coefficients: Coefficients) -> None:
    """Run the networks on a minibatch, up to the clipped objective of each sample."""
    features = row.features
    bench.head.log_prob(row, bench.actor.forward(features))
    if math.isnan(row.log_probs_array @ row.log_probs_array):
        refuse_nan()
    bench.critic.forward(features)
    ratios, clipped = row.ratios_array, bench.clipped
    np.subtract(row.log_probs_array, row.old_log_probs, ratios)
    torch.exp(row.ratios, out=row.ratios)
    np.maximum(ratios, np.float32(1 - coefficients.clip), out=clipped)
    np.minimum(clipped, np.float32(1 + coefficients.clip), out=clipped)
    np.multiply(row.advantages, ratios, row.plain)
    np.multiply(row.advantages, clipped, row.clipped)
    if coefficients.clip_vf is None:
        row.values[...] = bench.values
        return
    limit = np.float32(coefficients.clip_vf)
    np.subtract(bench.values, row.old_values, bench.inside)
    np.maximum(bench.inside, -limit, out=row.values)
    np.minimum(row.values, limit, out=row.values)
    row.values += row.old_values


class Step:
    """Gradient steps: the deposit, the gradient of the losses, the clip, Adam."""

    def __init__(self, agent: Any, adam: FlatAdam, coefficients: Coefficients, quick: bool) -> None:
        self._adam, self._quick, self._coefficients = adam, quick, coefficients
        self._optimizer = agent.policy.optimizer
        # Whoever wants to add to the gradients has put a method of his own on the instance.
        told = any(p._post_accumulate_grad_hooks for p in adam.parameters)
        self._armed = told or "zero_grad" in self._optimizer.__dict__

    def __call__(self, space: UpdateBuffers, bench: MinibatchWorkspace, row: Row) -> None:
        """Make one, for a minibatch just evaluated."""
        adam = self._adam
        if not self._armed:
            self.differentiate(space, bench, row)
            self._clip()
            adam.step()
            return
        with torch.enable_grad():  # as SB3 calls it
            self._optimizer.zero_grad()
        self.differentiate(space, bench, row)
        laid, places = [], []
        for p, place in zip(adam.parameters, adam.gradients, strict=True):
            if p.grad is None:
                p.grad = place
            else:
                laid.append(p.grad)
                places.append(place)
        if laid:
            # Autograd would add to what was laid down in place, and then tell whoever asked to be told.
            torch._foreach_add_(laid, places)
            torch._foreach_copy_(places, laid)
        for p in adam.parameters:
            hooks: Any = p._post_accumulate_grad_hooks
            if hooks:
                for hook in tuple(hooks.values()):
                    hook(p)
        self._clip()
        if laid:
            torch._foreach_copy_(laid, places)
        adam.step()

    def differentiate(self, space: UpdateBuffers, bench: MinibatchWorkspace, row: Row) -> None:
        """Write the gradient of a minibatch just evaluated."""
        entropy = np.float32(self._coefficients.entropy) / np.float32(bench.block.size)
        self._slope_of_log_probs(bench, row)
        bench.actor.backward(bench.head.backward(row, bench.slope, entropy), space.into_actor)
        self._slope_of_values(bench, row)
        bench.critic.backward(bench.critic_slope, space.into_critic)

    def _slope_of_log_probs(self, bench: MinibatchWorkspace, row: Row) -> None:
        slope, keep = bench.slope, bench.keep
        # Where the clipped objective is the smaller one, the ratio was clipped and the gradient ends there.
        np.less_equal(row.plain, row.clipped, keep)
        np.multiply(row.slopes, keep, slope)
        if not self._quick:
            # Equal although clipped, by rounding: half of the gradient goes the clipped way, and ends there.
            np.equal(row.plain, row.clipped, keep)
            keep &= bench.clipped != row.ratios_array
            if keep.any():
                slope[keep] *= np.float32(0.5)
        np.multiply(slope, row.ratios_array, slope)

    def _slope_of_values(self, bench: MinibatchWorkspace, row: Row) -> None:
        slope = bench.value_slope
        np.subtract(row.values, row.returns, slope)
        slope *= np.float32(2.0 / bench.block.size)
        slope *= np.float32(self._coefficients.value)
        if self._coefficients.clip_vf is not None:
            limit = np.float32(self._coefficients.clip_vf)
            slope[np.abs(bench.inside) > limit] = 0.0

    def _clip(self) -> None:
        # torch.nn.utils.clip_grad_norm_
        adam, most = self._adam, self._coefficients.max_norm
        if self._quick:
            coefficient = most / (float(torch.linalg.vector_norm(adam.gradient)) + 1e-6)
            if not coefficient >= 1.0:
                adam.gradient.mul_(coefficient)
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(adam.gradients)))
        # On one number numpy is the quicker one. Torch divides a number by a tensor as here, by its reciprocal.
        coefficient = np.float32(1.0) / (norm.numpy() + np.float32(1e-6)) * np.float32(most)
        if not coefficient >= 1.0:
            adam.gradient.mul_(float(coefficient))


def _approx_kl(log_probs: Tensor, old: Tensor) -> Tensor:
    log_ratio = log_probs - old
    return ((torch.exp(log_ratio) - 1) - log_ratio).mean(-1)


def _note(figures: Figures, bench: MinibatchWorkspace, count: int, coefficients: Coefficients) -> np.ndarray:
    """Take the figures of a block's first ``count`` minibatches; return their approximate divergences."""
    block = bench.block
    policy = -torch.minimum(block.plain[:count], block.clipped[:count]).mean(1)
    outside = (block.ratios[:count] - 1).abs() > coefficients.clip
    value = (block.returns[:count] - block.values[:count]).square().mean(1)
    entropy = -bench.head.entropies(count).mean(1)
    loss = policy[-1] + coefficients.entropy * entropy[-1] + coefficients.value * value[-1]
    figures.policy_losses += policy.tolist()
    figures.value_losses += value.tolist()
    figures.entropy_losses += entropy.tolist()
    figures.clip_fractions += outside.float().mean(1).tolist()
    figures.loss = loss.item()
    return _approx_kl(block.log_probs[:count], block.old_log_probs[:count]).numpy()
