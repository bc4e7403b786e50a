"""Read a model file that may come from anybody."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnx_ghn.errors import ModelError
from onnx_ghn.model_io.structure import check_structure, tensors_of
from onnx_ghn.model_io.tensors import ExternalFiles, check_inline
from onnx_ghn.model_io.value_info import detach_types, remember
from onnx_ghn.model_io.wire import check_size_in_memory

MAX_FILE_BYTES = (1 << 31) - 1
"""Protocol buffers can't be larger."""

DEFAULT_MAX_BYTES = 256 << 30
"""Sum of all tensors, as type and shape say, above which a model is refused."""

ORIGIN = "onnx_ghn.origin"
"""Key in `ir.Model.meta`; memory only."""


@dataclass(frozen=True)
class Origin:
    """What saving has to know of the file that a model was loaded from.

    Attributes:
        path: Its absolute path.
        data_files: Absolute paths of its external data files that are there.
    """

    path: Path
    data_files: tuple[Path, ...]


def load(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> ir.Model:
    """Read and check an ONNX model. No weight in an external file is read.

    Args:
        path: The model file, binary protobuf.
        max_bytes: Refuse a model whose tensors take more, as type and shape say;
            `DEFAULT_MAX_BYTES` where None.

    Returns:
        The model. Tensors without data stay so: ask `has_value`.

    Raises:
        ModelError: It can't be read, is invalid, or holds what can't be kept or trusted.
    """
    # onnx-ir checks external data against the model's folder only where that is not "".
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)
    try:
        proto = _parse(absolute)
        check_structure(proto)
        files = _check_tensors(proto, absolute.parent, max_bytes or DEFAULT_MAX_BYTES)
        detached = detach_types(proto)
        model = _deserialize(proto)
    except ModelError as error:
        raise ModelError(f"{os.fspath(path)}: {error}") from None
    _set_base_dir(model, absolute.parent)
    remember(proto, model, detached)
    model.meta[ORIGIN] = Origin(absolute, tuple(files.present.values()))
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        status = path.stat()
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ModelError(f"it is {kind}: give the path of a model file")
        if status.st_size > MAX_FILE_BYTES:
            raise ModelError("larger than 2 GiB, which no ONNX file can be: not an ONNX model")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError("no such file") from None
    except PermissionError:
        raise ModelError("no permission to read it") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"it can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not content:
        raise ModelError("the file is empty")
    check_size_in_memory(content)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise ModelError(
            "not an ONNX model, or one that is truncated, damaged or nested too deeply"
        ) from None
    return proto


def _check_tensors(proto: onnx.ModelProto, folder: Path, max_bytes: int) -> ExternalFiles:
    """Check every tensor; data of attributes in external files is brought into the model."""
    files = ExternalFiles(folder)
    total = 0
    for tensor, is_initializer in tensors_of(proto):
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        size = files.check(tensor) if external else check_inline(tensor)
        total += size
        if total > max_bytes:
            raise ModelError(
                f"its tensors take more than {max_bytes} bytes: raise the limit with --max-bytes "
                "if you trust the file"
            )
        if external and not is_initializer:
            _embed(tensor, files, size)
    files.check_overlaps()
    return files


def _embed(tensor: onnx.TensorProto, files: ExternalFiles, size: int) -> None:
    """Bring the external data of an attribute, mostly a Constant's, into the model.

    onnx-ir keeps attributes immutable, so that saving into another folder could not move them.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = files.present.get(entries["location"])
    if path is None:
        return
    with path.open("rb") as file:
        file.seek(int(entries.get("offset", 0)))
        tensor.raw_data = file.read(size)
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def _deserialize(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:  # a parser of untrusted input: whatever it stumbles over is the file
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise ModelError(f"onnx-ir can't hold this model ({reason})") from None


def _set_base_dir(model: ir.Model, folder: Path) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.base_dir = str(folder)
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(
                attribute.value, ir.ExternalTensor
            ):
                attribute.value.base_dir = str(folder)


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of all graphs and functions, at any depth."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
