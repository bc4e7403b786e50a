"""Reads checkpoints of tensors without running any code that they hold.

A pickle is a program: unpickling calls whatever it names. This reader lets it name ordered
dictionaries, tensors and their storages only, and gives numpy arrays. Three containers: a bare
pickle whose tensors are pickled storages (what joblib writes of a state dict), the zip of
`torch.save`, and its older stream of pickles. Each may be compressed as a whole, as joblib does.

Nor may a small file fill the memory: what a file unfolds to, however often it says so, is limited
by its size (`most_bytes`).
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError
from onnx_ghn.model_io.regular import check_regular

Storage = npt.NDArray[Any]
"""The flat content of a tensor's storage."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


MAX_RATIO = 64
"""Weights hardly compress: a file that grows by more than this is an attack."""

MAX_INFLATED = 8 << 30
"""Bytes that a compressed file may grow to; the largest published checkpoint has 2.6 GB."""

MAX_AXES = 32

LZ4_MAGIC = b"\x04\x22\x4d\x18"
"""Start of what joblib writes with compress="lz4"; Python's own library can't read it."""

_CHUNK = 1 << 20

_OPERATIONS: dict[int, Callable[[Any], None]] = {**pickle._Unpickler.dispatch}
"""What reads each operation of a pickle, by its code."""

_REFUSED = b"".join(
    (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8),
    )
)
"""Codes of operations that no checkpoint of tensors needs."""


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint: nested dicts, lists, tuples, plain values, and numpy arrays for tensors.

    Raises:
        ArchiveError: The file is missing, truncated, not a checkpoint, or holds anything else
            than tensors, containers and plain values.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            budget = _Budget(most_bytes(path))
            stream = _inflated(file, path)
            if zipfile.is_zipfile(stream):
                stream.seek(0)
                return _read_zip(stream, budget)
            stream.seek(0)
            return _read_stream(stream, budget)
    except FileNotFoundError as error:
        raise ArchiveError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        raise ArchiveError(f"{path}: refused: {error}") from error
    except (
        EOFError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
        OverflowError,
        MemoryError,
        RuntimeError,  # zipfile's, of entries that are encrypted or compressed in its own way
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise ArchiveError(f"{path}: truncated, or not a checkpoint ({error})") from error


def most_bytes(path: Path) -> int:
    """What a checkpoint may unfold to, in bytes."""
    return min(MAX_INFLATED, MAX_RATIO * path.stat().st_size + _CHUNK)


class _Budget:
    """What a file may still unfold to."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def take(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            UnpicklingError: There are none left.
        """
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"it unfolds to more than {self._limit} bytes, which no weights do"
            )


def _inflated(file: IO[bytes], path: Path) -> IO[bytes]:
    """The file itself, or what is compressed in it (zlib, gzip, bzip2, xz, lzma) within limits."""
    start = file.read(6)
    file.seek(0)
    inflated: IO[bytes]
    if start[:1] == b"\x78" and int.from_bytes(start[:2], "big") % 31 == 0:
        inflated = cast(IO[bytes], _Zlib(file))
    elif start[:2] == b"\x1f\x8b":
        inflated = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    elif start[:3] == b"BZh":
        inflated = bz2.BZ2File(file)
    elif start == b"\xfd7zXZ\x00" or start[:3] == b"\x5d\x00\x00":
        inflated = lzma.LZMAFile(file)  # noqa: SIM115 (the caller closes the file below it)
    elif start[:4] == LZ4_MAGIC:
        raise ArchiveError(
            f"{file.name}: compressed with lz4, which isn't read here: unpack it first "
            f"(lz4 -d {file.name} UNPACKED.pt)"
        )
    else:
        return file
    limit = most_bytes(path)
    content = io.BytesIO()
    while chunk := inflated.read(_CHUNK):
        content.write(chunk)
        if content.tell() > limit:
            raise pickle.UnpicklingError(
                f"it is compressed and grows beyond {limit} bytes, which no weights do"
            )
    content.seek(0)
    return content


class _Zlib(io.RawIOBase):
    """Reads a zlib stream, no more of it at once than is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zlib = zlib.decompressobj()

    def read(self, count: int = -1) -> bytes:
        """The next bytes, at most `count`; none at the end."""
        while not self._zlib.eof:
            waiting = self._zlib.unconsumed_tail or self._file.read(_CHUNK)
            if not waiting:
                raise EOFError("the compressed stream ends early")
            if data := self._zlib.decompress(waiting, count):
                return data
        return b""


def _read_zip(stream: IO[bytes], budget: _Budget) -> Any:
    """The format of `torch.save` since 1.6: `data.pkl` and one file for each storage."""
    with zipfile.ZipFile(stream) as archive:
        contents: dict[str, bytes] = {}

        def content(name: str) -> bytes:
            if name not in contents:
                budget.take(archive.getinfo(name).file_size)
                contents[name] = archive.read(name)
            return contents[name]

        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip file without data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = content(f"{folder}byteorder")
            if order != b"little":
                raise ValueError(f"byte order {order[:16]!r} isn't supported")

        def load(kind: _Kind, key: str, count: int) -> Storage:
            return _storage(content(f"{folder}data/{key}"), kind, count)

        return _Unpickler(io.BytesIO(content(pickles[0])), budget, load).load()


def _read_stream(stream: IO[bytes], budget: _Budget) -> Any:
    """A bare pickle, or the stream of pickles that begins with a magic number."""
    first = _Unpickler(stream, budget).load()
    if type(first) is int and first == LEGACY_MAGIC:
        return _read_legacy(stream, budget)
    return first


def _read_legacy(stream: IO[bytes], budget: _Budget) -> Any:
    """The format of `torch.save` before 1.6, after its magic number.

    The object comes before the bytes of its storages, so that they are filled in afterwards.
    """
    for _ in range(2):  # protocol version, sizes of the writer's integer types
        _Unpickler(stream, budget).load()
    storages: dict[str, Storage] = {}

    def load(kind: _Kind, key: str, count: int) -> Storage:
        if key not in storages:
            size = count * kind.dtype.itemsize
            budget.take(size)
            if size > _size(stream) - stream.tell():
                raise ValueError("a storage longer than the file")
            storages[key] = np.zeros(count, kind.dtype)
        return storages[key]

    result = _Unpickler(stream, budget, load).load()
    for key in _Unpickler(stream, budget).load():
        storage = storages.pop(key)
        if int.from_bytes(_exactly(stream, 8), "little") != storage.size:
            raise ValueError("a storage of another length than announced")
        storage[:] = np.frombuffer(_exactly(stream, storage.nbytes), storage.dtype)
    if storages:
        raise ValueError("a storage without content")
    return result


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("the file ends within a storage")
    return data


def _size(stream: IO[bytes]) -> int:
    here = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    stream.seek(here)
    return end


class _Kind:
    """Stands for a storage class: only its element type matters."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type, looked up anew: a hostile pickle may set attributes."""
        return np.dtype(DTYPES[self._name])


def _storage(data: bytes, kind: _Kind, count: int) -> Storage:
    if len(data) < count * kind.dtype.itemsize:
        raise ValueError("a storage is shorter than announced")
    return np.frombuffer(data, kind.dtype, count)


def _no_storages(kind: _Kind, key: str, count: int) -> Storage:
    raise pickle.UnpicklingError("a tensor without a storage")


class _Unpickler(pickle._Unpickler):
    """Admits ordered dictionaries, tensors and storages.

    Python's own unpickler, not the one in C: that fills the memory for a memo of ten bytes, and
    its operations can't be refused one by one.
    """

    stack: list[Any]

    def __init__(
        self,
        stream: IO[bytes],
        budget: _Budget,
        load: Callable[[_Kind, str, int], Storage] = _no_storages,
    ) -> None:
        super().__init__(stream)
        self._load = load
        self._budget = budget
        # Made anew for each file: a hostile pickle may set attributes on what it is given.
        self._admitted: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): lambda *items: self._ordered(*items),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _rebuild(*arguments),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: _array(data),
            ("torch.storage", "_load_from_bytes"): lambda data: _nested_storage(data, budget),
            ("torch", "Size"): lambda sizes=(): _integers(sizes),
            # Trainers keep their command line in the checkpoint; here it becomes an empty shell.
            (argparse.__name__, "Namespace"): type("Namespace", (), {}),
        }

    def _ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        self._budget.take(len(_sequence(items)))  # one list may be named again and again
        _check_keys(_sequence(pair)[0] for pair in items)
        return OrderedDict(items)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return _Kind(name)
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the file asks for {module}.{name}; only tensors, dictionaries and plain values "
                "are read from a checkpoint"
            ) from None

    def persistent_load(self, identifier: Any) -> Storage:
        match identifier:
            case ("storage", _Kind() as kind, str(key), str(_), int(count), *view):
                if count >= 0 and not any(view):
                    return self._load(kind, key, count)
        raise pickle.UnpicklingError("a storage of an unknown form")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds objects; only tensors and plain values are read")

    def _load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        _OPERATIONS[pickle.SETITEM[0]](self)

    def _load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # what has been pushed since the mark: keys and values
        _OPERATIONS[pickle.SETITEMS[0]](self)

    def _load_dict(self) -> None:
        _check_keys(self.stack[::2])
        _OPERATIONS[pickle.DICT[0]](self)

    dispatch: ClassVar[dict[int, Any]] = (
        _OPERATIONS
        | dict.fromkeys(_REFUSED, _refuse)
        | {
            pickle.SETITEM[0]: _load_setitem,
            pickle.SETITEMS[0]: _load_setitems,
            pickle.DICT[0]: _load_dict,
        }
    )


def _check_keys(keys: Iterable[Any]) -> None:
    """Keys must be plain: hashing tuples within tuples without end would break the process."""
    for key in keys:
        if not isinstance(key, (str, bytes, int, float, type(None))):
            raise pickle.UnpicklingError(
                f"a dictionary whose keys are of type {type(key).__name__}"
            )


def _nested_storage(data: bytes, budget: _Budget) -> Storage:
    """A storage pickled by itself: a whole file of the older format, within a pickle."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage that isn't bytes")
    stream = io.BytesIO(data)
    if _Unpickler(stream, budget).load() != LEGACY_MAGIC:
        raise pickle.UnpicklingError("a storage without its magic number")
    return _array(_read_legacy(stream, budget))


def _sequence(values: Any) -> Sequence[Any]:
    if not isinstance(values, (list, tuple)):
        raise pickle.UnpicklingError("a sequence that isn't one")
    return values


def _integers(values: Any) -> tuple[int, ...]:
    """A shape or strides."""
    if len(_sequence(values)) > MAX_AXES:
        raise pickle.UnpicklingError(f"a tensor of more than {MAX_AXES} axes")
    return tuple(map(int, values))


def _rebuild(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, *_: Any
) -> Storage:
    """A tensor from its storage; all its elements must lie within, and none may repeat."""
    storage = _array(storage)
    size, stride = _integers(size), _integers(stride)
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= storage.size or count > storage.size):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _array(value: Any) -> Storage:
    if not isinstance(value, np.ndarray):
        raise pickle.UnpicklingError("a tensor that isn't one")
    return value
