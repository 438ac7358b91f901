"""Mutated files: each is read, or refused in one sentence; none hangs, allocates without bound, or runs code."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import rlsd
from rlsd.distiller import Distiller
from rlsd.io import checkpoint

#: Mutants per reader; the environment variable sets another number.
MUTANTS = int(os.environ.get("RLSD_MUTANTS", "300"))
SECONDS_EACH = 20
#: What reading a file of a few kilobytes may take besides what the process has: torch's own buffers and threads.
HEADROOM = 2 << 30


def small_agent() -> Any:
    config = rlsd.DistillConfig(teacher=rlsd.Snapshot(every=16), states=rlsd.Reservoir(capacity=64, batch_size=8))
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
    env = make_vec_env("CartPole-v1", 1, seed=0)
    return rlsd.SelfDistilled(PPO)("MlpPolicy", env, seed=0, device="cpu", distill=config, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    agent = small_agent()
    agent.learn(64)
    path = tmp_path_factory.mktemp("fuzz") / "agent.zip"
    agent.save(path)
    return path.read_bytes()


def flipped(data: bytes, draw: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        mutant[draw.randrange(len(mutant))] ^= 1 << draw.randrange(8)
    return bytes(mutant)


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    """Lying numbers: a field of four or eight bytes, often a length or an offset, says something else."""
    mutant = bytearray(data)
    size = draw.choice([4, 8])
    at = draw.randrange(len(mutant) - size)
    value = draw.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, draw.getrandbits(31)])
    mutant[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(mutant)


def swapped(data: bytes, draw: random.Random) -> bytes:
    """Entries under each other's names, all checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    names = list(entries)
    a, b = draw.sample(names, 2)
    entries[a], entries[b] = entries[b], entries[a]
    return zipped(entries, draw)


def rewritten(data: bytes, draw: random.Random) -> bytes:
    """One entry mutated, all checksums right: what only the entry's own reader can notice."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    ours = [checkpoint.CONFIG, checkpoint.STATE, "policy.pth", "policy.optimizer.pth"]
    name = draw.choice(ours)
    entries[name] = draw.choice([flipped, truncated, overwritten])(entries[name], draw)
    return zipped(entries, draw)


def zipped(entries: dict[str, bytes], draw: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [flipped, truncated, overwritten, swapped, rewritten]


@contextmanager
def within_bounds() -> Iterator[None]:
    """Fail what takes too long, or asks for far more memory than the process had."""

    def too_long(*_: Any) -> None:
        raise AssertionError(f"reading took more than {SECONDS_EACH} s")

    before = signal.signal(signal.SIGALRM, too_long)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM, limits[1]))
    signal.alarm(SECONDS_EACH)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def read_distillation(path: Path, agent: Any) -> None:
    found = checkpoint.read(path, PPO)
    if found is not None:
        config = found.config()
        if config is not None:
            found.restore(Distiller(config, agent), agent)


def read_weights(path: Path, agent: Any) -> None:
    rlsd.load_weights(path, agent)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's size from /proc")
@pytest.mark.parametrize("reader", [read_distillation, read_weights])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_file_is_read_or_refused_in_one_sentence(
    mutation: Callable[[bytes, random.Random], bytes], reader: Callable[[Path, Any], None], saved: bytes, tmp_path: Path
) -> None:
    agent = small_agent()
    draw = random.Random(f"{mutation.__name__} {reader.__name__}")
    path = tmp_path / "mutant.zip"
    for number in range(MUTANTS // len(MUTATIONS)):
        path.write_bytes(mutation(saved, draw))
        message = refusal(reader, path, agent)
        assert message is None or "\n" not in message, f"mutant {number}: more than one line: {message}"
        assert message is None or str(path) in message, f"mutant {number}: does not name the file: {message}"


def refusal(reader: Callable[[Path, Any], None], path: Path, agent: Any) -> str | None:
    """What the reader says of a file, None when it reads it; anything but a ValueError is a failure."""
    try:
        with within_bounds():
            reader(path, agent)
    except ValueError as error:
        return str(error)
    return None


def test_the_file_as_it_was_saved_is_read(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(saved)
    agent = small_agent()
    read_distillation(path, agent)
    read_weights(path, agent)
