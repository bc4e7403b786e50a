"""Static shapes and small integer constants, evaluated where the rules need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_ghn.model_io.tensors import holds_bytes

Shape = tuple[int, ...]

MAX_ELEMENTS = 4096
"""Integer tensors above this size are never a shape, an axis list or a permutation."""

MAX_DEPTH = 100
"""Integers that are computed in more steps, one from the other, are not followed."""


def root_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The stored tensor of an initializer or of a Constant node's output, else None."""
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant":
        return None
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.value  # as_tensor() would check a protocol, at great length
        if name == "value_float":
            return ir.Tensor(np.asarray(attribute.as_float(), np.float32))
        if name == "value_floats":
            return ir.Tensor(np.asarray(attribute.as_floats(), np.float32))
        if name == "value_int":
            return ir.Tensor(np.asarray(attribute.as_int(), np.int64))
        if name == "value_ints":
            return ir.Tensor(np.asarray(attribute.as_ints(), np.int64))
    return None


def has_value(value: ir.Value) -> bool:
    """Whether the file holds bytes for a stored tensor; for an Identity, for what it copies."""
    node = value.producer()
    if node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        return has_value(node.inputs[0])
    return holds_bytes(root_tensor(value))


class Unknown(ValueError):
    """Integers are not constants of the model."""


class Constants:
    """Shapes and integer values of values, remembered.

    Args:
        resolve: Maps the formal input of a body to the value that is passed in.
    """

    def __init__(self, resolve: Callable[[ir.Value], ir.Value]):
        self._resolve = resolve
        self._shapes: dict[ir.Value, Shape | None] = {}
        self._integers: dict[ir.Value, np.ndarray | None] = {}
        self._depth = 0

    def shape(self, value: ir.Value) -> Shape | None:
        """The static shape: declared, stored, or computed from the node that makes the value."""
        value = self._resolve(value)
        if value not in self._shapes:
            self._shapes[value] = None  # a cycle can't loop
            self._shapes[value] = self._find_shape(value)
        return self._shapes[value]

    def shape_after(self, node: ir.Node) -> Shape | None:
        """The shape of a node's first output, computed whatever is declared; None if unknown."""
        rule = _SHAPE_RULES.get(node.op_type)
        try:
            return None if rule is None else rule(self, node)
        except Unknown:
            return None

    def integers(self, value: ir.Value | None) -> np.ndarray | None:
        """The value of a small integer tensor that depends on nothing, else None."""
        if value is None:
            return None
        value = self._resolve(value)
        if value not in self._integers:
            self._integers[value] = None
            self._depth += 1
            if self._depth <= MAX_DEPTH:
                self._integers[value] = self._find_integers(value)
            self._depth -= 1
        return self._integers[value]

    def given(self, node: ir.Node, index: int, name: str) -> tuple[int, ...] | None:
        """Integers that old opsets hold as an attribute and new ones as input `index`.

        Returns:
            None where there are none.

        Raises:
            Unknown: They are computed from what isn't known.
        """
        attribute = node.attributes.get(name)
        if attribute is not None:
            if attribute.type == ir.AttributeType.INT:
                return (attribute.as_int(),)
            return tuple(attribute.as_ints())
        if len(node.inputs) <= index or node.inputs[index] is None:
            return None
        found = self.integers(node.inputs[index])
        if found is None:
            raise Unknown(f"input {index} of {node.name} is not constant")
        return tuple(int(number) for number in found.reshape(-1))

    def axes(self, node: ir.Node) -> tuple[int, ...] | None:
        """The axes of a node; None where it has none, or they aren't known."""
        try:
            return self.given(node, 1, "axes")
        except Unknown:
            return None

    def slices(self, node: ir.Node) -> list[tuple[int, slice]]:
        """What a Slice takes of which axes.

        Raises:
            Unknown: It isn't constant.
        """
        names = ("starts", "ends", "axes", "steps")
        starts, ends, axes, steps = (self.given(node, k + 1, name) for k, name in enumerate(names))
        if starts is None or ends is None:
            raise Unknown(f"{node.name} has no bounds")
        return [
            (axis, slice(start, end, step))
            for start, end, axis, step in zip(
                starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=False
            )
        ]

    def _find_shape(self, value: ir.Value) -> Shape | None:
        declared = _static(value.shape)
        if declared is not None:
            return declared
        tensor = root_tensor(value)
        if tensor is not None:
            return _static(tensor.shape)
        node = value.producer()
        if node is None or not node.inputs:
            return _static_attribute(node)
        return self.shape_after(node)

    def _find_integers(self, value: ir.Value) -> np.ndarray | None:
        tensor = root_tensor(value)
        if tensor is not None:
            whole = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
            if not whole or tensor.size > MAX_ELEMENTS or isinstance(tensor, ir.ExternalTensor):
                return None
            return tensor.numpy()
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Shape" and node.inputs[0] is not None:
            shape = self.shape(node.inputs[0])
            if shape is None:
                return None
            start = node.attributes.get_int("start", 0)
            end = node.attributes.get_int("end", len(shape))
            return np.asarray(shape[start:end], np.int64)
        rule = _INTEGER_RULES.get(node.op_type)
        if rule is None:
            return None
        inputs = [self.integers(v) for v in node.inputs]
        if any(array is None for array in inputs[: 1 if node.op_type == "Cast" else None]):
            return None
        try:
            result = rule(node, *inputs)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None  # an ill-formed constant expression is simply not known
        return None if result is None else np.asarray(result)


def _static(shape: Any) -> Shape | None:
    if shape is None:
        return None
    sizes = tuple(shape)
    return sizes if all(isinstance(size, int) for size in sizes) else None


def _static_attribute(node: ir.Node | None) -> Shape | None:
    if node is None or "shape" not in node.attributes:
        return None
    return tuple(node.attributes["shape"].as_ints())


# -- shapes of what passes through ------------------------------------------------------------


def _same_shape(known: Constants, node: ir.Node) -> Shape | None:
    return None if node.inputs[0] is None else known.shape(node.inputs[0])


def _transpose_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    if shape is None:
        return None
    order = permutation(node, len(shape))
    if sorted(order) != list(range(len(shape))):
        return None  # an invalid permutation, which only a damaged file has
    return tuple(shape[axis] for axis in order)


def _reshape_shape(known: Constants, node: ir.Node) -> Shape | None:
    attribute = node.attributes.get("shape")
    target = (
        np.asarray(attribute.as_ints())
        if attribute is not None
        else known.integers(node.inputs[1] if len(node.inputs) > 1 else None)
    )
    if target is None:
        return None
    sizes = [int(size) for size in target]
    before = _same_shape(known, node)
    if before is None:
        return tuple(sizes) if all(size > 0 for size in sizes) else None
    if not node.attributes.get_int("allowzero", 0):
        sizes = [before[k] if s == 0 and k < len(before) else s for k, s in enumerate(sizes)]
    if -1 in sizes:
        rest = int(np.prod([s for s in sizes if s != -1], dtype=np.int64))
        total = int(np.prod(before, dtype=np.int64))
        sizes[sizes.index(-1)] = total // rest if rest else 0
    return tuple(sizes)


def _flatten_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))


def _squeeze_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    if shape is None:
        return None
    axes = known.axes(node)
    if axes is None:
        if len(node.inputs) > 1:
            return None
        return tuple(size for size in shape if size != 1)
    gone = {axis % len(shape) for axis in axes} if shape else set()
    return tuple(size for k, size in enumerate(shape) if k not in gone)


def _unsqueeze_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    axes = known.axes(node)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    if len(new) != len(axes):
        return None
    rest = iter(shape)
    return tuple([1 if k in new else next(rest) for k in range(rank)])


def _expand_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape, target = _same_shape(known, node), known.integers(node.inputs[1])
    if shape is None or target is None:
        return None
    return broadcast(shape, tuple(int(size) for size in target))


def _broadcast_shape(known: Constants, node: ir.Node) -> Shape | None:
    result: Shape | None = ()
    for value in node.inputs:
        shape = None if value is None else known.shape(value)
        if shape is None or result is None:
            return None
        result = broadcast(result, shape)
    return result


def _slice_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    if shape is None:
        return None
    sizes = list(shape)
    for axis, part in known.slices(node):
        sizes[axis] = len(range(shape[axis])[part])
    return tuple(sizes)


def _split_shape(known: Constants, node: ir.Node) -> Shape | None:
    """The shape of the first output; the others are the same but for an uneven split."""
    shape = _same_shape(known, node)
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    given = known.given(node, 1, "split")
    if given is not None and len(set(given)) > 1:
        return None
    size = given[0] if given is not None else -(-shape[axis] // len(node.outputs))
    return (*shape[:axis], size, *shape[axis + 1 :])


def _concat_shape(known: Constants, node: ir.Node) -> Shape | None:
    shapes = [None if value is None else known.shape(value) for value in node.inputs]
    first = shapes[0]
    if first is None or not first or any(s is None or len(s) != len(first) for s in shapes):
        return None
    axis = node.attributes.get_int("axis", 0) % len(first)
    total = sum(shape[axis] for shape in shapes if shape is not None)
    return (*first[:axis], total, *first[axis + 1 :])


def _filled_shape(known: Constants, node: ir.Node) -> Shape | None:
    sizes = known.integers(node.inputs[0])
    return None if sizes is None else tuple(int(size) for size in sizes.reshape(-1))


def _gather_shape(known: Constants, node: ir.Node) -> Shape | None:
    shape = _same_shape(known, node)
    index = None if node.inputs[1] is None else known.shape(node.inputs[1])
    if shape is None or index is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    return (*shape[:axis], *index, *shape[axis + 1 :])


def broadcast(left: Shape, right: Shape) -> Shape | None:
    """The common shape of two operands, or None where they don't fit."""
    try:
        return tuple(int(size) for size in np.broadcast_shapes(left, right))
    except ValueError:
        return None


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The permutation of a Transpose node; reversed axes where it names none."""
    attribute = node.attributes.get("perm")
    if attribute is None:
        return tuple(reversed(range(rank)))
    return tuple(attribute.as_ints())


_SAME_SHAPE = (
    *("Identity", "Cast", "CastLike", "Dropout", "DequantizeLinear", "QuantizeLinear", "Neg"),
    *("Relu", "Sigmoid", "Tanh", "Exp", "Sqrt", "Abs", "Softmax", "LayerNormalization"),
)
_SHAPE_RULES: dict[str, Callable[[Constants, ir.Node], Shape | None]] = {
    **dict.fromkeys(_SAME_SHAPE, _same_shape),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Where"), _broadcast_shape),
    "Transpose": _transpose_shape,
    "Reshape": _reshape_shape,
    "Flatten": _flatten_shape,
    "Squeeze": _squeeze_shape,
    "Unsqueeze": _unsqueeze_shape,
    "Expand": _expand_shape,
    "ConstantOfShape": _filled_shape,
    "Gather": _gather_shape,
    "Slice": _slice_shape,
    "Split": _split_shape,
    "Concat": _concat_shape,
}


# -- integer arithmetic of shapes -------------------------------------------------------------


def _slice(
    node: ir.Node, data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None
) -> Any:
    index = [slice(None)] * data.ndim
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(index)]


def _squeeze(node: ir.Node, data: Any, axes: Any = None) -> Any:
    attribute = node.attributes.get("axes")
    axes = attribute.as_ints() if attribute is not None else axes
    return np.squeeze(data, None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(node: ir.Node, data: Any, axes: Any = None) -> Any:
    attribute = node.attributes.get("axes")
    axes = attribute.as_ints() if attribute is not None else axes
    return np.expand_dims(data, tuple(int(a) for a in axes))


_INTEGER_RULES: dict[str, Callable[..., Any]] = {
    "Identity": lambda node, x: x,
    "Cast": lambda node, x: x,
    "Concat": lambda node, *xs: np.concatenate(xs, node.attributes.get_int("axis", 0)),
    "Gather": lambda node, x, i: np.take(x, i, node.attributes.get_int("axis", 0)),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": lambda node, x, s: x.reshape(s),
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": lambda node, a, b: a // b,
    "Mod": lambda node, a, b: (np.fmod if node.attributes.get_int("fmod", 0) else np.mod)(a, b),
    "Neg": lambda node, a: -a,
    "Range": lambda node, a, b, c: np.arange(a, b, c),
    "Where": lambda node, c, a, b: np.where(c, a, b),
    "Equal": lambda node, a, b: a == b,
}
