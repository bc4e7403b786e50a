"""Write a model: tensor by tensor, and so that a crash leaves the input or a complete output.

Tensors that are evaluated lazily are evaluated once, written and dropped: memory holds the
largest one, whether the data goes into the model file or beside it.

A model file and its data file can't be renamed in one step. A complete model is therefore never
made to point at data that is not its own:

- Overwriting another output (`force`): its model file is removed, then the data takes its
  place, then the new model. The input is untouched all the time.
- In place: the data gets a name that nothing has yet, then the model file is replaced in one
  step, then the old data file goes, if its name says that it belongs to this model alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from onnx_ghn.errors import ModelError, OutputError
from onnx_ghn.model_io.atomic import AtomicFile, exclusive
from onnx_ghn.model_io.loading import MAX_FILE_BYTES, ORIGIN, Origin, all_nodes
from onnx_ghn.model_io.target import check_output, same_file
from onnx_ghn.model_io.tensors import holds_bytes, quote
from onnx_ghn.model_io.value_info import restore
from onnx_ghn.model_io.wire import field_header

MAX_EMBEDDED_BYTES = 3 << 29
"""1.5 GiB: models with more tensor data get an external data file."""

MIN_EXTERNAL_BYTES = 1024
"""Smaller tensors stay in the model file: shape inference needs the values of some."""

_ALIGNMENT = 4096
"""Offsets are multiples of a page, so that runtimes can map each tensor into memory."""

_MODEL_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_GRAPH_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_TENSOR_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER

Progress = Callable[[int, int], None]
"""Called with the bytes of tensor data written so far and in all."""


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
    in_place: bool = False,
    external_data: bool | None = None,
    shard_size: int | None = None,
    skeleton: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a model; the model in memory stays as it is.

    Args:
        model: What to write.
        path: Where to. Data files get the same name with `.data` and stand beside it.
        source: The file it was made from; known by itself where `load` read it.
        force: Whether another file may be overwritten.
        in_place: Whether `source` itself is to be overwritten.
        external_data: Whether tensors go into a data file; where None, they do if the source's
            did, if they take more than `MAX_EMBEDDED_BYTES`, or if a shard size is given.
        shard_size: Start another data file when one would exceed so many bytes. A larger tensor
            gets a file of its own.
        skeleton: Whether tensors may be without a value; they are written as type and shape.
        progress: Called after each tensor.

    Raises:
        ModelError: A tensor has no value.
        OutputError: It can't be written; nothing is left behind.
    """
    target = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)
    origin = model.meta.get(ORIGIN)
    if source is None and origin is not None:
        source = origin.path
    check_output(target, source=source, force=force, in_place=in_place)
    if origin is not None and any(same_file(target, used) for used in origin.data_files):
        raise OutputError(f"{path} holds weights of the input: give another output")
    values = _initializers(model, skeleton=skeleton)
    total = sum(_tensor(value).nbytes for value in values)
    if external_data is None:
        external_data = (
            shard_size is not None
            or total > MAX_EMBEDDED_BYTES
            or _has_external_data(origin, values)
        )
    try:
        _check_free_space(target, total)
        if external_data:
            writer = _ExternalWriter(model, target, origin, force=force, in_place=in_place)
            writer.write(values, shard_size, _Counter(total, progress))
        else:
            _write_embedded(model, target, _Counter(total, progress), overwrite=force or in_place)
    except FileExistsError as error:
        raise OutputError(f"{error.filename or path} exists: --force overwrites it") from None
    except OSError as error:
        # NumPy says how many bytes were not written, and not why.
        reason = error.strerror or f"{error}: is the disk full?"
        raise OutputError(f"can't write {path}: {reason}") from None


class _Counter:
    """Adds up what was written for the progress callback."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total_bytes, progress

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _initializers(model: ir.Model, *, skeleton: bool) -> list[ir.Value]:
    """The initializers of all graphs that have a value: in a complete model, each.

    Raises:
        ModelError: One has none, or a node's attribute has none.
    """
    values = []
    for value in (value for graph in model.graphs() for value in graph.initializers.values()):
        if holds_bytes(value.const_value):
            values.append(value)
        elif not skeleton:
            raise ModelError(
                f"tensor {quote(value.name or '')} has no value (its data is missing) and nothing "
                "has set it: add its data, or let it be initialised with --include or --role"
            )
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                tensor = attribute.as_tensor()
                if not holds_bytes(tensor) or isinstance(tensor, ir.ExternalTensor):
                    raise ModelError(
                        f"the value of {node.op_type} {quote(node.name or '')} is missing, or "
                        "lies in an external file that was not read with the model"
                    )
    return values


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _has_external_data(origin: Origin | None, values: Sequence[ir.Value]) -> bool:
    if values and origin is not None and origin.data_files:
        return True
    return any(isinstance(value.const_value, ir.ExternalTensor) for value in values)


def _check_free_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise OutputError(
            f"can't write {target}: it needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            "free on that disk"
        )


def _write_tensor(value: ir.Value, file: AtomicFile, counter: _Counter) -> None:
    """Evaluate a tensor, append its bytes to the file and drop it.

    Raises:
        ModelError: It has another size than its type and shape say.
    """
    tensor = _tensor(value)
    start = file.file.tell()
    _append(tensor, file.file)
    written = file.file.tell() - start
    if written != tensor.nbytes:
        raise ModelError(
            f"tensor {quote(value.name or '')} gave {written} bytes where its type and shape "
            f"need {tensor.nbytes}"
        )
    file.settle()
    counter.add(written)


def _append(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Append the bytes; `tofile`, which the protocol does not demand, saves a copy."""
    write = getattr(tensor, "tofile", None)
    if write is None:
        file.write(tensor.tobytes())
    else:
        write(file)


@contextlib.contextmanager
def _replaced(tensors: Sequence[tuple[ir.Value, ir.TensorProtocol]]) -> Iterator[None]:
    """Put other tensors into values for a while."""
    originals = [value.const_value for value, _ in tensors]
    try:
        for value, tensor in tensors:
            value.const_value = tensor
        yield
    finally:
        for (value, _), original in zip(tensors, originals, strict=True):
            value.const_value = original


def _reference(value: ir.Value, location: str, offset: int) -> ir.ExternalTensor:
    """What stands in the model file for a tensor whose bytes are written elsewhere."""
    tensor = _tensor(value)
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _serialize(
    model: ir.Model, references: Sequence[tuple[ir.Value, ir.TensorProtocol]]
) -> onnx.ModelProto:
    """The model as a protobuf, with references in the place of some of its tensors."""
    with _replaced(references):
        proto = ir.serde.serialize_model(model)
        restore(proto, model)
    return proto


def _write_embedded(model: ir.Model, target: Path, counter: _Counter, *, overwrite: bool) -> None:
    """Write one file. The main graph's tensors are streamed into its protobuf encoding.

    A serialised message is a sequence of fields in any order, so the graph's initializers can
    follow the rest of it, each written as soon as it is evaluated.
    """
    values = list(model.graph.initializers.values())
    proto = _serialize(model, [(value, _reference(value, "", 0)) for value in values])
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_tensor_head(value) for value in values]
    sizes = [len(head) + size for head, size in heads]
    entries = [field_header(_GRAPH_INITIALIZER, size) for size in sizes]
    length = len(graph) + sum(len(entry) for entry in entries) + sum(sizes)
    if length > MAX_FILE_BYTES:
        raise OutputError(f"{target} would exceed 2 GiB: let its tensors be external data")
    with AtomicFile(target.parent) as file:
        file.file.write(proto.SerializeToString())
        file.file.write(field_header(_MODEL_GRAPH, length))
        file.file.write(graph)
        for value, entry, (head, size) in zip(values, entries, heads, strict=True):
            file.file.write(entry + head)
            if size:
                _write_tensor(value, file, counter)
            else:
                counter.add(_tensor(value).nbytes if holds_bytes(_tensor(value)) else 0)
        file.sync()
        with exclusive(target.parent):
            file.publish(target, overwrite=overwrite)


def _tensor_head(value: ir.Value) -> tuple[bytes, int]:
    """A TensorProto's encoding up to its raw data, and the number of bytes still to come."""
    tensor = _tensor(value)
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        proto = tensor.raw
        if proto.name != value.name:
            proto = onnx.TensorProto()
            proto.CopyFrom(tensor.raw)
            proto.name = value.name or ""
        return proto.SerializeToString(), 0
    if tensor.dtype == ir.DataType.STRING:
        return ir.serde.serialize_tensor(tensor).SerializeToString(), 0
    proto = ir.serde.serialize_tensor(_reference(value, "", 0))
    del proto.external_data[:]
    proto.ClearField("data_location")
    return proto.SerializeToString() + field_header(_TENSOR_RAW_DATA, tensor.nbytes), tensor.nbytes


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: in which data file, at which offset."""

    value: ir.Value
    shard: int
    offset: int


class _ExternalWriter:
    """Writes a model file and its data files."""

    def __init__(
        self,
        model: ir.Model,
        target: Path,
        origin: Origin | None,
        *,
        force: bool,
        in_place: bool,
    ) -> None:
        self._model, self._target = model, target
        self._used = origin.data_files if origin is not None else ()
        self._force, self._in_place = force, in_place

    def write(self, values: Sequence[ir.Value], shard_size: int | None, counter: _Counter) -> None:
        places = _places(values, shard_size)
        paths = self._data_paths(1 + max((place.shard for place in places), default=-1))
        references = [
            (place.value, _reference(place.value, paths[place.shard].name, place.offset))
            for place in places
        ]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(AtomicFile(self._target.parent)) for _ in paths]
            for place in places:
                files[place.shard].file.seek(place.offset)
                _write_tensor(place.value, files[place.shard], counter)
            model_file = stack.enter_context(AtomicFile(self._target.parent))
            model_file.file.write(_serialize(self._model, references).SerializeToString())
            for file in (*files, model_file):
                file.sync()
            self._publish(list(zip(paths, files, strict=True)), model_file)

    def _data_paths(self, count: int) -> list[Path]:
        """Names of the data files; see the module's documentation for which may be reused."""
        for attempt in range(1000):
            stem = self._target.name + (f".{attempt}" if attempt else "")
            names = [f"{stem}.data"]
            if count != 1:
                names = [f"{stem}-{i:05}-of-{count:05}.data" for i in range(1, count + 1)]
            paths = [self._target.with_name(name) for name in names]
            taken = [path for path in paths if os.path.lexists(path)]
            used = any(same_file(path, other) for path in taken for other in self._used)
            if not taken or (self._force and not self._in_place and not used):
                return paths
            if not self._force and not self._in_place and not used:
                raise FileExistsError(None, "exists", str(taken[0]))
        raise OutputError(f"too many data files beside {self._target}: remove old ones")

    def _publish(self, data: Sequence[tuple[Path, AtomicFile]], model_file: AtomicFile) -> None:
        replace = self._force and not self._in_place
        published: list[Path] = []
        with exclusive(self._target.parent):
            if os.path.lexists(self._target) and not (self._force or self._in_place):
                raise FileExistsError(None, "exists", str(self._target))
            try:
                if replace:
                    self._target.unlink(missing_ok=True)
                for path, file in data:
                    file.publish(path, overwrite=replace)
                    published.append(path)
                model_file.publish(self._target, overwrite=self._force or self._in_place)
            except BaseException:
                for path in published:
                    path.unlink(missing_ok=True)
                raise
        if self._in_place:
            for old in self._used:
                # Another model may share a file of any other name.
                if old.parent == self._target.parent and old.name.startswith(self._target.name):
                    old.unlink(missing_ok=True)


def _places(values: Sequence[ir.Value], shard_size: int | None) -> list[_Place]:
    """Lay the large tensors out one after the other, in as many files as needed."""
    places: list[_Place] = []
    shard = end = 0
    for value in values:
        size = _tensor(value).nbytes
        if size < MIN_EXTERNAL_BYTES or _tensor(value).dtype == ir.DataType.STRING:
            continue
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if shard_size is not None and end and offset + size > shard_size:
            shard, offset = shard + 1, 0
        places.append(_Place(value, shard, offset))
        end = offset + size
    return places
