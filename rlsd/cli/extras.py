"""What a command needs beside the core: the packages of an extra, and the line that says how to install them."""

from __future__ import annotations

import importlib.util

from rlsd.cli.errors import UserError

#: The packages that each extra brings, by the names they are imported by.
EXTRAS: dict[str, tuple[str, ...]] = {
    "contrib": ("sb3_contrib",),
    "envs": ("Box2D", "mujoco", "ale_py", "minatar"),
    "fast": ("envpool", "ale_py"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
    "plots": ("matplotlib",),
    "ray": ("ray",),
    "track": ("wandb", "mlflow"),
    "tune": ("optuna",),
    "video": ("imageio", "imageio_ffmpeg", "pygame"),
}


def missing(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def need(extra: str, what: str) -> None:
    """Raise when a package of an extra is missing.

    :param what: what needs it, for the message.
    :raises UserError: then.
    """
    if absent := missing(extra):
        raise UserError(f"{what} needs {', '.join(absent)}: pip install 'rlsd[{extra}]'")
