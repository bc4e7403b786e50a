"""Bytes of tensors: do they agree with type and shape, where do they lie, are they there at all.

The tensors of a file from a stranger may name any path and claim any size. Everything here works
on the protobuf and on file metadata: no weight is read.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from onnx_ghn.errors import ModelError

MAX_TENSOR_BYTES = 16 << 30
"""A larger single tensor is taken for damage or an attack."""

_PACKED = frozenset(ir.DataType[name] for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"))
"""Types of which one byte, or one entry of `int32_data`, holds several elements."""

_EXTERNAL_KEYS = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,18}")

_DATA_FIELDS: dict[str, tuple[str, ...]] = {
    "float_data": ("FLOAT", "COMPLEX64"),
    "int32_data": (
        *("INT32", "INT16", "INT8", "INT4", "INT2", "UINT16", "UINT8", "UINT4", "UINT2", "BOOL"),
        *("FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2"),
        *("FLOAT8E5M2FNUZ", "FLOAT8E8M0", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2"),
    ),
    "int64_data": ("INT64",),
    "double_data": ("DOUBLE", "COMPLEX128"),
    "uint64_data": ("UINT32", "UINT64"),
    "string_data": ("STRING",),
}
_FIELD_OF = {name: field for field, names in _DATA_FIELDS.items() for name in names}


def quote(text: str | bytes) -> str:
    """A name from a file, fit for one line of a message."""
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}..."


def has_value(value: ir.Value) -> bool:
    """Whether the file (or the model in memory) holds bytes for the tensor of an initializer.

    False for no tensor at all, for a tensor with dimensions but no data, and for external data
    whose file is missing or too short.
    """
    return holds_bytes(value.const_value)


def holds_bytes(tensor: ir.TensorProtocol | None) -> bool:
    """The same for a tensor."""
    if tensor is None:
        return False
    if isinstance(tensor, ir.ExternalTensor):
        try:
            status = Path(tensor.path).stat()
        except (OSError, ValueError):
            return False
        length = tensor.length or tensor.nbytes
        return stat.S_ISREG(status.st_mode) and status.st_size >= (tensor.offset or 0) + length
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        return tensor.size == 0 or _inline_data(tensor.raw)[0] is not None
    return True


def expected_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's data in bytes as type and shape say; 0 for strings.

    Raises:
        ModelError: The type is unknown, a dimension is negative, or the size is absurd.
    """
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{_which(tensor)} has the unknown element type {tensor.data_type}")
    for dimension in tensor.dims:
        if dimension < 0:
            raise ModelError(f"{_which(tensor)} has the negative dimension {dimension}")
    if dtype == ir.DataType.STRING:
        return 0
    size = -(-_elements(tensor) * dtype.bitwidth // 8)
    if size > MAX_TENSOR_BYTES or len(tensor.dims) > 64:
        raise ModelError(
            f"{_which(tensor)} claims {size:.3g} bytes in {len(tensor.dims)} dimensions; "
            f"the limit is {MAX_TENSOR_BYTES >> 30} GiB for one tensor"
        )
    return size


def check_inline(tensor: onnx.TensorProto) -> int:
    """Check the data that a tensor holds in the model file itself; returns its size in bytes.

    A float tensor without any data is let through: it has a shape and no value.

    Raises:
        ModelError: Type, shape and data do not agree.
    """
    size = expected_bytes(tensor)
    if tensor.HasField("segment"):
        raise ModelError(f"{_which(tensor)} is stored in segments, which nothing reads")
    dtype = ir.DataType(tensor.data_type)
    elements = _elements(tensor)
    field, entries = _inline_data(tensor)
    if field is None:
        if elements and not dtype.is_floating_point():
            raise ModelError(
                f"{_which(tensor)} has {elements} elements of type {dtype.name} but no data, and "
                "only float tensors can be filled: export the model with its constants"
            )
        return size
    needed = elements
    if field == "raw_data":
        needed = size
    elif dtype.name.startswith("COMPLEX"):
        needed = 2 * elements
    elif dtype in _PACKED:
        needed = size
    if field not in _fields(dtype):
        raise ModelError(f"{_which(tensor)} of type {dtype.name} has its data in {field}")
    if entries != needed:
        raise ModelError(
            f"{_which(tensor)} has {entries} entries in {field} where its type and shape need "
            f"{needed}: the file is damaged"
        )
    return size


class ExternalFiles:
    """The data files beside a model: contained in its folder, and large enough.

    A file that is missing is no error: the model is then a skeleton.

    Attributes:
        folder: Absolute path of the model's folder.
        present: Location to path of each data file that is there, in order of first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.present: dict[str, Path] = {}
        self._sizes: dict[str, int | None] = {}
        self._ranges: dict[str, dict[tuple[int, int], str]] = {}

    def check(self, tensor: onnx.TensorProto) -> int:
        """Check one tensor with external data; returns its size in bytes.

        Raises:
            ModelError: The location leaves the folder, or the range is impossible.
        """
        size = expected_bytes(tensor)
        if _inline_data(tensor)[0] is not None or ir.DataType(tensor.data_type).name == "STRING":
            raise ModelError(f"{_which(tensor)} can't have external data of this kind")
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key not in _EXTERNAL_KEYS or entry.key in entries:
                raise ModelError(
                    f"{_which(tensor)} has the unknown or repeated external data key "
                    f"{quote(entry.key)}; ONNX knows {', '.join(_EXTERNAL_KEYS)}"
                )
            entries[entry.key] = entry.value
        for key in ("offset", "length"):
            if key in entries and not _NUMBER.fullmatch(entries[key]):
                raise ModelError(
                    f"{_which(tensor)} has the {key} {quote(entries[key])}, which is no byte count"
                )
        location = entries.get("location", "")
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if length != size:
            raise ModelError(
                f"{_which(tensor)} has {length} bytes of external data where its type and shape "
                f"need {size}"
            )
        available = self._size(location, _which(tensor))
        if available is not None and offset + length > available:
            raise ModelError(
                f"{_which(tensor)} lies at bytes {offset} to {offset + length} of "
                f"{quote(location)}, which has {available}: copy the complete file"
            )
        if available is not None and length:
            self._ranges.setdefault(location, {})[offset, offset + length] = tensor.name
        return size

    def check_overlaps(self) -> None:
        """Check that no two tensors share a part of a file; the same range twice is a tie.

        Raises:
            ModelError: Two ranges overlap.
        """
        for location, ranges in self._ranges.items():
            ordered = sorted(ranges)
            for (start, end), (after, _) in itertools.pairwise(ordered):
                if after < end:
                    raise ModelError(
                        f"tensors {quote(ranges[start, end])} and others overlap at byte {after} "
                        f"of {quote(location)}"
                    )

    def _size(self, location: str, tensor: str) -> int | None:
        """Bytes in the file at `location`; None where it is missing."""
        if location not in self._sizes:
            self._sizes[location] = self._inspect(location, tensor)
        return self._sizes[location]

    def _inspect(self, location: str, tensor: str) -> int | None:
        problem = f"{tensor} has external data at {quote(location)}, "
        if not isinstance(location, str) or not location or "\0" in location:
            raise ModelError(problem + "which is no file name")
        windows = PureWindowsPath(location)
        if PurePosixPath(location).is_absolute() or windows.drive or windows.root:
            raise ModelError(problem + "an absolute path: it must lie in the model's folder")
        if ".." in windows.parts:
            raise ModelError(problem + "outside the model's folder: copy it beside the model")
        path = self.folder / location
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(self.folder.resolve()):
                raise ModelError(
                    problem + "a link out of the model's folder: copy model and data, without "
                    "links, into one folder (cp -L)"
                )
            status = resolved.stat()
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a loop of links"
            raise ModelError(problem + f"which can't be read: {reason}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(problem + "which is no regular file")
        if status.st_nlink > 1:
            raise ModelError(
                problem + "a hard link, which may lead out of the model's folder: make a copy of it"
            )
        if not os.access(resolved, os.R_OK):
            raise ModelError(problem + "which you have no permission to read")
        self.present[location] = path
        return status.st_size


def _inline_data(tensor: onnx.TensorProto) -> tuple[str | None, int]:
    """The field that holds the tensor's data and its number of entries; None where none does.

    Raises:
        ModelError: More than one field does.
    """
    # Every access to raw_data copies it, so its length is asked for once.
    counts = {field: len(getattr(tensor, field)) for field in (*_DATA_FIELDS, "raw_data")}
    filled = [field for field, count in counts.items() if count]
    if len(filled) > 1:
        raise ModelError(f"{_which(tensor)} has its data twice, in {' and '.join(filled)}")
    return (filled[0], counts[filled[0]]) if filled else (None, 0)


def _fields(dtype: ir.DataType) -> tuple[str, ...]:
    """The fields that may hold data of this type."""
    if dtype == ir.DataType.STRING:
        return ("string_data",)
    return ("raw_data", _FIELD_OF[dtype.name])


def _elements(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _which(tensor: onnx.TensorProto) -> str:
    return f"tensor {quote(tensor.name)}"
