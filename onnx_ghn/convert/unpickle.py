"""Reads checkpoints of tensors without running any code that they hold.

A pickle is a program: unpickling calls whatever it names. This reader lets it name ordered
dictionaries, tensors and their storages only, and gives numpy arrays. Three containers: a bare
pickle whose tensors are pickled storages (what joblib writes of a state dict), the zip of
`torch.save`, and its older stream of pickles. Each may be compressed as a whole, as joblib does.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError

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

LZ4_MAGIC = b"\x04\x22\x4d\x18"
"""Start of what joblib writes with compress="lz4"; Python's own library can't read it."""

_CHUNK = 1 << 20


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint: nested dicts, lists, tuples, plain values, and numpy arrays for tensors.

    Raises:
        ArchiveError: The file is missing, truncated, not a checkpoint, or holds anything else
            than tensors, containers and plain values.
    """
    try:
        with path.open("rb") as file:
            stream = _inflated(file)
            if zipfile.is_zipfile(stream):
                stream.seek(0)
                return _read_zip(stream)
            stream.seek(0)
            return _read_stream(stream)
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
        OverflowError,
        MemoryError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise ArchiveError(f"{path}: truncated, or not a checkpoint ({error})") from error


def _inflated(file: IO[bytes]) -> IO[bytes]:
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
    limit = min(MAX_INFLATED, MAX_RATIO * _size(file) + _CHUNK)
    file.seek(0)
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


def _read_zip(stream: IO[bytes]) -> Any:
    """The format of `torch.save` since 1.6: `data.pkl` and one file for each storage."""
    with zipfile.ZipFile(stream) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip file without data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder")
            if order != b"little":
                raise ValueError(f"byte order {order!r} isn't supported")

        def load(kind: _Kind, key: str, count: int) -> Storage:
            return _storage(archive.read(f"{folder}data/{key}"), kind, count)

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), load).load()


def _read_stream(stream: IO[bytes]) -> Any:
    """A bare pickle, or the stream of pickles that begins with a magic number."""
    first = _Unpickler(stream, _no_storages).load()
    if first != LEGACY_MAGIC or isinstance(first, dict):
        return first
    return _read_legacy(stream)


def _read_legacy(stream: IO[bytes]) -> Any:
    """The format of `torch.save` before 1.6, after its magic number.

    The object comes before the bytes of its storages, so that they are filled in afterwards.
    """
    for _ in range(2):  # protocol version, sizes of the writer's integer types
        _Unpickler(stream, _no_storages).load()
    storages: dict[str, Storage] = {}

    def load(kind: _Kind, key: str, count: int) -> Storage:
        left = _size(stream) - stream.tell()
        if key not in storages:
            if count * kind.dtype.itemsize > left:
                raise ValueError("a storage longer than the file")
            storages[key] = np.zeros(count, kind.dtype)
        return storages[key]

    result = _Unpickler(stream, load).load()
    for key in _Unpickler(stream, _no_storages).load():
        storage = storages[key]
        if int.from_bytes(_exactly(stream, 8), "little") != storage.size:
            raise ValueError("a storage of another length than announced")
        storage[:] = np.frombuffer(_exactly(stream, storage.nbytes), storage.dtype)
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

    __slots__ = ("dtype",)

    def __init__(self, name: str) -> None:
        self.dtype = np.dtype(DTYPES[name])


def _storage(data: bytes, kind: _Kind, count: int) -> Storage:
    if len(data) < count * kind.dtype.itemsize:
        raise ValueError("a storage is shorter than announced")
    return np.frombuffer(data, kind.dtype, count)


def _no_storages(kind: _Kind, key: str, count: int) -> Storage:
    raise pickle.UnpicklingError("a tensor without a storage")


class _Unpickler(pickle.Unpickler):
    """Admits ordered dictionaries, tensors and storages."""

    def __init__(self, stream: IO[bytes], load: Callable[[_Kind, str, int], Storage]) -> None:
        super().__init__(stream)
        self._load = load
        # Made anew for each file: a hostile pickle may set attributes on what it is given.
        self._admitted: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _rebuild(*arguments),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: _array(data),
            ("torch.storage", "_load_from_bytes"): lambda data: _nested_storage(data),
            ("torch", "Size"): lambda sizes=(): tuple(sizes),
            # Trainers keep their command line in the checkpoint; here it becomes an empty shell.
            (argparse.__name__, "Namespace"): type("Namespace", (), {}),
        }

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


def _nested_storage(data: bytes) -> Storage:
    """A storage pickled by itself: a whole file of the older format, within a pickle."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage that isn't bytes")
    stream = io.BytesIO(data)
    if _Unpickler(stream, _no_storages).load() != LEGACY_MAGIC:
        raise pickle.UnpicklingError("a storage without its magic number")
    return _array(_read_legacy(stream))


def _rebuild(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, *_: Any
) -> Storage:
    """A tensor from its storage; all its elements must lie within, and none may repeat."""
    storage = _array(storage)
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
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
