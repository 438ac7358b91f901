"""Acting on one device and training on another.

A policy that trains on a GPU waits for it at every step of a rollout. With ``rollout_device="cpu"`` the agent acts with
a copy of the acting module, whose numbers are brought over in one piece before the rollout. The agent's policy stays
where it is and stays the agent's: it only passes on what it is asked while a rollout runs, so a callback that saves
the agent saves the live parameters.

Acting on another device rounds otherwise and draws from another generator than acting where one trains. Where both are
the same device, training is bit-identical to acting without a copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from rlsd.actors import actor_for, algorithm_name
from rlsd.actors.base import acting_copy
from rlsd.speed.acting import lean_methods
from rlsd.speed.standing_in import standing_in

#: What a policy is asked in a rollout, by the algorithm and by callbacks.
_ASKED = (
    *("forward", "predict", "_predict", "predict_values", "obs_to_tensor", "get_distribution", "evaluate_actions"),
    "reset_noise",
)
#: Bytes to which each tensor is aligned in the piece, as torch aligns one of its own.
_ALIGNED = 64


def check_mirrored(agent: Any) -> None:
    """Raise when an algorithm cannot act with a copy.

    :raises ValueError: then.
    """
    recurrent = hasattr(agent, "_last_lstm_states") or "lstm_actor" in dict(agent.policy.named_children())
    if recurrent or not isinstance(agent, (OnPolicyAlgorithm, OffPolicyAlgorithm)):
        raise ValueError(
            f"rollout_device is not for {algorithm_name(agent)}: its rollouts need more than a policy. Leave it out"
        )


class Mirror:
    """A copy of an agent's policy that acts on another device.

    :param agent: whose policy is copied.
    :param device: where the copy acts.
    """

    def __init__(self, agent: Any, device: torch.device) -> None:
        self.device = device
        self.policy = acting_copy(agent.policy, agent.policy.modules()).to(device)
        self._of = weakref.ref(agent.policy)
        self._live = _tensors(agent, agent.policy)
        self._pieces = _pieces(self._live, _tensors(agent, self.policy), device)
        self._refreshed_at: int | None = None

    def is_of(self, agent: Any) -> bool:
        """Tell whether this is still a copy of the agent's policy."""
        return self._of() is agent.policy

    def forget(self) -> None:
        """Have the live numbers brought over at the next :meth:`refresh`, however old they are."""
        self._refreshed_at = None

    def refresh(self, steps: int, every: int) -> None:
        """Bring the live numbers over, unless they are fewer than ``every`` environment steps old."""
        at = self._refreshed_at
        if at is not None and every > 1 and at <= steps < at + every:
            return
        self._refreshed_at = steps
        waits = False
        for numbers, parts, piece, whole in self._pieces:
            torch._foreach_copy_(parts, [self._live[number].detach() for number in numbers])
            if piece is not whole:
                whole.copy_(piece, non_blocking=True)
                waits = True
        if waits and self._pieces[0][2].is_cuda:
            torch.cuda.current_stream(self._pieces[0][2].device).synchronize()

    @contextmanager
    def acting(self, agent: Any, lean: bool) -> Iterator[None]:
        """Let the copy answer for the agent's policy."""
        methods = {name: getattr(self.policy, name) for name in _ASKED if hasattr(self.policy, name)}
        if lean:
            methods |= lean_methods(self.policy)
        own, mirrored = getattr(agent.policy, "actor", None), getattr(self.policy, "actor", None)
        before = agent.device
        with ExitStack() as stack:
            stack.enter_context(standing_in(agent.policy, methods))
            if own is not None and mirrored is not None and agent.use_sde:
                stack.enter_context(standing_in(own, {"reset_noise": mirrored.reset_noise}))
            agent.device = self.device
            try:
                yield
            finally:
                agent.device = before
                if agent.use_sde:
                    _bring_noise(self.policy, agent.policy)


def _tensors(agent: Any, policy: Any) -> list[Tensor]:
    """Return the numbers of the acting module, or of the whole policy where that is not known."""
    try:
        module: nn.Module = actor_for(agent).module(policy)
    except TypeError:
        module = policy
    return [*module.parameters(), *module.buffers()]


_Piece = tuple[list[int], list[Tensor], Tensor, Tensor]


def _pieces(live: list[Tensor], mirrored: list[Tensor], device: torch.device) -> list[_Piece]:
    """Give the copy's tensors one piece of memory for each number type, with its double where they come from.

    :return: for each type, which tensors are in it, their places in the double, the double, and the piece.
    """
    pieces: list[_Piece] = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in live):
        numbers = [i for i, tensor in enumerate(live) if tensor.dtype == dtype]
        step = max(_ALIGNED // live[numbers[0]].element_size(), 1)
        starts = [0]
        for i in numbers:
            starts.append(starts[-1] + -(-live[i].numel() // step) * step)
        source = live[numbers[0]].device
        pinned = source.type == "cuda" and device.type == "cpu"
        whole = torch.zeros(starts[-1], dtype=dtype, device=device, pin_memory=pinned)
        double = whole if source == device else torch.zeros(starts[-1], dtype=dtype, device=source)
        parts = [double[a : a + live[i].numel()].view(live[i].shape) for a, i in zip(starts, numbers, strict=False)]
        for start, i in zip(starts, numbers, strict=False):
            mirrored[i].data = whole[start : start + live[i].numel()].view(live[i].shape)
        pieces.append((numbers, parts, double, whole))
    return pieces


def _bring_noise(source: nn.Module, target: nn.Module) -> None:
    """Leave the noise of gSDE as a rollout of the policy itself would have left it."""
    for one, other in zip(source.modules(), target.modules(), strict=True):
        drawn, own = one.__dict__.get("action_dist"), other.__dict__.get("action_dist")
        for name in ("exploration_mat", "exploration_matrices"):
            noise = getattr(drawn, name, None)
            if isinstance(noise, Tensor) and own is not None:
                setattr(own, name, noise.to(next(other.parameters()).device))
