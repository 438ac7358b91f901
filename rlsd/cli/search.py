"""Where ``rlsd tune`` looks: ranges of the distillation's knobs, and of hyperparameters as in rl_zoo3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from optuna import Trial


class Range(NamedTuple):
    """The values that a parameter may take.

    :param kind: ``log`` and ``uniform`` between two numbers, ``one_minus`` for 1 minus a ``log`` one, or ``choice``.
    :param values: the two numbers, or the choices.
    """

    kind: str
    values: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial takes."""
        if self.kind == "choice":
            return trial.suggest_categorical(name, self.values)
        low, high = self.values
        if self.kind == "one_minus":
            return 1.0 - trial.suggest_float(f"one_minus_{name}", low, high, log=True)
        return trial.suggest_float(name, low, high, log=self.kind == "log")


_LEARNING_RATE = Range("log", (1e-5, 2e-3))
_GAMMA = Range("one_minus", (1e-4, 0.1))
_NETS = Range("choice", ("[64]", "[64, 64]", "[256, 256]"))
_ON_POLICY = {
    "n_steps": Range("choice", (8, 16, 32, 64, 128, 256, 512, 1024, 2048)),
    "learning_rate": _LEARNING_RATE,
    "gamma": _GAMMA,
    "gae_lambda": Range("one_minus", (1e-3, 0.2)),
    "net_arch": _NETS,
}
_ENTROPY = {"ent_coef": Range("log", (1e-8, 0.1)), "max_grad_norm": Range("uniform", (0.3, 2.0))}
_PPO = {
    **_ON_POLICY,
    **_ENTROPY,
    "batch_size": Range("choice", (32, 64, 128, 256, 512)),
    "n_epochs": Range("choice", (1, 5, 10, 20)),
    "clip_range": Range("choice", (0.1, 0.2, 0.3, 0.4)),
}
_OFF_POLICY = {
    "learning_rate": _LEARNING_RATE,
    "gamma": _GAMMA,
    "batch_size": Range("choice", (32, 64, 128, 256, 512)),
    "train_freq": Range("choice", (1, 4, 8, 16, 32, 64)),
    "net_arch": _NETS,
}
_CONTINUOUS = {**_OFF_POLICY, "tau": Range("choice", (0.005, 0.01, 0.02, 0.05, 0.08))}
_DQN = {
    **_OFF_POLICY,
    "target_update_interval": Range("choice", (1, 100, 1000, 5000, 10_000)),
    "exploration_fraction": Range("uniform", (0.05, 0.5)),
    "exploration_final_eps": Range("uniform", (0.0, 0.2)),
}
ALGORITHMS: Mapping[str, Mapping[str, Range]] = {
    **dict.fromkeys(("ppo", "ppo_lstm", "ppo_mask"), _PPO),
    "a2c": {**_ON_POLICY, **_ENTROPY},
    "trpo": {**_ON_POLICY, "target_kl": Range("choice", (0.001, 0.005, 0.01, 0.02, 0.05, 0.1))},
    **dict.fromkeys(("sac", "tqc", "crossq", "td3", "ddpg"), _CONTINUOUS),
    **dict.fromkeys(("dqn", "qrdqn"), _DQN),
    "ars": {
        "learning_rate": Range("log", (1e-3, 0.1)),
        "delta_std": Range("log", (5e-3, 0.1)),
        "n_delta": Range("choice", (4, 8, 16, 32)),
    },
}
#: CrossQ has no target network.
_WITHOUT = {"crossq": ("tau",)}

#: The knobs of the distillation, looked at where the recipe has them.
DISTILLATION: Mapping[str, Range] = {
    "strength.value": Range("log", (0.01, 10.0)),
    "strength.share": Range("log", (0.01, 1.0)),
    "strength.target": Range("log", (1e-3, 0.1)),
    "teacher.every": Range("choice", (512, 1024, 2048, 4096, 8192, 16_384)),
    "teacher.decay": Range("one_minus", (1e-3, 0.5)),
    "timing.stride": Range("choice", (1, 2, 4, 8)),
}


def hyperparameters(trial: Trial, algo: str, longest: int) -> dict[str, Any]:
    """Return the hyperparameters that a trial takes, by the names that ``--hyperparams`` takes.

    :param longest: the largest ``n_steps`` that leaves a trial several rollouts.
    """
    ranges = {key: found for key, found in ALGORITHMS[algo].items() if key not in _WITHOUT.get(algo, ())}
    if "n_steps" in ranges:
        lengths = ranges["n_steps"].values
        ranges["n_steps"] = Range("choice", tuple(n for n in lengths if n <= longest) or lengths[:1])
    values = {name: found.suggest(trial, name) for name, found in ranges.items()}
    net = values.pop("net_arch", None)
    return values | ({} if net is None else {"policy_kwargs": {"net_arch": [int(n) for n in net[1:-1].split(",")]}})


def distillation(trial: Trial, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes to a recipe, or to several at once, that a trial takes.

    :param config: the recipe as nested plain data.
    """
    several = {f"{answers['name']}.": answers for answers in config.get("distillations", ())}
    found = {}
    for name, answers in (several or {"": config}).items():
        for key, knob in DISTILLATION.items():
            question, _, field = key.partition(".")
            if field in answers[question]:
                found[name + key] = knob.suggest(trial, name + key)
    return found
