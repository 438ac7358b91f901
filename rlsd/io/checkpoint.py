"""What an agent's zip holds beside SB3's own entries, and how it is written so that no file is ever lost.

``rlsd/config.json`` holds the five answers and the plain part of the state, ``rlsd/state.safetensors`` the tensors, and
``rlsd/average.safetensors`` those of an average of the weights. Plain SB3 ignores them. Reading them runs no code. The
rest of the zip is SB3's own, which unpickles: load only what you trust.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd import faults
from rlsd.config import DistillConfig, own_modules
from rlsd.distiller import Distiller
from rlsd.distillers import Distillers
from rlsd.io import files
from rlsd.io.archives import broken, check_sizes, dates_that_zips_take, unfold, with_suffix
from rlsd.memory import readable
from rlsd.plain import cut, read_json, shown
from rlsd.several import DistillConfigs, config_from
from rlsd.version import __version__
from rlsd.weight_average import WeightAverage

CONFIG = "rlsd/config.json"
STATE = "rlsd/state.safetensors"
AVERAGE = "rlsd/average.safetensors"
FORMAT = 1
#: Bytes in which the tensors of :data:`STATE` are described: 40,000 of them; ten teachers of large networks are 1,000.
_HEADER = 4 * 10**6

#: What zipfile raises on damaged files; RuntimeError for an entry that says it is encrypted, say.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, OSError, RuntimeError, zlib.error, lzma.LZMAError),
    *(UnicodeError, struct.error, OverflowError),
)

#: What SB3's ``data`` entry always holds for an algorithm and not for those further down.
_FINGERPRINTS: tuple[tuple[str, set[str]], ...] = (
    ("ARS", {"n_delta"}),
    ("TRPO", {"cg_max_steps"}),
    ("PPO", {"clip_range", "n_epochs"}),
    ("A2C", {"gae_lambda", "normalize_advantage"}),
    ("TQC", {"top_quantiles_to_drop_per_net"}),
    ("SAC", {"target_entropy"}),
    ("TD3", {"target_policy_noise"}),
    ("DQN", {"exploration_fraction"}),
)

#: Those whose ``data`` entry has the same keys, by the packages that the policy or the rollout buffer comes from.
_RELATIVES: dict[str, dict[str, str]] = {
    "PPO": {
        "MaskablePPO": "sb3_contrib.common.maskable.",
        "RecurrentPPO": "sb3_contrib.common.recurrent.",
        "PPO": "stable_baselines3.",
    },
    "SAC": {"CrossQ": "sb3_contrib.crossq.", "SAC": "stable_baselines3."},
    "DQN": {"QRDQN": "sb3_contrib.qrdqn.", "DQN": "stable_baselines3."},
}
_KNOWN = {label for label, _ in _FINGERPRINTS}.union(*_RELATIVES.values())


def save(
    agent: BaseAlgorithm, path: Any, distiller: Distiller | Distillers | None, plain_save: Callable[[Any], None]
) -> None:
    """Write an agent's zip with the distillation's state in it; the file at ``path`` is replaced whole or not at all.

    An agent that is not finite replaces no file: a warning says so.

    :param path: a path (``.zip`` is added when it has no suffix, missing folders are made) or an open binary file.
    :param plain_save: SB3's own ``save``.
    """
    if isinstance(path, (str, os.PathLike)):
        target = with_suffix(path)
        broken = faults.in_zip(agent) if target.exists() else None
        if broken is not None:
            warnings.warn(f"{faults.report(broken, agent)}; {target} stays as it was", stacklevel=3)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(target) as unfinished:
            _write_plain(unfinished, plain_save)
            _append(unfinished, agent, distiller)
    else:
        with tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder, "agent.zip")
            _write_plain(unfinished, plain_save)
            _append(unfinished, agent, distiller)
            path.write(unfinished.read_bytes())


def _write_plain(path: Path, plain_save: Callable[[Any], None]) -> None:
    # Given a path, SB3 leaves the file open when it fails, and an open file cannot be removed everywhere.
    with path.open("wb") as file, dates_that_zips_take():
        plain_save(file)


def existing(path: Any) -> Any:
    """Return the file to load: the path itself if it is a file, else with ``.zip`` added; an open file as it is.

    :raises FileNotFoundError: when neither is a file.
    """
    if not isinstance(path, (str, os.PathLike)):
        return path
    found = Path(path) if Path(path).is_file() else Path(f"{os.fspath(path)}.zip")
    if not found.is_file():
        raise FileNotFoundError(f"no such file: {with_suffix(path)}")
    return found


def _append(path: Path, agent: BaseAlgorithm, distiller: Distiller | Distillers | None) -> None:
    config: dict[str, Any] = {"format": FORMAT, "rlsd": __version__, "algorithm": _known(type(agent)), "distill": None}
    average = getattr(agent, "weight_average", None)
    with dates_that_zips_take(), zipfile.ZipFile(path, "a", strict_timestamps=False) as archive:
        if distiller is not None:
            config |= {"distill": distiller.config.to_dict(), "state": distiller.state()}
            modules = own_modules([member.config for member in distiller.members.values()])
            config |= {"modules": sorted(modules)} if modules else {}
            _write_tensors(archive, STATE, distiller.tensors(), path)
        if average is not None:
            config |= {"average": average.state()}
            _write_tensors(archive, AVERAGE, average.tensors(), path)
        archive.writestr(CONFIG, json.dumps(config, indent=2))


def _write_tensors(archive: zipfile.ZipFile, entry: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    written = files.beside(path, files.PARTIAL)
    try:
        safetensors.torch.save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, written)
        archive.write(written, entry)
    finally:
        written.unlink(missing_ok=True)


@dataclass(frozen=True)
class Saved:
    """The distillation found in a zip."""

    path: str
    data: dict[str, Any]
    tensors: dict[str, Tensor]
    averaged: dict[str, Tensor]

    @property
    def average(self) -> dict[str, Any] | None:
        """The state of the average of the weights, None when the agent had none."""
        return self.data.get("average")

    def config(self) -> DistillConfig | DistillConfigs | None:
        """Return the five answers, None when the agent was saved with distillation off."""
        answers = self.data.get("distill")
        try:
            return None if answers is None else config_from(answers)
        except ValueError as error:
            wanted = self.data.get("modules")
            names = map(str, wanted) if isinstance(wanted, list) else ()
            missing = [name for name in names if name not in sys.modules]
            cure = f"; import {cut(', '.join(missing))} first, where such answers were defined" if missing else ""
            raise ValueError(f"{self.path}: {error}{cure}") from error

    def answers(self, config: DistillConfig | DistillConfigs | None) -> bool:
        """Tell whether the state was saved with these answers; functions are compared by their names."""
        return bool(self.data.get("distill") == (None if config is None else config.to_dict()))

    def restore(self, distiller: Distiller | Distillers, agent: BaseAlgorithm) -> None:
        """Put the saved state into a fresh distiller of the same config."""
        try:
            distiller.load(agent, self.tensors, self.data["state"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.path}: {error}") from error

    def restore_average(self, average: WeightAverage) -> None:
        """Put the saved average of the weights into a fresh one."""
        try:
            average.load(self.averaged, self.data["average"])
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def read(path: Any, algorithm: type[BaseAlgorithm]) -> Saved | None:
    """Read the distillation in a zip, None when a plain SB3 agent wrote it. Runs no code from the file.

    :param path: as SB3's ``load`` takes it: a path or an open binary file, which is left at its start.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when the file is damaged, or another algorithm's.
    """
    source = existing(path)
    name = str(source) if isinstance(source, Path) else "the file"
    try:
        with zipfile.ZipFile(source) as archive:
            check_sizes(archive)
            bad = broken(archive)
            if bad is not None:
                raise ValueError(f"{name} is damaged: its entry {bad!r} fails its checksum")
            saved = _read_entries(name, archive)
            _check_algorithm(name, archive, algorithm, saved)
            return saved
    except _ZIP_ERRORS as error:
        raise ValueError(f"{name} is damaged or no SB3 zip: {error}") from error
    finally:
        if isinstance(source, io.IOBase):
            source.seek(0)


def _tensors(content: bytes) -> dict[str, Tensor]:
    # The length of the header stands first. A tensor takes 60 bytes there, so a million empty ones take a GB here.
    if int.from_bytes(content[:8], "little") > _HEADER:
        raise ValueError(f"its tensors are described in more than {readable(_HEADER)}")
    return safetensors.torch.load(content)


def _read_entries(name: str, archive: zipfile.ZipFile) -> Saved | None:
    entries = {info.filename: info for info in archive.infolist()}
    if CONFIG not in entries:
        return None
    try:
        data = read_json(unfold(archive, CONFIG))
        tensors, averaged = (_tensors(unfold(archive, part)) if part in entries else {} for part in (STATE, AVERAGE))
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{name} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else data
        writer = data.get("rlsd") if isinstance(data, dict) else None
        raise ValueError(
            f"{name} was written by rlsd {shown(writer)} in format {shown(found)}, and rlsd {__version__} reads "
            f"format {FORMAT}: load it with the rlsd that wrote it, or with plain SB3, which ignores the distillation"
        )
    return Saved(name, data, tensors, averaged)


def _check_algorithm(name: str, archive: zipfile.ZipFile, algorithm: type[BaseAlgorithm], saved: Saved | None) -> None:
    if "data" not in archive.namelist():
        raise ValueError(f"{name} is no SB3 zip: it has no entry 'data'")
    try:
        data = dict(read_json(unfold(archive, "data")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is damaged: its entry 'data' is not valid JSON") from error
    written = None if saved is None else saved.data.get("algorithm")
    found = writers(data) if written is None else [str(written)]
    expected = _known(algorithm)
    if expected is not None and found and expected not in found:
        writer = " or ".join(found)
        raise ValueError(f"{name} holds an agent of {writer}, not of {expected}: load it with {writer}")


def _known(algorithm: type[BaseAlgorithm]) -> str | None:
    """Return the algorithm that a class is, or is a subclass of; None when it is none that a zip can be told by."""
    return next((cls.__name__ for cls in algorithm.__mro__ if cls.__name__ in _KNOWN), None)


def writers(data: dict[str, Any]) -> list[str]:
    """Return the algorithm that wrote a ``data`` entry: none or several where it does not say."""
    found = next((label for label, marks in _FINGERPRINTS if marks <= data.keys()), None)
    if found not in _RELATIVES:
        return [] if found is None else [found]
    # SB3 writes the module of a class beside its pickle. One of the user's own says nothing.
    parts = [data.get("policy_class"), data.get("rollout_buffer_class")]
    modules = [str(part.get("__module__")) for part in parts if isinstance(part, dict)]
    packages = _RELATIVES[found].items()
    told = [label for label, package in packages if any(module.startswith(package) for module in modules)]
    return told[:1] or list(_RELATIVES[found])
