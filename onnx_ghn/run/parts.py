"""Runs a large model in parts: no more than a part of its weights is in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.convenience import extract

from onnx_ghn.read.bodies import bodies

PART_BYTES = 1 << 25
"""Bytes of tensors that a part holds at most, where it can be cut so often."""

MOST_CROSSING = 4
"""Values that may go from one part to the next: residual blocks pass on one, attention a few."""


@dataclass(frozen=True)
class Part:
    """Nodes of a model that run together.

    Attributes:
        inputs: Names of the values that it takes from the user or from earlier parts.
        outputs: Names of the values that later parts or the user take from it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class PartedSession:
    """Stands for an `onnxruntime.InferenceSession`: opens one part after the other.

    A part is written to a temporary file when it is first needed, and read from there each time
    that it runs; the files go with the object.
    """

    def __init__(self, model: ir.Model, load: Callable[[str], Any]) -> None:
        """Open the first part.

        Args:
            model: The model; it must not change.
            load: Makes an ONNX Runtime session of the file at a path.
        """
        self._model, self._load = model, load
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-ghn-", ignore_cleanup_errors=True)
        self._parts = split(model)
        self._saved: dict[int, str] = {}
        self._at = 0
        self._session = self._open(0, {})

    def get_inputs(self) -> Any:
        """The model's inputs: the first part takes all of them."""
        return self._session.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        """The model's outputs, by name."""
        return self._model.graph.outputs

    def get_providers(self) -> Any:
        """Execution providers, the one that is used first."""
        return self._session.get_providers()

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of these names."""
        if len(self._parts) == 1:
            return list(self._session.run(names, feeds))
        values = dict(feeds)
        for at, wanted, kept in self._steps(names):
            if at != self._at:
                self._session = None  # its weights go before the next ones come
                self._session, self._at = self._open(at, values), at
            taken = {name: values[name] for name in self._parts[at].inputs}
            found = self._session.run(wanted, taken)
            del taken
            values.update(zip(wanted, found, strict=True))
            for name in values.keys() - kept:
                del values[name]
        return [values[name] for name in names]

    def _steps(self, names: Sequence[str]) -> list[tuple[int, list[str], frozenset[str]]]:
        """The parts that have to run for these outputs: which, for what, and what is then kept."""
        steps = []
        needed = frozenset(names)
        for at, part in reversed([*enumerate(self._parts)]):
            wanted = [name for name in part.outputs if name in needed]
            if wanted:
                steps.append((at, wanted, needed))
                needed |= {*part.inputs}
        return steps[::-1]

    def _open(self, at: int, values: Mapping[str, Any]) -> Any:
        if at not in self._saved:
            model = self._model
            if len(self._parts) > 1:
                part = self._parts[at]
                graph = extract(model.graph, part.inputs, part.outputs)
                for name, value in zip(part.inputs, graph.inputs, strict=True):
                    if value.type is None:  # what crosses need not be declared in the file
                        dtype = ir.DataType.from_numpy(values[name].dtype)
                        value.type = ir.TensorType(dtype)
                model = ir.Model(graph, ir_version=model.ir_version)
            path = Path(self._folder.name) / f"{at}.onnx"
            ir.save(model, path, external_data=f"{at}.data")
            self._saved[at] = str(path)
        return self._load(self._saved[at])


def split(model: ir.Model) -> list[Part]:
    """Cut a model before its tensors get too many, where few values cross.

    What depends on no input of the model crosses nowhere: each part computes it anew.

    Args:
        model: A model whose nodes are sorted.

    Returns:
        The parts in order; a single one where the model can't be cut.
    """
    graph = model.graph
    whole = [Part(_names(graph.inputs), _names(graph.outputs))]
    made = _made(graph)
    if model.functions or not _can_be_cut(graph, made):
        return whole
    uses: dict[ir.Value, list[int]] = {}
    for index, node in enumerate(graph):
        for value in node.inputs:
            if value is not None and value in made:
                uses.setdefault(value, []).append(index)
    if any(value not in uses for value in graph.inputs):
        return whole
    parts = []
    results = set(graph.outputs)
    start = 0
    for end in _ends(graph, made, uses):
        taken = [v for v, at in made.items() if at < start and _within(uses.get(v), start, end)]
        given = [
            value
            for value, at in made.items()
            if start <= at <= end and (value in results or uses.get(value, [-1])[-1] > end)
        ]
        parts.append(Part(_names(taken), _names(given)))
        start = end + 1
    return parts


def _can_be_cut(graph: ir.Graph, made: Mapping[ir.Value, int]) -> bool:
    """Whether each value between two nodes is an array, and all come from the inputs."""
    for node in graph:
        no_arrays = node.op_type.startswith(("Sequence", "SplitToSequence", "Optional"))
        if no_arrays or [*bodies(node)]:
            return False
    initializers = set(graph.initializers.values())
    # ONNX Runtime gives no arrays of bfloat16.
    if any(value.dtype is ir.DataType.BFLOAT16 for value in initializers):
        return False
    return initializers.isdisjoint(graph.inputs) and all(
        made.get(value, -1) >= 0 for value in graph.outputs
    )


def _made(graph: ir.Graph) -> dict[ir.Value, int]:
    """The values that depend on an input, with the index of the node that makes each."""
    made: dict[ir.Value, int] = dict.fromkeys(graph.inputs, -1)
    for index, node in enumerate(graph):
        if any(value in made for value in node.inputs if value is not None):
            made |= dict.fromkeys(node.outputs, index)
    return made


def _ends(
    graph: ir.Graph, made: Mapping[ir.Value, int], uses: Mapping[ir.Value, Sequence[int]]
) -> list[int]:
    """Index of the last node of each part; the first part takes all of the model's inputs."""
    least = max((uses[value][0] for value in graph.inputs), default=0)
    sizes = _sizes(graph)
    ends: list[int] = []
    crossing: set[ir.Value] = set()
    size = 0
    for index, node in enumerate(graph):
        size += sizes[index]
        crossing |= {value for value in node.outputs if value in made}
        crossing = {value for value in crossing if uses.get(value, [-1])[-1] > index}
        if index + 1 == len(sizes):
            ends.append(index)
        elif (
            index >= least
            and size
            and size + sizes[index + 1] > PART_BYTES
            and len(crossing) <= MOST_CROSSING
        ):
            ends.append(index)
            size = 0
    return ends


def _sizes(graph: ir.Graph) -> list[int]:
    """Bytes of the tensors that each node is the first to take."""
    sizes = []
    counted: set[ir.Value] = set()
    for node in graph:
        new = {value for value in node.inputs if value is not None} - counted
        counted |= new
        sizes.append(sum(v.const_value.nbytes for v in new if v.const_value is not None))
    return sizes


def _within(indices: Sequence[int] | None, start: int, end: int) -> bool:
    return any(start <= index <= end for index in indices or ())


def _names(values: Iterable[ir.Value]) -> tuple[str, ...]:
    return tuple(value.name or "" for value in values)
