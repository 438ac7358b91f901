"""The policy in an SB3 zip, made without the algorithm around it and without running code from the file."""

from __future__ import annotations

import base64
import importlib
import inspect
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rlsd.cli.coldstart import leave_compiler_out
from rlsd.cli.errors import UserError, one_line
from rlsd.io.archives import check_sizes, unfold
from rlsd.io.checkpoint import writers
from rlsd.io.pickles import Symbol, read
from rlsd.io.weights import read_tensors
from rlsd.plain import read_json, shown

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

#: Where the classes that a zip may name are looked up. Of anything else only ``--trust`` takes them.
_PACKAGES = ("stable_baselines3", "sb3_contrib", "torch", "rlsd_envs")
#: What the arguments of a policy may be, if classes.
_KINDS = (nn.Module, torch.optim.Optimizer)


def read_policy(file: Path, env: VecEnv, device: torch.device, trust: bool = False) -> BasePolicy:
    """Return the policy of a saved agent, ready to act in an environment.

    :param trust: unpickle the whole zip, which runs whatever code is in it.
    :raises UserError: when the file is damaged, no SB3 zip, or does not fit the environment.
    """
    leave_compiler_out()
    try:
        with zipfile.ZipFile(file) as archive:
            check_sizes(archive)
            data = dict(read_json(unfold(archive, "data")))
            if trust:
                return _unpickled(file, data, env, device)
            policy = _made(data, env)
            tensors = read_tensors(archive, "policy", policy.state_dict())
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except KeyError as error:
        raise UserError(f"{file} is no whole zip of Stable-Baselines3: {one_line(error)}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} cannot act in this environment: {one_line(error)}") from error
    except Exception as error:  # whatever a damaged file makes zipfile raise
        raise UserError(f"{file} is no whole zip of Stable-Baselines3: {one_line(error)}") from error
    policy.load_state_dict(tensors)
    _draw_exploration(policy)
    policy.set_training_mode(False)
    return policy.to(device)


def algorithm_of(file: Path) -> str:
    """Return the name of the algorithm that wrote a zip, for people."""
    with zipfile.ZipFile(file) as archive:
        return " or ".join(writers(dict(read_json(unfold(archive, "data"))))) or "agent"


def _draw_exploration(policy: Any) -> None:
    """Draw gSDE's noise anew: what was drawn when the policy was made had another spread than the loaded one."""
    if getattr(getattr(policy, "actor", policy), "use_sde", False):
        policy.reset_noise()


def _made(data: dict[str, Any], env: VecEnv) -> BasePolicy:
    """Build the policy that a ``data`` entry describes, with weights of its own."""
    cls = _plain(data["policy_class"])
    if not (isinstance(cls, type) and issubclass(cls, BasePolicy)):
        raise UserError(f"its policy {shown(cls)} is none of SB3's; --trust unpickles it, which runs its code")
    kwargs = _plain(data.get("policy_kwargs") or {})
    takes = inspect.signature(cls.__init__).parameters
    settings = {"lr_schedule": lambda _: 0.0, "use_sde": bool(data.get("use_sde", False))}
    kwargs = {**{key: value for key, value in settings.items() if key in takes}, **kwargs}
    policy: BasePolicy = cls(env.observation_space, env.action_space, **kwargs)
    return policy


def _plain(value: Any) -> Any:
    """Return a value of a ``data`` entry: plain, or a pickle that holds plain values and names of known classes."""
    if not (isinstance(value, dict) and ":serialized:" in value):
        return value
    try:
        return _resolved(read(base64.b64decode(value[":serialized:"])))
    except ValueError as error:
        raise UserError(f"its policy has arguments of its own ({error}); --trust unpickles them") from error


def _resolved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(_resolved(item) for item in value)
    if isinstance(value, Symbol):
        return _class(value)
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"a {type(value).__name__}")
    return value


def _class(symbol: Symbol) -> type:
    found = None
    if symbol.module.partition(".")[0] in _PACKAGES:
        try:
            found = getattr(importlib.import_module(symbol.module), symbol.name, None)
        except ImportError as error:
            raise UserError(f"it needs {symbol.module}, which cannot be imported: {one_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, _KINDS)):
        raise ValueError(f"{symbol}")
    return found


def _unpickled(file: Path, data: dict[str, Any], env: VecEnv, device: torch.device) -> BasePolicy:
    for name in writers(data):
        for library in ("stable_baselines3", "sb3_contrib"):
            cls = getattr(importlib.import_module(library), name, None)
            if cls is not None:
                agent: BaseAlgorithm = cls.load(file, device=device, custom_objects={"buffer_size": 1})
                return agent.policy
    raise UserError("nothing in it tells by which algorithm it was trained")
