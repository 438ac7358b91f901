"""An agent's zip for other people: without the states that the distillation stored, which show what the agent saw."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import safetensors.torch

from rlsd.io import files
from rlsd.io.archives import dates_that_zips_take, unfold
from rlsd.io.checkpoint import STATE

#: The tensors that hold states, or what was stored with them; of several distillations a name goes before.
_STATES = re.compile(r"([^/]+/)?(replay|teacher/recent|lesson/rollouts)/")


def without_states(source: Path, target: Path) -> int:
    """Copy an agent's zip, but for the stored states; the copy trains on, and stores new ones. Return their bytes.

    It is what ``states.saved`` false would have saved. A zip of plain SB3 is copied as it is. No code in it runs.

    :raises ValueError: when it is damaged.
    """
    left_out = 0
    with (
        zipfile.ZipFile(source) as archive,
        files.replacing(target) as unfinished,
        dates_that_zips_take(),
        zipfile.ZipFile(unfinished, "w", strict_timestamps=False) as copy,
    ):
        for entry in archive.infolist():
            content = unfold(archive, entry.filename)
            if entry.filename == STATE:
                tensors = safetensors.torch.load(content)
                kept = {name: tensor for name, tensor in tensors.items() if not _STATES.match(name)}
                left_out = sum(t.nbytes for name, t in tensors.items() if name not in kept)
                content = safetensors.torch.save(kept)
            copy.writestr(entry, content)
    return left_out
