"""Tables: embeddings, position tables, relative positions, tokens; and what only looks like one.

Masks, rotary tables, coordinate grids and sinusoids take the same inputs as learned tables. What
they flow into tells them apart; where it does not, the tensor is kept.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_ghn.read.constants import Shape
from onnx_ghn.read.context import PASSING, ahead, behind, linear_before, reaches
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.finding import Finding, Use, keep
from onnx_ghn.read.norms import stored_array
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.slots import Form

_TO_SOFTMAX = PASSING | {
    "Add",
    "Mul",
    "Div",
    "Where",
    "Sub",
    "Max",
    "Min",
    "Clip",
    "Concat",
    "Slice",
}
_TO_WAVE = PASSING | {"Mul", "Add", "Concat", "Slice", "Split", "Sub", "Neg", "Div", "MatMul"}
_TO_ANGLE = PASSING | {"Mul", "Add", "Concat", "Slice"}
_WAVES = frozenset({"Sin", "Cos"})
_MASKED = -1e4
_MAPS = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "Relu"})
_MIN_CHANNELS = 8
"""Coordinates have two or three columns, queries at least this many."""


def gathered(flow: DataFlow, use: Use) -> Finding:
    """A table that is indexed by data: an embedding, unless it feeds rotations."""
    if use.index != 0:
        return keep(f"input {use.index} of {use.node.op_type}")
    shape = use.shape
    if shape is None or len(shape) < 2:
        return keep("a list of numbers indexed by data")
    if use.node.attributes.get_int("axis", 0) not in (0, -len(shape)):
        return keep("columns chosen by data")
    if rotates(flow, use.node.outputs[0]):
        return keep("a rotary table")
    return Finding(
        Role.EMBEDDING, True, "a table whose rows the data choose", Form.TABLE, decisive=True
    )


def rotates(flow: DataFlow, value: ir.Value) -> bool:
    """Whether a value is only multiplied with data, as the tables of rotary embeddings are."""
    nodes = ahead(flow, value)
    return bool(nodes) and all(
        node.op_type == "Mul" and all(map(flow.is_data, node.inputs)) for node in nodes
    )


def feeds_waves(flow: DataFlow, value: ir.Value) -> bool:
    """Whether a value goes into Sin or Cos through scalings: frequencies, positions."""
    return reaches(flow, value, lambda n: n.op_type in _WAVES, _TO_WAVE, 6)


def feeds_both_waves(flow: DataFlow, value: ir.Value) -> bool:
    """Whether a product goes into Sin and Cos alike: Fourier features, not a sine activation."""
    return reaches(flow, value, lambda n: n.op_type == "Sin", _TO_ANGLE, 4) and reaches(
        flow, value, lambda n: n.op_type == "Cos", _TO_ANGLE, 4
    )


def is_wave(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether the graph computes a value from a stored tensor by Sin or Cos."""
    return any(node.op_type in _WAVES for origin in flow.origins(value) for node in origin.path)


def feeds_softmax(flow: DataFlow, value: ir.Value) -> bool:
    """Whether a value is an attention score on its way to Softmax."""
    return reaches(flow, value, lambda n: n.op_type == "Softmax", _TO_SOFTMAX, 8)


def joined(flow: DataFlow, use: Use) -> Finding:
    """A tensor concatenated to data: a token, if it is joined along the sequence."""
    shape = use.shape
    axis = use.node.attributes.get_int("axis", 0)
    expanded = any(node.op_type == "Expand" for node in use.origin.path)
    if shape is not None and len(shape) == 1 and axis == 1 and expanded:
        # a class token, expanded to (batch, 1, channels) by a shape that is computed
        return Finding(Role.TOKEN, True, "expanded and joined to the sequence of the data")
    if shape is None or len(shape) not in (2, 3):
        return keep("joined to data of unknown or other rank than a sequence of tokens")
    if axis % len(shape) == len(shape) - 1 and not (expanded and axis == 1):
        return keep("joined to data along the channels")
    if _is_selected_by_index(use):
        return keep("a computed table joined to data")
    if use.own is not None and len(use.own) == 3 and use.own[0] != 1 and axis % len(shape) == 1:
        return keep("joined to data item by item")
    if _is_repeated(use.origin.root):
        return keep("copies of one token, one for each item")
    return Finding(Role.TOKEN, True, "joined to the sequence of the data", Form.TABLE)


def _is_repeated(root: ir.Value) -> bool:
    """Whether all rows of a stored table are equal, and not constant: an expanded token."""
    array = stored_array(root)
    if array is None or array.ndim < 2:
        return False
    rows = array.reshape(-1, array.shape[-1])
    return len(rows) > 1 and bool(np.all(rows == rows[:1])) and float(np.ptp(rows[0])) > 0.0


def _is_selected_by_index(use: Use) -> bool:
    return any(node.op_type in ("ScatterND", "Where", "Cos", "Sin") for node in use.origin.path)


def chosen(flow: DataFlow, use: Use) -> Finding:
    """A tensor that stands in for data where a condition says so: a mask token."""
    shape = use.own
    if use.index == 0 or shape is None or len(shape) != 3 or shape[:2] != (1, 1) or shape[2] < 2:
        return keep("a filling value")
    return Finding(Role.TOKEN, True, "takes the place of masked tokens", Form.TABLE)


def normalised_query(flow: DataFlow, use: Use) -> Finding:
    """Learned queries that are normalised first; the residual sum takes them as well."""
    if use.index == 0 and is_query(use):
        for step in (None, *use.origin.path):
            value = use.origin.root if step is None else step.outputs[0]
            if any(
                n.op_type == "Add" and any(map(flow.is_data, n.inputs)) for n in ahead(flow, value)
            ):
                return Finding(Role.TOKEN, True, "learned queries, normalised", Form.TABLE)
        if reaches(
            flow,
            use.node.outputs[0],
            lambda n: linear_before(flow, n.outputs[0]) is n,
            PASSING | {"Slice"},
        ):
            return Finding(Role.TOKEN, True, "a table, normalised and projected", Form.TABLE)
    return keep(f"input {use.index} of {use.node.op_type}")


def is_query(use: Use) -> bool:
    """Whether a table without data may be learned queries: (1, rows, channels), not a grid."""
    shape = use.own
    if shape is None or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
        return False
    if shape[-1] < _MIN_CHANNELS or not use.origin.root.is_initializer():
        return False
    if _fixed_table(use.origin.root):
        return False
    array = stored_array(use.origin.root)
    return array is None or float(np.ptp(array)) > 0.0  # an initial state is all zeros


def added_table(flow: DataFlow, use: Use) -> Finding:
    """A tensor of two or more real axes added to data: position table, relative bias, mask ..."""
    shape = use.shape
    assert shape is not None
    output = use.node.outputs[0]
    looked_up = _is_looked_up(use)
    if use.node.op_type != "SkipLayerNormalization":
        if is_score(flow, use) and feeds_softmax(flow, output):
            if looked_up:
                return Finding(
                    Role.RELATIVE_POSITION,
                    True,
                    "looked up and added to attention scores",
                    Form.TABLE,
                )
            return _relative(flow, use, shape)
    elif use.index > 1 or len(shape) < 2:
        return keep(f"input {use.index} of {use.node.op_type}")
    if feeds_waves(flow, output):
        return keep("enters Sin or Cos")
    if _is_per_item(flow, use, shape):
        return keep("added item by item of the batch")
    if len(shape) > 4:
        return keep(f"added to data, rank {len(shape)}: a grid or an anchor table")
    if looked_up:
        return Finding(Role.POSITION, True, "rows of a table, added to data", Form.TABLE)
    reason = _fixed_table(use.origin.root)
    if reason:
        return keep(reason)
    form = Form.TABLE
    producer = flow.producer(use.node.inputs[1 - use.index])
    if len(shape) >= 3 and _is_map(producer):
        if len(use.own or ()) == 4 and use.own is not None and use.own[:2] == (1, 1):
            return keep("one map for all channels: noise, a grid or a mask")
        form = Form.CHANNEL_TABLE
    return Finding(Role.POSITION, True, "a table added to data", form)


def _is_per_item(flow: DataFlow, use: Use, shape: Shape) -> bool:
    """Whether the first axis is that of the batch: the table has the rank of the data."""
    data = flow.shape(use.node.inputs[1 - use.index]) if len(use.node.inputs) == 2 else None
    if data is None and len(use.node.inputs) == 2:
        producer = behind(flow, use.node.inputs[1 - use.index])
        data = (0, 0) if producer is not None and producer.op_type == "Gemm" else None
    return data is not None and len(data) == len(shape) and shape[0] != 1


def _is_looked_up(use: Use) -> bool:
    """Whether constants choose rows of the table: only learned tables are indexed so."""
    return any(node.op_type in ("Gather", "GatherND", "GatherElements") for node in use.origin.path)


def _is_map(producer: ir.Node | None) -> bool:
    return producer is not None and producer.op_type in _MAPS


def is_score(flow: DataFlow, use: Use) -> bool:
    """Whether the other operand is a product of two data tensors, perhaps scaled.

    The queries may be learned, as those of a Perceiver are.
    """
    value = use.node.inputs[1 - use.index]
    for _ in range(8):
        node = behind(flow, value)
        if node is None:
            return False
        if node.op_type in ("MatMul", "Einsum", "FusedMatMul"):
            return all(map(flow.is_signal, node.inputs))
        if node.op_type not in ("Mul", "Div", "Add", "Where", "Sub", "Concat"):
            return False
        value = next((v for v in node.inputs if v is not None and flow.is_signal(v)), None)
    return False


def _relative(flow: DataFlow, use: Use, shape: Shape) -> Finding:
    """A bias of attention scores: (heads, queries, keys) is learned, (queries, keys) is a mask."""
    if len(shape) < 3 or shape[-3] == 1:
        return keep("a mask of attention scores, the same for all heads")
    if any(size != 1 for size in shape[:-3]):
        return keep("a mask of attention scores, different from window to window")
    if shape[-1] == 1 or shape[-2] == 1:
        return keep("a slope of attention scores by distance")
    if use.origin.root.producer() is not None and _is_zero(use.origin.root):
        return keep("zeros in a Constant node")
    array = stored_array(use.origin.root)
    if array is not None and bool(np.any(array <= _MASKED)):
        return keep("holds masked entries")
    if array is not None and _is_one_pattern(array):
        return keep("one pattern of distances, scaled by head")
    return Finding(Role.RELATIVE_POSITION, True, "a bias of attention scores by head", Form.TABLE)


def _is_one_pattern(array: np.ndarray) -> bool:
    """Whether all heads hold multiples of one table: linear biases, whose slopes are fixed."""
    heads = array.reshape(-1, array.shape[-2] * array.shape[-1])
    if len(heads) < 2 or np.ptp(heads[0]) == 0:
        return False
    column = int(np.argmax(np.abs(heads[0])))
    expected = np.outer(heads[:, column], heads[0]) / heads[0, column]
    return bool(np.allclose(heads, expected, rtol=1e-4, atol=1e-6))


def _is_zero(value: ir.Value) -> bool:
    array = stored_array(value)
    return array is not None and not np.any(array)


def _fixed_table(root: ir.Value) -> str:
    """Why the values of a table say that it is fixed, or ''. Never reads what is absent."""
    array = stored_array(root)
    if array is None or array.size < 2:
        return ""
    if np.any(array <= _MASKED):
        return "holds masked entries"
    if np.all(array == np.round(array)) and len(np.unique(array[:4096])) > 2:
        return "holds whole numbers: a grid"
    rows = array.reshape(-1, array.shape[-1])
    energy = np.square(rows).sum(axis=1)
    bounded = rows.shape[1] >= 4 and bool(np.all(np.abs(array) <= 1.0 + 1e-3))
    # sin^2 + cos^2 = 1 for each pair of columns, whatever their order
    if bounded and np.allclose(energy, rows.shape[1] / 2, rtol=1e-2):
        return "holds sinusoids"
    return ""


def multiplied_table(flow: DataFlow, use: Use) -> Finding:
    """A tensor of two or more real axes that scales data: kept, except right after a norm."""
    return keep("a table that scales data: rotary, anchors, a mask")
