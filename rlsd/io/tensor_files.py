"""The tensors in what ``torch.save`` wrote, read without torch's unpickler.

The file is a zip: a pickle that says which tensors there are, and their bytes. The pickle is read as data
(:mod:`rlsd.io.pickles`), and a tensor is made only when it is asked for, in the shape and number type that the reader
expects. So the reader decides how much is read, not the file.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlsd.io.archives import check_sizes, unfold
from rlsd.io.pickles import Made, Stored, Symbol, read

_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_MAPPING = "collections.OrderedDict"
_SYMBOLS = frozenset([*_DTYPES, _TENSOR, _PARAMETER, _MAPPING])
#: Bytes of a pickle: a tensor of a ``state_dict`` takes 200 and its name, and a module's version takes 50 and its name.
_PICKLE, _EACH = 1 << 16, 1 << 10
#: What the tensors' bytes may take: some storages hold more than the tensors that are saved.
_BYTES, _TIMES = 64 * 10**6, 4


class Outline(NamedTuple):
    """A tensor that the file describes, before its bytes are read."""

    dtype: torch.dtype
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorFile:
    """One ``.pth`` entry of an agent's zip.

    :param archive: the agent's zip.
    :param entry: the name of the entry.
    :param count: how many tensors are expected: so large its pickle may be.
    :param size: how many bytes they take: so large the entry may be.
    :raises KeyError: when there is no such entry.
    :raises ValueError: when it is damaged, or holds anything but numbers and tensors.
    :raises zipfile.BadZipFile: when it is no zip, or larger than expected.
    """

    def __init__(self, archive: zipfile.ZipFile, entry: str, count: int, size: int) -> None:
        most = _PICKLE + _EACH * count
        self._size = _BYTES + _TIMES * size
        self._zip = zipfile.ZipFile(io.BytesIO(unfold(archive, entry, self._size + most)))
        check_sizes(self._zip)
        names = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"its entry {entry!r} is not as torch.save writes it: it has {len(names)} data.pkl")
        self._folder = names[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in self._zip.namelist():
            order = unfold(self._zip, f"{self._folder}byteorder", 100).decode()
            if order != sys.byteorder:
                raise ValueError(f"its entry {entry!r} was written with {order[:20]!r} numbers, here {sys.byteorder!r}")
        self._storages: dict[str, bytearray] = {}
        self.content = plain(read(unfold(self._zip, names[0], most), _SYMBOLS))

    def tensor(self, outline: Outline) -> Tensor:
        """Return a tensor of its own, on the CPU.

        :raises ValueError: when its storage is not there, or too small.
        """
        if 0 in outline.shape:
            return torch.empty(outline.shape, dtype=outline.dtype)
        last = outline.offset + sum((n - 1) * step for n, step in zip(outline.shape, outline.strides, strict=True))
        held = self._storage(outline.storage)
        if (last + 1) * outline.dtype.itemsize > len(held):
            raise ValueError(f"the storage {outline.storage!r} is too small for a tensor of {outline.shape}")
        flat = torch.frombuffer(held, dtype=outline.dtype, count=len(held) // outline.dtype.itemsize)
        return flat.as_strided(outline.shape, outline.strides, outline.offset).clone()

    def _storage(self, key: str) -> bytearray:
        if key not in self._storages:
            name, taken = f"{self._folder}data/{key}", sum(map(len, self._storages.values()))
            if name not in self._zip.namelist():
                raise ValueError(f"it has no storage {key[:50]!r}")
            self._storages[key] = bytearray(unfold(self._zip, name, self._size - taken))
        return self._storages[key]


def plain(value: Any) -> Any:
    """Return the mapping that a pickle would make, and anything else as it is."""
    return value.items if type(value) is Made and str(value.call) == _MAPPING and not value.args else value


def outline(value: Any) -> Outline | None:
    """Return the description of a tensor in a pickle, None when it is none that weights are kept in.

    :raises ValueError: when it contradicts itself.
    """
    if type(value) is Made and str(value.call) == _PARAMETER and value.args:
        value = value.args[0]
    if type(value) is not Made or str(value.call) != _TENSOR or len(value.args) < 4:
        return None
    storage, offset, shape, strides = value.args[:4]
    key = storage.key if type(storage) is Stored else None
    if type(key) is not tuple or len(key) < 3 or type(key[1]) is not Symbol or type(key[2]) is not str:
        raise ValueError("it describes a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("it describes a tensor without a shape")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *shape, *strides)):
        raise ValueError("it describes a tensor whose shape, strides or offset are no whole numbers >= 0")
    if str(key[1]) not in _DTYPES:
        raise ValueError(f"it describes a tensor of {key[1]}")
    return Outline(_DTYPES[str(key[1])], key[2], offset, shape, strides)


def kind(value: Any) -> str:
    """Describe a value, for a message."""
    if type(value) is not Made:
        return type(value).__name__
    return "Tensor" if str(value.call) == _TENSOR else str(value.call)


def size_of(tensors: Any) -> int:
    """Return the bytes that tensors take."""
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
