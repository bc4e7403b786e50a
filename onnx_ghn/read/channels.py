"""Which place each channel of a layer has in the stream of channels that layers write and read.

Channel k of one layer meets what reads channel k, until a Concat, a Split or a shuffle moves it.
A hypernetwork that predicts a layer's channels by number alone makes the same ones for every
branch of a concatenation, and its readers meet them at other numbers. So each channel gets a
*place*: a layer writes its channels at the places which they take in the Concat that they flow
into (the last one, where one concatenation goes into the next), counted from zero where there is
none; whatever moves channels later takes their places along.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.read.constants import Constants, Shape, permutation
from onnx_ghn.read.context import GATES, NORMS, RELU_LIKE
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.parameter import Parameter, Role

Places = tuple[int, ...]
"""The place of each channel of an axis."""
Map = npt.NDArray[np.int64]
"""For each element of a value the number of a channel, or its place; one element along each axis
along which that doesn't change."""

MAX_ELEMENTS = 1 << 16
"""More channels than this, or a larger block that a Reshape turns, aren't followed."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
_PASSING = (
    NORMS
    | RELU_LIKE
    | GATES
    | {
        *("Identity", "Cast", "Dropout", "Softmax", "LRN", "Pad", "Resize", "Upsample", "Selu"),
        *("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
    }
)
"""Operators that leave each channel of their first input in its place."""
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow"})
_MATRICES = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class _Sizes(Constants):
    """Sizes and integers of a model in which each axis that holds no channels is one long.

    What an exporter computes from the sizes of a value, a Reshape of a batch of any size as a
    rule, is computed here as if images had one pixel and sequences one token.
    """

    def __init__(self, flow: DataFlow, maps: Mapping[ir.Value, Map]) -> None:
        super().__init__(flow.resolve)
        self._declared = flow.shape
        self._maps = maps

    def _find_shape(self, value: ir.Value) -> Shape | None:
        return self._maps[value].shape if value in self._maps else self._declared(value)


class Channels:
    """The places of the channels of a traced model's layers."""

    def __init__(self, flow: DataFlow) -> None:
        """Number the channels that layers write and follow them; then place them."""
        self._flow = flow
        self._maps: dict[ir.Value, Map] = {}
        self._sizes = _Sizes(flow, self._maps)
        places: list[int] = []
        self._wanted: dict[ir.Value, Map] = {}
        nodes = [node for node in flow.nodes if any(map(flow.is_signal, node.outputs))]
        for node in nodes:
            try:
                found = self._moved(node, places)
            except (ValueError, IndexError):
                continue  # not constant, or axes and sizes that only a damaged file has
            if found is not None and 0 < found.size <= MAX_ELEMENTS:
                self._maps[node.outputs[0]] = found
        self._place = np.array(places, np.int64)
        if any(node.op_type == "Concat" for node in nodes):
            for node in reversed(nodes):
                try:
                    self._hand_back(node)
                except (ValueError, IndexError):
                    continue

    def of(self, parameter: Parameter) -> tuple[Places | None, Places | None]:
        """Places of the rows and of the columns of a weight; of a vector, of its elements.

        None where they count from zero, or nothing is known of them.
        """
        node, shape = parameter.sites[0].node, parameter.logical_shape
        is_matrix = parameter.role in _MATRICES and len(shape) > 1
        rows = columns = None
        if is_matrix or len(shape) == 1:
            rows = self._line(node.outputs[0], shape[0])
        if is_matrix and parameter.groups == 1:
            columns = self._line(node.inputs[0], shape[1])
        return rows, columns

    def _line(self, value: ir.Value | None, size: int) -> Places | None:
        """Places along the one axis that holds channels, if it has that size."""
        found = self._map(value)
        if found is None or found.size != max(found.shape):
            return None
        line = self._place[found.ravel()]
        if len(line) != size:
            if size % len(line) or not self._is_flattened(value):
                return None
            line = line.repeat(size // len(line))
        return None if np.array_equal(line, np.arange(size)) else tuple(line.tolist())

    def _is_flattened(self, value: ir.Value | None) -> bool:
        """Whether a value's channels were followed by pixels, of which the number isn't known."""
        node = self._flow.producer(value)
        while node is not None and node.op_type in _PASSING:
            node = self._flow.producer(node.inputs[0])
        if node is None or node.op_type not in _RESHAPING:
            return False
        before = self._map(node.inputs[0])
        return before is not None and _axes_behind(before) > 0

    def _map(self, value: ir.Value | None) -> Map | None:
        return None if value is None else self._maps.get(self._flow.resolve(value))

    # -- forward: where channels come from ------------------------------------------------

    def _moved(self, node: ir.Node, places: list[int]) -> Map | None:
        """Channels of a node's first output; new ones are added to `places`."""
        op, first = node.op_type, self._map(node.inputs[0] if node.inputs else None)
        if op in _CONVOLUTIONS or op in _PRODUCTS:
            return self._written(node, first, places)
        if op in _ELEMENTWISE:
            maps = [found for found in map(self._map, node.inputs) if found is not None]
            return max(maps, key=lambda found: (found.ndim, found.size), default=None)
        if op == "Concat":
            return self._joined(node)
        if first is None:
            return None
        if op in _PASSING:
            return first
        if op == "Transpose":
            return first.transpose(permutation(node, first.ndim))
        if op in _RESHAPING:
            return self._reshaped(node, first)
        if op == "ReduceMean":
            axes = self._sizes.axes(node) or tuple(range(first.ndim))
            return first if node.attributes.get_int("keepdims", 1) else first.squeeze(axes)
        if op == "Slice":
            return self._sliced(node, first)
        if op == "Split":
            return self._split(node, first)
        if op == "Gather":
            return self._gathered(node, first)
        return None

    def _written(self, node: ir.Node, first: Map | None, places: list[int]) -> Map | None:
        """New channels that a layer writes; those that it reads, where it is depthwise."""
        weight = self._flow.shape(node.inputs[1]) if len(node.inputs) > 1 else None
        if weight is None or len(weight) < 2 or self._flow.is_signal(node.inputs[1]):
            return None
        if node.op_type in _CONVOLUTIONS:
            groups = node.attributes.get_int("group", 1)
            rank, axis = len(weight), 1
            size = weight[1] * groups if node.op_type == "ConvTranspose" else weight[0]
            if groups > 1 and weight[1] == 1 and size == groups:
                return first
        else:
            size = weight[-2] if node.attributes.get_int("transB", 0) else weight[-1]
            rank = first.ndim if first is not None else self._rank(node)
            axis = rank - 1
        if not 0 <= axis < rank or size > MAX_ELEMENTS:
            return None
        places += range(size)
        return _counted(size, rank, axis) + (len(places) - size)

    def _rank(self, node: ir.Node) -> int:
        """Axes of what a product multiplies and gives, as declared; 0 where they aren't."""
        shapes = [value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None]
        return max((shape.rank() for shape in shapes if shape is not None), default=0)

    def _joined(self, node: ir.Node) -> Map | None:
        found = self._parts(node)
        if found is None:
            return None
        _, maps, axis = found
        if all(channels.shape[axis] == 1 for channels in maps):
            return maps[0]  # along tokens or pixels
        return np.concatenate(maps, axis) if len(maps) == len(node.inputs) else None

    def _parts(self, node: ir.Node) -> tuple[list[ir.Value], list[Map], int] | None:
        """What a Concat puts together, with the channels of each, and along which axis."""
        values = [v for v in node.inputs if v is not None and self._flow.is_signal(v)]
        maps = [channels for channels in map(self._map, values) if channels is not None]
        if not maps or len(maps) < len(values):
            return None
        return values, maps, _axis(node, maps[0].ndim)

    def _reshaped(self, node: ir.Node, channels: Map) -> Map | None:
        found = self._by_shape(channels, node.inputs[0], node.outputs[0])
        sizes = self._sizes.shape_after(node)
        if found is not None or sizes is None:
            return found
        # Sizes that were written down for images of one size: the last axes are pixels.
        for pixels in (0, _axes_behind(channels)):
            size = [-1 if size == 0 else size for size in sizes[: len(sizes) - pixels]]
            try:
                return _compact(channels.reshape((*size, *(1,) * pixels)))
            except ValueError:
                continue
        return None

    def _by_shape(
        self, channels: Map, before: ir.Value | None, after: ir.Value | None
    ) -> Map | None:
        """What a Reshape from one value to the other makes of a map, by the values' shapes."""
        old, new = self._shape(before), self._shape(after)
        if old is None or new is None or len(old) != channels.ndim:
            return None
        if any(size not in (1, whole) for size, whole in zip(channels.shape, old, strict=True)):
            return None
        # Axes in front of and behind what is reshaped stay.
        front = _staying(channels.shape, old, new)
        back = _staying(channels.shape[front:][::-1], old[front:][::-1], new[front:][::-1])
        inner, changed = old[front : len(old) - back], new[front : len(new) - back]
        if math.prod(inner) != math.prod(changed) or math.prod(inner) > MAX_ELEMENTS:
            return None
        block = np.broadcast_to(channels.reshape(channels.shape[front : len(old) - back]), inner)
        return _compact(block.reshape((*(1,) * front, *changed, *(1,) * back)))

    def _shape(self, value: ir.Value | None) -> Shape | None:
        """A value's shape, with one for each size that isn't known; None if the rank isn't."""
        if value is not None and value.shape is not None and not value.shape.is_static():
            return tuple(size if isinstance(size, int) else 1 for size in value.shape)
        return self._flow.shape(value)

    def _sliced(self, node: ir.Node, channels: Map) -> Map:
        for axis, part in self._sizes.slices(node):
            if channels.shape[axis] > 1:
                channels = channels.take(np.arange(channels.shape[axis])[part], axis)
        return channels

    def _split(self, node: ir.Node, channels: Map) -> Map:
        """Channels of the first output; those of the others are set here."""
        axis, count = _axis(node, channels.ndim), len(node.outputs)
        sizes = self._sizes.given(node, 1, "split")
        if channels.shape[axis] == 1:
            parts = [channels] * count
        else:
            each = -(-channels.shape[axis] // count)
            parts = np.split(channels, np.cumsum(sizes or [each] * count)[:-1], axis)
        for output, part in zip(node.outputs[1:], parts[1:], strict=True):
            if part.size:
                self._maps[output] = part
        return parts[0]

    def _gathered(self, node: ir.Node, channels: Map) -> Map | None:
        index = self._sizes.integers(node.inputs[1])
        axis = _axis(node, channels.ndim)
        if index is None or index.size * channels.size > MAX_ELEMENTS * channels.shape[axis]:
            return None
        if channels.shape[axis] == 1:
            index = np.zeros_like(index)
        return _compact(channels.take(index, axis))

    # -- backward: where channels are to be put together ----------------------------------

    def _hand_back(self, node: ir.Node) -> None:
        """Hand the places that a node's output is to have to its inputs, or set them."""
        op, wanted = node.op_type, self._wanted.get(node.outputs[0])
        if op == "Concat":
            self._take_apart(node, wanted)
        elif wanted is None:
            return
        elif op in _CONVOLUTIONS or op in _PRODUCTS:
            written = self._map(node.outputs[0])
            if written is None:
                return
            if written is self._map(node.inputs[0]):  # depthwise
                self._want(node.inputs[:1], wanted)
            elif written.shape == wanted.shape:
                self._place[written] = wanted
        elif op in _PASSING:
            self._want(node.inputs[:1], wanted)
        elif op in _ELEMENTWISE:
            self._want(node.inputs, wanted)
        elif op == "Transpose":
            order = np.argsort(permutation(node, wanted.ndim))
            self._want(node.inputs[:1], wanted.transpose(order))
        elif op in _RESHAPING:
            before, after = self._map(node.inputs[0]), self._map(node.outputs[0])
            if before is not None and after is not None and wanted.shape == after.shape:
                self._want(node.inputs[:1], wanted.reshape(before.shape))
            else:
                asked = self._by_shape(wanted, node.outputs[0], node.inputs[0])
                self._want(node.inputs[:1], asked)

    def _take_apart(self, node: ir.Node, wanted: Map | None) -> None:
        """Hand each input of a Concat its own part of the places."""
        found = self._parts(node)
        if found is None:
            return
        values, maps, axis = found
        sizes = [channels.shape[axis] for channels in maps]
        if all(size == 1 for size in sizes):
            self._want(values, wanted)
        elif len(values) == len(node.inputs):
            if wanted is None or wanted.shape[axis] != sum(sizes):
                wanted = _counted(sum(sizes), maps[0].ndim, axis)
            for value, part in zip(
                values, np.split(wanted, np.cumsum(sizes)[:-1], axis), strict=True
            ):
                self._want([value], part)

    def _want(self, values: Iterable[ir.Value | None], wanted: Map | None) -> None:
        """Ask for places; who asked first, hence reads last, is served."""
        for value in values:
            if value is not None and wanted is not None and self._flow.is_signal(value):
                self._wanted.setdefault(self._flow.resolve(value), wanted)


def _axis(node: ir.Node, rank: int) -> int:
    axis = node.attributes.get_int("axis", 0)
    return axis + rank if axis < 0 else axis


def _staying(held: Shape, old: Shape, new: Shape) -> int:
    """First axes that a Reshape leaves as they are, and that hold no channels."""
    pairs = zip(held, old, new, strict=False)
    return len([*itertools.takewhile(lambda sizes: sizes[0] == 1 and sizes[1] == sizes[2], pairs)])


def _axes_behind(channels: Map) -> int:
    """Axes behind those that hold channels."""
    return int(np.argmax(np.array(channels.shape[::-1]) > 1))


def _counted(size: int, rank: int, axis: int) -> Map:
    """Numbers from zero along an axis."""
    shape = [1] * rank
    shape[axis] = size
    return np.arange(size).reshape(shape)


def _compact(channels: Map) -> Map:
    """One element along each axis along which a map doesn't change."""
    for axis, size in enumerate(channels.shape):
        if size > 1:
            first = channels.take([0], axis)
            if (channels == first).all():
                channels = first
    return channels
