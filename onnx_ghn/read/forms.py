"""From the operand of a weight slot to the logical shape (out, in, *kernel) and true fan-in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnx_ghn.read.constants import Shape, permutation
from onnx_ghn.read.dataflow import DataFlow, Origin
from onnx_ghn.read.layout import Layout, Reshape, Step, Transpose
from onnx_ghn.read.slots import REARRANGING, Form


@dataclass(frozen=True)
class Logical:
    """The logical view of a stored tensor."""

    shape: Shape
    layout: Layout
    fan_in: int = 1
    groups: int = 1
    blocks: int = 1


def logical(
    flow: DataFlow, origin: Origin, stored: Shape, form: Form, node: ir.Node, index: int
) -> Logical:
    """The logical view of the root of `origin`, used in `form` at input `index` of `node`.

    Args:
        flow: The data flow.
        origin: The root and the nodes between it and the slot.
        stored: The shape of the root.
        form: How the operand lies in the slot.
        node: The node with the slot.
        index: The slot's input.
    """
    steps, shape = operand(flow, origin, stored)
    view = _FORMS.get(form)
    if view is None or math.prod(shape) == 0:
        return Logical(stored, Layout())
    found = view(shape, node, index)
    if found is None:
        return Logical(stored, Layout())
    more, fan_in, groups, blocks = found
    steps = steps + more
    after = shape
    for step in more:
        after = _apply(step, after)
    return Logical(after, inverted(steps), fan_in, groups, blocks)


def operand(flow: DataFlow, origin: Origin, stored: Shape) -> tuple[list[Step], Shape]:
    """Steps from the root to the operand of the slot, and the shape that they give.

    A node that selects, joins or computes (Slice, Concat, Mul ...) is taken as if it were not
    there: the root then is a part of the operand, laid out the same way.
    """
    steps: list[Step] = []
    shape = stored
    after: Shape | None
    value = origin.root
    for node in origin.path:
        before = flow.shape(value)
        value = node.outputs[0]
        if node.op_type == "Transpose":
            axes = permutation(node, len(shape))
            if len(axes) == len(shape):
                steps.append(Transpose(axes))
                shape = tuple(shape[axis] for axis in axes)
        elif node.op_type == "Expand":
            rank = flow.shape(node.inputs[1])
            if rank is not None and len(rank) == 1 and rank[0] > len(shape):
                after = (1,) * (rank[0] - len(shape)) + shape
                steps.append(Reshape(shape, after))
                shape = after
        elif node.op_type in REARRANGING:
            after = flow.shape(value) or _unsqueezed(flow, node, shape)
            if after is None or after == shape:
                continue
            if math.prod(after) != math.prod(shape):
                after = _same_reshape(shape, before, after)
            if after is not None:
                steps.append(Reshape(shape, after))
                shape = after
    return steps, shape


def _unsqueezed(flow: DataFlow, node: ir.Node, shape: Shape) -> Shape | None:
    """The shape after an Unsqueeze of a part whose whole has no known shape."""
    axes = flow.constants.axes(node) if node.op_type == "Unsqueeze" else None
    if axes is None:
        return None
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(shape)
    return tuple([1 if k in new else next(rest) for k in range(rank)])


def _same_reshape(shape: Shape, before: Shape | None, after: Shape) -> Shape | None:
    """The reshape of a part, where the whole only gains or loses axes of size one."""
    if before is None or [s for s in before if s != 1] != [s for s in after if s != 1]:
        return None
    sizes = iter([s for s in shape if s != 1])
    try:
        found = tuple([1 if size == 1 else next(sizes) for size in after])
    except StopIteration:
        return None
    return found if math.prod(found) == math.prod(shape) else None


def inverted(steps: list[Step]) -> Layout:
    """The layout, logical to stored, of steps that lead from stored to logical."""
    result: list[Step] = []
    for step in reversed(steps):
        inverse = Reshape(step.after, step.before) if isinstance(step, Reshape) else step.inverse()
        last = result[-1] if result else None
        if isinstance(last, Reshape) and isinstance(inverse, Reshape):
            result[-1] = Reshape(last.before, inverse.after)
        else:
            result.append(inverse)
    return Layout(tuple(s for s in result if not _is_idle(s)))


def _is_idle(step: Step) -> bool:
    if isinstance(step, Reshape):
        return step.before == step.after
    return step.permutation == tuple(range(len(step.permutation)))


def _apply(step: Step, shape: Shape) -> Shape:
    if isinstance(step, Reshape):
        return step.after
    return tuple(shape[axis] for axis in step.permutation)


_View = tuple[list[Step], int, int, int]
"""Steps from the operand to the logical shape, fan-in, groups, blocks."""


def _kernel(shape: Shape, node: ir.Node, index: int) -> _View | None:
    if len(shape) < 2:
        return None
    return [], max(1, math.prod(shape[1:])), node.attributes.get_int("group", 1), 1


def _kernel_transposed(shape: Shape, node: ir.Node, index: int) -> _View | None:
    if len(shape) < 2:
        return None
    groups = node.attributes.get_int("group", 1)
    rows, columns, kernel = shape[0], shape[1], shape[2:]
    if rows % groups:
        return None
    strides = node.attributes.get_ints("strides", ())
    fan_in = max(1, rows // groups * math.prod(kernel) // max(1, math.prod(strides)))
    rest = tuple(range(2, len(shape)))
    if groups == 1:
        return [Transpose((1, 0, *rest))], fan_in, 1, 1
    split = (groups, rows // groups, columns, *kernel)
    swapped = (groups, columns, rows // groups, *kernel)
    merged = (groups * columns, rows // groups, *kernel)
    swap = Transpose((0, 2, 1, *(axis + 1 for axis in rest)))
    return [Reshape(shape, split), swap, Reshape(swapped, merged)], fan_in, groups, 1


def _matrix(shape: Shape, node: ir.Node, index: int) -> _View | None:
    turned = bool(node.attributes.get_int("transB", 0)) and node.op_type == "FusedMatMul"
    steps, fan_in, blocks = _batched(shape, in_first=not turned)
    if node.op_type == "Attention":
        blocks = 3
    return steps, fan_in, 1, blocks


def _matrix_left(shape: Shape, node: ir.Node, index: int) -> _View | None:
    turned = bool(node.attributes.get_int("transA", 0))
    steps, fan_in, blocks = _batched(shape, in_first=turned)
    return steps, fan_in, 1, blocks


def _gemm(shape: Shape, node: ir.Node, index: int) -> _View | None:
    if index == 0:
        return _matrix_left(shape, node, index)
    steps, fan_in, blocks = _batched(shape, not node.attributes.get_int("transB", 0))
    return steps, fan_in, 1, blocks


def _batched(shape: Shape, in_first: bool) -> tuple[list[Step], int, int]:
    """(..., in, out) or (..., out, in) to (batch x out, in)."""
    steps: list[Step] = []
    if len(shape) == 0:
        return [Reshape((), (1, 1))], 1, 1
    if len(shape) == 1:
        return [Reshape(shape, (1, shape[0]))], shape[0], 1
    if in_first:
        rank = len(shape)
        steps.append(Transpose((*range(rank - 2), rank - 1, rank - 2)))
        shape = (*shape[:-2], shape[-1], shape[-2])
    if len(shape) > 2:
        steps.append(Reshape(shape, (math.prod(shape[:-1]), shape[-1])))
    return steps, max(1, shape[-1]), math.prod(shape[:-2])


def _einsum(shape: Shape, node: ir.Node, index: int) -> _View | None:
    equation = node.attributes.get_string("equation", "").replace(" ", "").replace(".", "")
    terms, _, result = equation.partition("->")
    letters = terms.split(",")
    if len(letters) != 2 or len(letters[index]) != len(shape):
        return None
    ours, theirs = letters[index], letters[1 - index]
    batch = [k for k, letter in enumerate(ours) if letter in theirs and letter in result]
    inner = [k for k, letter in enumerate(ours) if letter not in result]
    outer = [k for k in range(len(shape)) if k not in batch and k not in inner]
    order = (*batch, *outer, *inner)
    fan_in = math.prod(shape[k] for k in inner)
    blocks = math.prod(shape[k] for k in batch)
    turned = tuple(shape[k] for k in order)
    matrix = (math.prod(shape) // max(1, fan_in), fan_in)
    return [Transpose(order), Reshape(turned, matrix)], max(1, fan_in), 1, blocks


def _vector(shape: Shape, node: ir.Node, index: int) -> _View | None:
    flat = (math.prod(shape),)
    return ([] if flat == shape else [Reshape(shape, flat)]), 1, 1, 1


def _table(shape: Shape, node: ir.Node, index: int) -> _View | None:
    if len(shape) < 2:
        return [Reshape(shape, (math.prod(shape), 1))], 1, 1, 1
    flat = (math.prod(shape[:-1]), shape[-1])
    return ([] if flat == shape else [Reshape(shape, flat)]), 1, 1, 1


def _channel_table(shape: Shape, node: ir.Node, index: int) -> _View | None:
    """(..., channels, height, width) to (height x width, channels)."""
    if len(shape) < 3:
        return _table(shape, node, index)
    rank = len(shape)
    turned = (*range(rank - 3), rank - 2, rank - 1, rank - 3)
    last = tuple(shape[axis] for axis in turned)
    return [Transpose(turned), Reshape(last, (math.prod(last[:-1]), last[-1]))], 1, 1, 1


_GATES = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}


def _gates(shape: Shape, node: ir.Node, index: int) -> _View | None:
    flat = (math.prod(shape[:-1]), shape[-1])
    directions = shape[0] if len(shape) == 3 else 1
    steps: list[Step] = [] if flat == shape else [Reshape(shape, flat)]
    return steps, max(1, shape[-1]), 1, directions * _GATES.get(node.op_type, 1)


def _gate_bias(shape: Shape, node: ir.Node, index: int) -> _View | None:
    flat = (math.prod(shape),)
    directions = shape[0] if len(shape) == 2 else 1
    steps: list[Step] = [] if flat == shape else [Reshape(shape, flat)]
    return steps, 1, 1, directions * 2 * _GATES.get(node.op_type, 1)


_FORMS = {
    Form.KERNEL: _kernel,
    Form.KERNEL_TRANSPOSED: _kernel_transposed,
    Form.MATRIX: _matrix,
    Form.MATRIX_LEFT: _matrix_left,
    Form.GEMM: _gemm,
    Form.EINSUM: _einsum,
    Form.VECTOR: _vector,
    Form.TABLE: _table,
    Form.CHANNEL_TABLE: _channel_table,
    Form.GATES: _gates,
    Form.GATE_BIAS: _gate_bias,
}
