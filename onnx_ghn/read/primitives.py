"""Which ONNX nodes without weights are primitives of the vocabulary: gates, attention, pools."""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.read.context import PASSING, ahead, comes_from, is_activation, reaches
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.graph import Op

PRODUCTS = frozenset({"MatMul", "Einsum", "FusedMatMul"})
FUSED_ATTENTION = frozenset(
    {"Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention"}
)
POOLS = {"MaxPool": Op.MAX_POOL, "AveragePool": Op.AVG_POOL, "LpPool": Op.AVG_POOL}

_SQUASHES = frozenset({"Sigmoid", "HardSigmoid"})
# a MatMul with a weight mixes heads ("talking heads")
_TO_PRODUCT = PASSING | {"Mul", "Div", "Where", "Add", "Slice", "Split", "MatMul"}
_TO_SOFTMAX = PASSING | {"Mul", "Div", "Where", "Add", "Sub", "Clip", "Tanh", "Concat"}
_GATE_PATH = PASSING | {"Clip", "Div", "Mul", "Add", "Slice", "Split"}


def is_attention(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a Softmax weighs the values of an attention: its output enters a product of data."""
    if node.op_type != "Softmax" or not flow.is_signal(node.inputs[0]):
        return False
    return reaches(flow, node.outputs[0], lambda n: _is_product(flow, n), _TO_PRODUCT)


def is_masked_score(flow: DataFlow, node: ir.Node) -> bool:
    """Whether an Add puts a mask or a bias on attention scores, on their way to the Softmax."""
    return node.op_type == "Add" and reaches(
        flow, node.outputs[0], lambda n: is_attention(flow, n), _TO_SOFTMAX, 6
    )


def is_gate(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a Mul scales channels by a gate that is not an activation of its other operand."""
    if node.op_type != "Mul" or len(node.inputs) != 2 or not all(map(flow.is_signal, node.inputs)):
        return False
    if is_activation(flow, node):
        return False
    return any(_is_squashed(flow, value) for value in node.inputs)


def pooling(flow: DataFlow, node: ir.Node, side: int) -> tuple[Op, tuple[int, int]] | None:
    """The pooling primitive of a node and its window, (0, 0) for a global one.

    Args:
        flow: The traced model.
        node: Any node.
        side: Side of the map that enters it in pixels, 0 where it is unknown.

    Returns:
        None if the node is no pool.
    """
    op = node.op_type
    if op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        return None if _is_moment(flow, node) else (Op.GLOB_AVG, (0, 0))
    if op == "ReduceMean":
        return (Op.GLOB_AVG, (0, 0)) if _is_spatial_mean(flow, node) else None
    if op not in POOLS:
        return None
    kernel = [int(side) for side in node.attributes.get_ints("kernel_shape", [])]
    if op == "AveragePool" and _covers_the_input(flow, node, kernel, side):
        return Op.GLOB_AVG, (0, 0)
    height, width = (*kernel, 1, 1)[:2] if len(kernel) < 2 else kernel[-2:]
    return POOLS[op], (height, width)


def _is_product(flow: DataFlow, node: ir.Node) -> bool:
    data = [value for value in node.inputs if flow.is_signal(value)]
    return node.op_type in PRODUCTS and len(data) >= 2


def _is_squashed(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether a value comes straight from a sigmoid, whole or as relu6(x + 3) / 6."""
    node = comes_from(flow, value, lambda n: n.op_type in _SQUASHES, PASSING, 4)
    if node is not None:
        return True
    scaled = flow.producer(value)
    if scaled is None or scaled.op_type not in ("Div", "Mul") or _data_count(flow, scaled) != 1:
        return False
    clip = comes_from(flow, value, lambda n: n.op_type in ("Clip", "Min"), _GATE_PATH, 2)
    if clip is None:
        return False
    shift = flow.producer(clip.inputs[0])
    return shift is not None and shift.op_type == "Add" and _data_count(flow, shift) == 1


def _data_count(flow: DataFlow, node: ir.Node) -> int:
    return sum(map(flow.is_signal, node.inputs))


def _is_spatial_mean(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a mean goes over places or tokens, and is no part of a decomposed norm."""
    source = node.inputs[0]
    axes = flow.constants.axes(node)
    shape = flow.shape(source)
    rank = (
        len(shape) if shape is not None else (source.shape.rank() if source and source.shape else 0)
    )
    if not axes:
        return False
    if rank:
        places = tuple(sorted(axis % rank for axis in axes))
        if places not in {(2, 3), (1, 2), (1,), (2,), (2, 3, 4), (1, 2, 3)}:
            return False
    else:
        places = tuple(sorted(axes))
        if places not in {(2, 3), (-2, -1)}:
            return False
    if places == (rank - 1,):
        # the last axis is the channels of a LayerNorm, unless a convolution made it
        before = flow.producer(source)
        if before is None or before.op_type not in ("Conv", "Relu", "BatchNormalization"):
            return False
    return not _is_moment(flow, node)


def _is_moment(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a mean is part of a decomposed norm: of squares, or taken off what it is made of."""
    source = node.inputs[0]
    return _squares(flow, source) or any(
        consumer.op_type == "Sub" and source in consumer.inputs
        for consumer in ahead(flow, node.outputs[0])
    )


def _squares(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether a value is a square: the second moment of a norm is no pooling."""
    node = flow.producer(value)
    if node is None:
        return False
    return node.op_type == "Pow" or (node.op_type == "Mul" and len(set(node.inputs)) == 1)


def _covers_the_input(flow: DataFlow, node: ir.Node, kernel: list[int], side: int) -> bool:
    """Whether an average pool leaves one place, or, as an adaptive pool may, changes nothing."""
    if all(length == 1 for length in kernel):
        return True
    if side:
        return min(kernel) >= side  # larger than the map where that is padded
    # the side is unknown: a pool before the classifier's Reshape or Flatten is the last one
    return all(n.op_type in ("Gemm", "MatMul") for n in ahead(flow, node.outputs[0]))
