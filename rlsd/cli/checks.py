"""Whether hyperparameters are known by their algorithm, and their values possible. Nothing is ever evaluated."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlsd.cli.errors import UserError, choices, nearest
from rlsd.cli.values import parse_value
from rlsd.plain import shown

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

#: Ours, which go to the run and not to the constructor.
OF_THE_RUN = ("n_envs", "n_timesteps", "normalize")
#: rl_zoo3's names for the ``action_noise`` of algorithms that take one.
OF_THE_NOISE = ("noise_type", "noise_std")
NOISES = ("normal", "ornstein-uhlenbeck", "none")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
ACTIVATIONS = ("Tanh", "ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Mish", "Softplus")
#: What a policy can see through, besides what its name says: those of rlsd_envs.
EXTRACTORS = ("GridCnn",)

#: Constructor arguments with a flag of their own, or which no plain value can express.
_NOT_HYPERPARAMETERS = {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
_NOT_PLAIN = {"rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs"}
#: The same of a policy. ``use_sde`` is the algorithm's to say.
_NOT_POLICY_KWARGS = {"self", "observation_space", "action_space", "lr_schedule", "use_sde"} | {
    *("features_extractor_kwargs", "optimizer_class"),
}
_NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")

#: The lowest value of each whole number.
_COUNTS = {
    **dict.fromkeys(("n_envs", "n_timesteps", "n_steps", "batch_size", "n_epochs", "buffer_size"), 1),
    **dict.fromkeys(("target_update_interval", "policy_delay", "stats_window_size"), 1),
    **dict.fromkeys(("n_critic_updates", "cg_max_steps", "line_search_max_iter", "sub_sampling_factor"), 1),
    **dict.fromkeys(("n_delta", "n_top", "n_eval_episodes"), 1),
    **dict.fromkeys(("learning_starts", "top_quantiles_to_drop_per_net"), 0),
}
#: Counts where -1 means something: as many updates as steps, and noise that is drawn once a rollout.
_COUNTS_OR_MINUS_ONE = ("gradient_steps", "sde_sample_freq")
_SWITCHES = (
    *("use_sde", "use_sde_at_warmup", "normalize_advantage", "use_rms_prop", "optimize_memory_usage"),
    *("zero_policy",),
)
_RANGES = {
    **dict.fromkeys(("learning_rate", "clip_range", "clip_range_vf", "max_grad_norm", "target_kl"), (0.0, math.inf)),
    **dict.fromkeys(("ent_coef", "vf_coef", "rms_prop_eps", "noise_std", "delta_std"), (0.0, math.inf)),
    **dict.fromkeys(("target_policy_noise", "target_noise_clip", "cg_damping"), (0.0, math.inf)),
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "line_search_shrinking_factor"), (0.0, 1.0)),
    **dict.fromkeys(("exploration_fraction", "exploration_initial_eps", "exploration_final_eps"), (0.0, 1.0)),
    **dict.fromkeys(("alive_bonus_offset", "target_entropy"), (-math.inf, math.inf)),
}
#: Numbers that may be infinite, which stands for no limit.
_LIMITS = ("clip_range", "clip_range_vf", "max_grad_norm", "target_kl", "target_noise_clip")


def check(values: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """Return ``values`` with whole numbers as such, or say which name or value is wrong.

    :raises UserError: for a name the algorithm does not take, or a value out of its range.
    """
    arguments = inspect.signature(algorithm.__init__).parameters
    known = known_names(algorithm)
    for key in values:
        if key not in known:
            raise UserError(f"unknown hyperparameter {shown(key)} for {algorithm.__name__}; {_hint(key, known)}")
    # The default tells where None and "auto" are values too.
    defaults = {key: arguments[key].default if key in arguments else ... for key in values}
    checked = {key: _checked(key, value, defaults[key]) for key, value in values.items()}
    if "policy" in checked:
        _check_policy(checked["policy"], algorithm)
    if checked.get("policy_kwargs"):
        _check_policy_kwargs(checked["policy_kwargs"], checked.get("policy"), algorithm)
    _check_normalize(checked.get("normalize", False))
    return checked


def check_together(values: Mapping[str, Any]) -> None:
    """Raise when values that are right one by one contradict each other, which SB3 would only find in training.

    :raises UserError: then.
    """
    train_freq = values.get("train_freq")
    if isinstance(train_freq, list) and train_freq[1] == "episode" and values["n_envs"] != 1:
        raise UserError(f"train_freq {shown(train_freq)} counts episodes of one environment: it needs n_envs 1")
    n_delta, n_top = values.get("n_delta"), values.get("n_top")
    if n_delta is not None and n_top is not None and n_top > n_delta:
        raise UserError(f"n_top {n_top} is more than the n_delta {n_delta} to choose from: give a smaller n_top too")


def known_names(algorithm: type[BaseAlgorithm]) -> set[str]:
    """Return the names of the hyperparameters of an algorithm, ours among them."""
    arguments = set(inspect.signature(algorithm.__init__).parameters) - _NOT_HYPERPARAMETERS - _NOT_PLAIN
    noise = OF_THE_NOISE if "action_noise" in arguments else ()
    return {*arguments, *OF_THE_RUN, *noise} - {"action_noise"}


def lin_start(value: Any) -> Any:
    """Return the number that ``lin_NUMBER`` starts from, and any other value as it is."""
    return parse_value(value.removeprefix("lin_")) if isinstance(value, str) and value.startswith("lin_") else value


def _hint(key: str, known: set[str]) -> str:
    return nearest(key, known) or f"known: {', '.join(sorted(known))}"


def _checked(key: str, value: Any, default: Any) -> Any:
    special: dict[str, Callable[[Any], Any]] = {"train_freq": _train_freq, "noise_type": _noise_type}
    if key in special:
        return special[key](value)
    if key in _COUNTS and not (value is None and default is None):
        return _count(key, value, _COUNTS[key])
    if key in _COUNTS_OR_MINUS_ONE:
        return -1 if value == -1 else _count(key, value, 1, "-1 or ")
    if key in _SWITCHES and not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, got {shown(value)}")
    if key in _RANGES and value is not None:
        _check_range(key, value, default)
    return value


def _count(key: str, value: Any, lowest: int, also: str = "") -> int:
    if not _is_whole(value) or value < lowest:
        raise UserError(f"{key} must be {also}a whole number >= {lowest}, got {shown(value)}")
    return int(value)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and value % 1 == 0


def _check_range(key: str, value: Any, default: Any) -> None:
    low, high = _RANGES[key]
    number, also = value, ""
    if key in SCHEDULES:
        number, also = lin_start(value), " or lin_NUMBER"
    elif default == "auto":
        number, also = _auto_start(key, value), " or auto" + (" or auto_NUMBER" if key == "ent_coef" else "")
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not low <= number <= high or (abs(number) == math.inf and key not in _LIMITS):
        bounded = f" in [{low:g}, {high:g}]" if high < math.inf else f" >= {low:g}"
        wanted = bounded if low > -math.inf else ""
        raise UserError(f"{key} must be a number{wanted}{also}, got {shown(value)}")


def _auto_start(key: str, value: Any) -> Any:
    """Return the number that ``auto`` or ``auto_NUMBER`` starts from: SAC learns its entropy coefficient from there."""
    if value == "auto":
        return 1.0
    if key != "ent_coef" or not (isinstance(value, str) and value.startswith("auto_")):
        return value
    start = parse_value(value.removeprefix("auto_"))
    # SB3 takes the logarithm of it.
    return None if isinstance(start, int | float) and start == 0 else start


def _train_freq(value: Any) -> Any:
    """Return the steps as they are, or ``[n, unit]``."""
    number, unit = value if isinstance(value, list | tuple) and len(value) == 2 else (value, None)
    if not _is_whole(number) or number < 1 or unit not in (None, "step", "episode"):
        raise UserError(f"train_freq must be a whole number >= 1, [n, step] or [n, episode], got {shown(value)}")
    return int(number) if unit is None else [int(number), unit]


def _noise_type(value: Any) -> Any:
    if value is None or value in NOISES:
        return value
    raise UserError(f"unknown noise_type {shown(value)}; {choices(str(value), NOISES)}")


def _check_policy(name: Any, algorithm: type[BaseAlgorithm]) -> None:
    known = algorithm.policy_aliases
    if name not in known:
        raise UserError(f"{algorithm.__name__} has no policy {shown(name)}; known: {', '.join(known)}")


def _check_policy_kwargs(values: Any, policy: str | None, algorithm: type[BaseAlgorithm]) -> None:
    if not isinstance(values, dict):
        raise UserError(f"policy_kwargs must be a mapping such as {{net_arch: [64, 64]}}, got {shown(values)}")
    policies = algorithm.policy_aliases
    classes = [policies[policy]] if policy is not None else list(policies.values())
    known = {name for cls in classes for name in inspect.signature(cls.__init__).parameters} - _NOT_POLICY_KWARGS
    for key in values:
        if key not in known:
            raise UserError(f"unknown policy_kwargs {shown(key)} for {algorithm.__name__}; {_hint(str(key), known)}")
    if "activation_fn" in values and str(values["activation_fn"]).removeprefix("nn.") not in ACTIVATIONS:
        raise UserError(f"unknown activation_fn {shown(values['activation_fn'])}; known: {', '.join(ACTIVATIONS)}")
    extractor = values.get("features_extractor_class", EXTRACTORS[0])
    if extractor not in EXTRACTORS:
        raise UserError(f"unknown features_extractor_class {shown(extractor)}; known: {', '.join(EXTRACTORS)}")


def _check_normalize(wanted: Any) -> None:
    if wanted is not None and not isinstance(wanted, bool | dict):
        raise UserError(f"normalize must be true, false or a mapping of {', '.join(_NORMALIZE)}, got {shown(wanted)}")
    for key in wanted if isinstance(wanted, dict) else ():
        if key not in _NORMALIZE:
            raise UserError(f"unknown key {shown(key)} in normalize; known: {', '.join(_NORMALIZE)}")
