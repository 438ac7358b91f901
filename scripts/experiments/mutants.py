"""Structural mutants of the pickles inside an agent's zip, and hand-made bombs, read as files of anybody's are.

    python scripts/experiments/mutants.py -n 10000

A mutant is made of whole pickle instructions: some left out, doubled, exchanged, put in from elsewhere, or given other
numbers and names, code among them. Each is put into a zip whose checksums are right, compressed or not, and read. What
counts: no code runs (an audit hook and a folder that the code would make tell), a refused file is one ``ValueError``
on one line and leaves the agent as it was, a file that is read leaves it whole, and memory and seconds stay bounded.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

import rlsd
from rlsd.io import checkpoint

SECONDS_EACH, BYTES = 10, 10**9
ENTRIES = ("policy.pth", "policy.optimizer.pth", "pytorch_variables.pth", "actor.optimizer.pth")
WATCHED = (
    "exec",
    "os.system",
    "os.mkdir",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.",
    "pickle.",
)
CODE = [
    *("posix system", "os mkdir", "builtins exec", "builtins eval", "builtins getattr", "builtins __import__"),
    *("subprocess Popen", "operator methodcaller", "builtins bytearray", "_codecs encode", "builtins set"),
    *("collections Counter", "collections OrderedDict", "torch Tensor", "torch device", "torch Size", "torch float32"),
    *("torch.nn.parameter Parameter", "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_tensor_v3", "torch FloatStorage"),
    *(
        "torch DoubleStorage",
        "torch BoolStorage",
        "torch.storage UntypedStorage",
        "torch._tensor _rebuild_from_type_v2",
    ),
    *("numpy._core.multiarray scalar", "rlsd.io.pickles Made", "torch.hub load", "torch load"),
]
NUMBERS = [0, 1, -1, 2, 255, 2**31 - 1, -(2**31), 2**40, 2**63, 10**400, -(10**400)]
LONE = b"0123.()]}\x8f\x90\x91\x92\x93\x94bRsuaetlodNQ2\x81\x85\x86\x87\x88\x89"


@dataclass
class Subject:
    """An agent that reads files, and the file that mutants are made of."""

    agent: Any
    entries: dict[str, bytes]
    before: Any = None

    @classmethod
    def make(cls, algorithm: Any, env_id: str, folder: Path, **settings: Any) -> Subject:
        """Train two small agents: one is saved, the other reads."""

        def new(seed: int) -> Any:
            env = make_vec_env(env_id, 1, seed=0)
            kwargs = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu", "seed": seed, **settings}
            return rlsd.SelfDistilled(algorithm)("MlpPolicy", env, distill="snapshot", **kwargs)

        original = new(1).learn(128)
        original.save(folder / "original.zip")
        with zipfile.ZipFile(folder / "original.zip") as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        reader = new(0).learn(128)
        rlsd.load_weights(folder / "original.zip", reader)  # what is imported late is imported now
        checkpoint.read(folder / "original.zip", algorithm)
        return cls(reader, found, held_by(reader))


def held_by(agent: Any) -> Any:
    """All that reading weights may change."""
    _, variables = agent._get_torch_save_params()
    found = copy.deepcopy(agent.get_parameters())
    return found | {name: getattr(agent, name).detach().clone() for name in variables}


def tensors_in(held: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, by its path."""
    if isinstance(held, Tensor):
        yield "", held
    elif isinstance(held, dict):
        for name, value in held.items():
            yield from ((f"{name}/{path}", tensor) for path, tensor in tensors_in(value))


def same(one: Any, other: Any) -> bool:
    """Whether nothing was changed."""
    a, b = dict(tensors_in(one)), dict(tensors_in(other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def instructions(data: bytes) -> list[bytes]:
    """Split a pickle into its instructions."""
    starts = [at for _, _, at in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


class Mutator:
    """Draws mutants of the pickles in zips, always the same for a seed."""

    def __init__(self, seed: int, trace: Path) -> None:
        self.draw, self.trace = random.Random(seed), trace

    def zip(self, entries: dict[str, bytes]) -> bytes:
        """Return a zip in which one entry's pickle is another."""
        name = self.draw.choice([name for name in ENTRIES if name in entries])
        return self.zipped(entries | {name: self.inner(entries[name])})

    def zipped(self, entries: dict[str, bytes]) -> bytes:
        """Return a zip of these entries, compressed or not."""
        out = io.BytesIO()
        method = self.draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return out.getvalue()

    def inner(self, data: bytes) -> bytes:
        """Return a file of torch's in which the pickle is another, and at times the numbers too."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        pickled = next(name for name in entries if name.endswith("data.pkl"))
        entries[pickled] = self.pickle(entries[pickled])
        if self.draw.random() < 0.2:
            name = self.draw.choice(list(entries))
            content = entries[name]
            special = [
                content[: len(content) // 2],
                content * 3,
                b"",
                struct.pack("<f", float("nan")) * (len(content) // 4),
            ]
            entries[name] = self.draw.choice(special)
        return self.zipped(entries)

    def pickle(self, data: bytes) -> bytes:
        """Return a pickle with one or some instructions changed."""
        parts = instructions(data)
        for _ in range(self.draw.choice([1, 1, 1, 2, 3, 8])):
            ways = [self._drop, self._double, self._swap, self._call, self._splice, self._repeat, self._protocol]
            ways += [self._put, self._rename, self._count] * 2
            self.draw.choice(ways)(parts)
        return b"".join(parts)

    def _at(self, parts: list[bytes], marks: bytes = b"") -> int:
        fits = [at for at, part in enumerate(parts) if not marks or part[:1] in [bytes([mark]) for mark in marks]]
        return self.draw.choice(fits or range(len(parts)))

    def _drop(self, parts: list[bytes]) -> None:
        if len(parts) > 2:
            del parts[self._at(parts)]

    def _double(self, parts: list[bytes]) -> None:
        at = self._at(parts)
        parts.insert(at, parts[at])

    def _swap(self, parts: list[bytes]) -> None:
        a, b = self._at(parts), self._at(parts)
        parts[a], parts[b] = parts[b], parts[a]

    def _put(self, parts: list[bytes]) -> None:
        number = struct.pack("<I", self.draw.choice([0, 1, 300, 2**31 - 1, 2**32 - 1]))
        some = [b"j" + number, b"r" + number, b"h\x00", b"q\x00", b"X" + number, b"B" + number, b"\x82\x01"]
        some += [b"Pcode\n", b"iposix\nmkdir\n", b"\x8d" + number * 2, b"\x96" + number + bytes(4), b"\x8b" + number]
        some += [bytes([self.draw.choice(LONE)]) for _ in some]
        parts.insert(self._at(parts), self.draw.choice(some))

    def _rename(self, parts: list[bytes]) -> None:
        module, name = self.draw.choice(CODE).split()
        parts[self._at(parts, b"c")] = f"c{module}\n{name}\n".encode()

    def _count(self, parts: list[bytes]) -> None:
        value: Any = self.draw.choice([*NUMBERS, 0.5, float("nan"), float("inf"), True, None, "", "0", (), [], {}])
        parts[self._at(parts, b"KMJG\x8aNX")] = pickle.dumps(value, 2)[2:-1]

    def _call(self, parts: list[bytes]) -> None:
        text = str(self.trace).encode()
        what = self.draw.choice([b"cposix\nmkdir\n", b"cos\nmkdir\n", b"cbuiltins\nexec\n"])
        text = b"import os; os.mkdir(%r)" % str(self.trace) if what.endswith(b"exec\n") else text
        call = what + b"X" + struct.pack("<I", len(text)) + text + b"\x85R"
        parts.insert(self._at(parts), call + self.draw.choice([b"", b"0"]))

    def _splice(self, parts: list[bytes]) -> None:
        a = self._at(parts)
        b = min(len(parts), a + self.draw.randrange(1, 30))
        parts[self._at(parts) : self._at(parts)] = parts[a:b]

    def _repeat(self, parts: list[bytes]) -> None:
        at = self._at(parts)
        parts[at:at] = parts[at : at + self.draw.randrange(1, 6)] * self.draw.choice([10, 1000])

    def _protocol(self, parts: list[bytes]) -> None:
        parts[0] = b"\x80" + bytes([self.draw.choice([0, 1, 3, 4, 5, 9, 255])])


def torch_zip(pickled: bytes, method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """Return what ``torch.save`` would have written, had it made this pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for name, content in more.items():
            archive.writestr(f"archive/data/{name.removeprefix('s')}", content)
    return out.getvalue()


def saved(value: Any) -> bytes:
    """Return what ``torch.save`` writes."""
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def bombs(entries: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """Yield name, entries and compression of zips that want more than they hold."""
    deflated, stored = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED
    big, tall = bytes(400 * 10**6), b"\x80\x02"
    codec = b"c_codecs\nencode\n"
    pickles = {
        "bytearray(8 GB)": tall + b"cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**33) + b"\x85R.",
        "codecs, one inside the other": tall + codec * 9 + b"X\x04\0\0\0AAAA" + b"X\x06\0\0\0utf-16\x86R" * 9 + b".",
        "400,000 empty tensors": saved([torch.empty(0) for _ in range(1)]),
        "lists of lists of lists": tall
        + b"]q\0"
        + b"](" * 0
        + b"".join(b"](" + b"h\0" * 99 + b"eq\0" for _ in range(500))
        + b".",
        "a place far away in the memo": tall + b"]r\xff\xff\xff\xff.",
        "a text of 4 GB": tall + b"X\xff\xff\xff\xff.",
        "tuples in tuples as a key": tall + b"})" + b"\x85" * 60_000 + b"Ns.",
        "a million tuples": tall + b")" + b"\x85" * 10**6 + b".",
        "a million lists": tall + b"]" * 10**6 + b".",
        "a number of 100,000 digits": b"I" + b"9" * 10**5 + b"\n.",
        "a set of names": tall + b"\x8f(" + b"K\x01" * 1000 + b"\x90.",
    }
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0s"
    tensor += b"X\x03\0\0\0cpuK\0tQK\0K\0\x85K\x01\x85\x89}tR"
    pickles["400,000 empty tensors"] = tall + b"](" + tensor * 400_000 + b"e."
    wide = tensor.replace(b"K\0\x85K\x01\x85", b"\x8a\x06" + struct.pack("<q", 2**40)[:6] + b"\x85K\0\x85")
    pickles["a tensor of 4 TB"] = tall + b"}(X\x07\0\0\0log_std" + wide + b"u."
    for name, content in pickles.items():
        for method in (stored, deflated):
            for entry in ("policy.pth", "policy.optimizer.pth"):
                yield f"{name}, {entry}", entries | {entry: torch_zip(content, method, ss=b"")}, method
    yield "a pickle of 400 MB", entries | {"policy.pth": torch_zip(big, deflated)}, deflated
    yield (
        "a storage of 400 MB",
        entries | {"policy.pth": torch_zip(pickles["a tensor of 4 TB"], deflated, ss=big)},
        deflated,
    )
    for method in (deflated, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"an entry of 400 MB, method {method}", entries | {"policy.pth": big}, method
        yield f"the distillation of 400 MB, method {method}", entries | {checkpoint.STATE: big}, method
        yield f"data of 200 MB, method {method}", entries | {"data": b"[" * (200 * 10**6)}, method
    yield "data of lists", entries | {"data": b"[" + b"[]," * (30 * 10**6) + b"[]]"}, deflated
    yield "a deep config", entries | {checkpoint.CONFIG: b'{"a":' * 10**6}, deflated
    yield "a config with a long number", entries | {checkpoint.CONFIG: b"9" * 10**7}, deflated
    names = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)}
    header = json.dumps(names).encode()
    yield "a million empty tensors", entries | {checkpoint.STATE: struct.pack("<Q", len(header)) + header}, deflated
    yield "100,000 entries", entries | {f"e{i}": b"" for i in range(10**5)}, stored
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "on no device": lambda w: torch.empty_like(w, device="meta"),
        "sparse": torch.Tensor.to_sparse,
        "NaN": lambda w: w * float("nan"),
    }
    for name, make in makers.items():
        weights = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
        yield (
            f"weights that are {name}",
            entries | {"policy.pth": saved({k: make(v) for k, v in weights.items()})},
            stored,
        )


def lying(data: bytes, claim: int) -> bytes:
    """Return a zip of which every entry claims another size in the directory."""
    changed, at = bytearray(data), data.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", claim)
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


@dataclass
class Tally:
    """What came of the files."""

    files: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ran: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    memory: int = 0
    largest: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.files:,} files: {self.read:,} read, {sum(self.refused.values()):,} refused",
            f"code executed: {len(self.ran)}; half-changed agents: {len(self.half)}; other errors: {len(self.other)}",
            f"slowest: {self.slowest[0]:.2f} s ({self.slowest[1]})",
            f"peak memory above the start: {self.memory / 1e6:.0f} MB {self.largest}",
        ]
        return "\n".join([*lines, *self.ran[:5], *self.half[:5], *self.other[:5]])

    @property
    def good(self) -> bool:
        """Whether all promises were kept."""
        clip_and_sanitize = self.slowest[0] < SECONDS_EACH and self.memory < BYTES
        return clip_and_sanitize and not (self.ran or self.half or self.other)


class Watch:
    """Notes what Python tells of code that runs; hooks can never be taken off again, so there is one."""

    events: list[str] | None = None
    installed = False

    @classmethod
    def install(cls) -> None:
        """Begin to listen."""
        if not cls.installed:
            sys.addaudithook(cls._hear)
            cls.installed = True

    @classmethod
    def _hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.events is not None and event.startswith(WATCHED):
            cls.events.append(f"{event} {str(arguments)[:100]}")


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def judge(tally: Tally, name: str, content: bytes, subject: Subject, file: Path, trace: Path, read: Any) -> None:
    """Read one file, and note what came of it."""
    file.write_bytes(content)
    del content
    tally.files += 1
    refused = None
    Watch.events, started = [], time.perf_counter()
    try:
        read(file, subject.agent)
    except ValueError as error:
        refused = str(error)
        if "\n" in refused or len(refused) > 2000 or str(file) not in refused:
            tally.other.append(f"{name}: not one line that names the file: {refused[:200]!r}")
    except BaseException as error:
        tally.other.append(f"{name}: {type(error).__name__}: {error}")
    seconds, events, Watch.events = time.perf_counter() - started, Watch.events, None
    tally.slowest = max(tally.slowest, (seconds, name))
    if trace.exists() or events:
        tally.ran.append(f"{name}: {events}")
        if trace.exists():
            trace.rmdir()
    held = held_by(subject.agent)
    if refused is not None:
        tally.refused[refused.replace(str(file), "")[:60]] += 1
        if not same(held, subject.before):
            tally.half.append(f"{name}: {refused}")
    elif not all(tensor.isfinite().all() for _, tensor in tensors_in(held) if tensor.is_floating_point()):
        tally.half.append(f"{name}: it was read, and left what is not finite")
    tally.read += refused is None
    subject.before = held if refused is None else subject.before


def load_weights(file: Path, agent: Any) -> None:
    """Read weights: what is promised of files that may come from anybody."""
    rlsd.load_weights(file, agent)


def read_distillation(file: Path, agent: Any) -> None:
    """Read rlsd's own entries: what ``SelfDistilled(PPO).load`` does before SB3 unpickles."""
    checkpoint.read(file, type(agent).__mro__[1])


def campaign(mutants: int, with_bombs: bool, seed: int = 0, tell: Callable[[str], None] = print) -> tuple[Tally, Tally]:
    """Read so many mutants, and the bombs, and return what came of both."""
    Watch.install()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, trace = folder / "mutant.zip", folder / "ran"
        ppo = Subject.make(PPO, "CartPole-v1", folder, n_steps=64, batch_size=64, n_epochs=1)
        sac = Subject.make(SAC, "Pendulum-v1", folder, learning_starts=100, buffer_size=200, batch_size=8)
        mutator, tallies = Mutator(seed, trace), (Tally(), Tally())
        start = peak()
        for number in range(mutants):
            subject = sac if number % 3 == 2 else ppo
            judge(tallies[0], f"mutant {number}", mutator.zip(subject.entries), subject, file, trace, load_weights)
            if number % 1000 == 999:
                tell(f"{number + 1:,} mutants")
        tallies[0].memory = peak() - start
        for name, entries, method in bombs(ppo.entries) if with_bombs else ():
            # The file is made in a process of its own: making a bomb takes the memory that reading must not.
            child = os.fork()
            if child == 0:
                with zipfile.ZipFile(file, "w", method) as archive:
                    for entry, data in entries.items():
                        archive.writestr(entry, data)
                os._exit(0)
            os.waitpid(child, 0)
            del entries
            content = file.read_bytes()
            for variant, data in (
                ("", content),
                (", lying", lying(content, 100)),
                (", boasting", lying(content, 2**32 - 2)),
            ):
                for read in (load_weights, read_distillation):
                    start = reset_peak()
                    judge(tallies[1], f"{name}{variant}, {read.__name__}", data, ppo, file, trace, read)
                    if peak_now() - start > tallies[1].memory:
                        tallies[1].memory, tallies[1].largest = (
                            peak_now() - start,
                            f"({name}{variant}, {read.__name__})",
                        )
        return tallies


def reset_peak() -> int:
    """Begin to measure the most memory anew, and return what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_now()


def peak_now() -> int:
    """Return the most memory that was held since :func:`reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> int:
    """Read the command line, run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mutants, exploded = campaign(options.n, with_bombs=True, seed=options.seed)
    print(
        f"\nMutants (seed {options.seed})\n{mutants}\n\nBombs\n{exploded}\n\nWhat was said of mutants, most often first"
    )
    for said, count in mutants.refused.most_common(12):
        print(f"{count:>6}  {said}")
    return 0 if mutants.good and exploded.good else 1


if __name__ == "__main__":
    sys.exit(main())
