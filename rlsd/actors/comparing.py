"""What adapters are compared by: observations that nobody made, and when two answers are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from rlsd.observations import Observations, split_context

#: Two answers are the same that differ by no more than this, and this share of their size: they may round otherwise.
_ABSOLUTE, _RELATIVE = 1e-3, 1e-2


def imagined(space: spaces.Space[Any], n: int, generator: np.random.Generator, device: torch.device) -> Observations:
    """Return ``n`` observations of a space: numbers as near to 0..1 as it allows, so that no network overflows."""
    if isinstance(space, spaces.Dict):
        return {key: _imagined(part, n, generator, device) for key, part in space.spaces.items()}
    return _imagined(space, n, generator, device)


def _imagined(space: spaces.Space[Any], n: int, generator: np.random.Generator, device: torch.device) -> Tensor:
    if isinstance(space, spaces.Discrete):
        array = space.start + generator.integers(int(space.n), size=(n, 1))
    elif isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        many = space.nvec if isinstance(space, spaces.MultiDiscrete) else 2
        array = generator.integers(many, size=(n, *space.shape)).astype(space.dtype)
    else:
        assert isinstance(space, spaces.Box)
        if np.issubdtype(space.dtype, np.integer):
            array = generator.integers(
                space.low, space.high, size=(n, *space.shape), dtype=space.dtype.type, endpoint=True
            )
        else:
            low = np.clip(0.0, space.low, np.maximum(space.high - 1.0, space.low))
            array = low + (np.clip(low + 1.0, None, space.high) - low) * generator.uniform(size=(n, *space.shape))
            array = array.astype(space.dtype)
    return torch.as_tensor(array, device=device)


def overrides_none(thing: object, base: type, names: Iterable[str]) -> bool:
    """Tell whether an object's methods of these names are those of ``base``."""
    return all(getattr(type(thing), n) is getattr(base, n) and n not in thing.__dict__ for n in names)


def close(one: Tensor, other: Tensor) -> bool:
    """Tell whether two answers are the same; where either is not finite nothing can be said."""
    if one.numel() != other.numel():
        return False
    a, b = one.reshape(-1).double(), other.reshape(-1).double()
    finite = torch.isfinite(a) & torch.isfinite(b)
    return torch.allclose(a[finite], b[finite], rtol=_RELATIVE, atol=_ABSOLUTE)


def chosen_best(answers: Tensor, chosen: Tensor) -> bool:
    """Tell whether actions ``(batch,)`` are those of the highest scores, ``(batch, actions)``."""
    return close(answers.gather(1, chosen.reshape(-1, 1).long()).squeeze(1), answers.max(dim=1).values)


def predicts_alike(policy: Any, states: Observations) -> bool:
    """Tell whether a policy that acts by ``predict`` does what SB3's makes of its ``_predict``."""
    if overrides_none(policy, BasePolicy, ("predict",)):
        return True
    observations = split_context(states)[0]
    shown: Any = (
        {key: value.cpu().numpy() for key, value in observations.items()}
        if isinstance(observations, Mapping)
        else observations.cpu().numpy()
    )
    found, expected = policy.predict(shown, deterministic=True), BasePolicy.predict(policy, shown, deterministic=True)
    return close(torch.as_tensor(found[0]), torch.as_tensor(expected[0]))


@torch.no_grad()
def scramble(module: nn.Module) -> None:
    """Give a module other weights, of a size that keeps its answers of a size: what is 0 at the start shows then.

    Draws from torch's global generator.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            inputs = parameter[0].numel() if parameter.dim() > 1 else 9
            parameter.add_(torch.randn_like(parameter), alpha=max(inputs, 1) ** -0.5)
