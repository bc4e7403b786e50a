"""Vectors in Add, Sub, Mul and Div: bias, scale, shift, layer scale, or a mere constant."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnx_ghn.read import positions
from onnx_ghn.read.constants import Shape
from onnx_ghn.read.context import (
    PASSING,
    ahead,
    behind,
    linear_before,
    other_operand,
    reaches,
)
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.finding import Finding, Use, keep
from onnx_ghn.read.norms import is_inverse_deviation, normalised, scaled
from onnx_ghn.read.parameter import Role

_TO_EXPONENT = PASSING | {"Mul", "CumSum", "Pad", "Slice", "Concat", "Sub", "Split"}
_TO_OUTPUT = PASSING | {"Slice", "Clip"}
_MAX_STEPS = 8
_SEARCHES = frozenset({"ArgMin", "ArgMax", "TopK"})
_FEATURE_NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
)
"""Norms over the last axis."""
_LOGARITHMIC = frozenset({"Exp", "Log", "Max", "Min", "Cos", "Sin"})


def is_vector(shape: Shape | None) -> bool:
    """Whether at most one axis is longer than one."""
    return shape is not None and sum(size != 1 for size in shape) <= 1


def added(flow: DataFlow, use: Use) -> Finding:
    """A tensor added to data (or data subtracted from it)."""
    if use.shape is None:
        return keep("added to data, shape unknown")
    data = other_operand(use.node, use.index)
    if use.node.op_type == "Sub" and use.index == 1:
        if from_input(flow, data):  # whatever else it does, as when it is added to the output
            reason = "subtracted from the input of the model: pre-processing"
            return Finding(Role.CONSTANT, False, reason, decisive=True)
        return keep("subtracted from data: a mean or a grid")
    if is_vector(use.shape):
        return _added_vector(flow, use, data)
    linear = linear_before(flow, data)
    if linear is not None and _covers(flow, linear, use):
        return Finding(Role.BIAS, True, f"added to the output of {linear.op_type}")
    if scaled(flow, data, by_table=True) or _is_mean_shift(flow, data):
        if use.own is not None and len(use.own) == 4 and use.own[:2] == (1, 1):
            return keep("one map for all channels: noise, a grid or a mask")
        return Finding(Role.NORM_SHIFT, True, "added after a norm's scale")
    if len(use.node.inputs) != 2 or use.node.op_type == "Sub":
        return keep(f"input {use.index} of {use.node.op_type}")
    return positions.added_table(flow, use)


def _added_vector(flow: DataFlow, use: Use, data: ir.Value | None) -> Finding:
    if linear_before(flow, data) is not None:
        return Finding(Role.BIAS, True, "added to the output of a layer", decisive=True)
    if scaled(flow, data) or normalised(flow, data):
        return Finding(Role.NORM_SHIFT, True, "added after a norm's scale", decisive=True)
    if _count(use.shape) == 1:
        return keep("a number added to data")
    if _is_mean_shift(flow, data):
        return Finding(Role.NORM_SHIFT, True, "shift of a decomposed norm")
    if from_input(flow, data):
        return keep("added to the input of the model: pre-processing")
    if use.node.op_type == "Sub":
        return keep("data subtracted from it")
    if positions.feeds_softmax(flow, use.node.outputs[0]) and positions.is_score(flow, use):
        return keep("added to attention scores, the same for all queries or keys")
    if _flows_into(flow, use.node, _LOGARITHMIC):
        return keep("added in logarithmic or angular space")
    if _flows_into(flow, use.node, _SEARCHES):
        return keep("added to distances before a search")
    producer = behind(flow, data)
    if _ends(flow, use.node.outputs[0]):
        return keep("added to the output of the model: post-processing")
    if producer is not None and producer.op_type == "Mul":
        if _is_frozen_norm(flow, producer):
            return keep("a frozen BatchNorm or an affine map of channels, which look the same")
        return Finding(Role.NORM_SHIFT, True, "added after a scale")
    return Finding(Role.BIAS, True, "a vector added to data")


def multiplied(flow: DataFlow, use: Use) -> Finding:
    """A tensor that multiplies data."""
    data = other_operand(use.node, use.index)
    if use.shape is None:
        return keep("multiplies data, shape unknown")
    if normalised(flow, data) or is_inverse_deviation(flow, data):
        if _count(use.shape) == 1:
            return keep("a number that scales data")
        if _spans_positions(flow, use, data):
            return keep("scales positions, not the features that a norm scales: a mask")
        return Finding(Role.NORM_SCALE, True, "multiplies after a norm", neutral=1.0, decisive=True)
    if _count(use.shape) == 1:
        return keep("a number that scales data")
    if not is_vector(use.shape):
        return positions.multiplied_table(flow, use)
    if from_input(flow, data):
        return keep("scales the input of the model: pre-processing")
    if positions.feeds_waves(flow, use.node.outputs[0]):
        return keep("frequencies: enters Sin or Cos")
    if reaches(flow, use.node.outputs[0], lambda n: n.op_type in _LOGARITHMIC, _TO_EXPONENT, 8):
        return keep("scales in logarithmic or angular space")
    producer = behind(flow, data)
    if producer is not None and producer.op_type == "Exp":
        return keep("decays: multiplies an exponential")
    if _is_batch_axis(flow, data, use.shape):
        return keep("scales the items of the batch")
    if _is_mixed(flow, use):
        return keep("one of two complementary mixing factors")
    if _is_frozen_norm(flow, use.node):
        return keep("a frozen BatchNorm or an affine map of channels, which look the same")
    if positions.is_score(flow, use) and positions.feeds_softmax(flow, use.node.outputs[0]):
        return Finding(Role.LOGIT_SCALE, True, "scales attention scores", neutral=1.0)
    if is_output(flow, use.node):
        return keep("scales the output of the model: post-processing")
    if _followed_by_vector(flow, use.node):
        return Finding(Role.NORM_SCALE, True, "a scale with a shift after it", neutral=1.0)
    return Finding(Role.LAYER_SCALE, True, "scales the channels of data", neutral=1.0)


def divided(flow: DataFlow, use: Use) -> Finding:
    """A tensor that divides data, or is divided by it."""
    if use.index == 0:
        return keep("divided by data")
    return keep("divides data: a deviation, a temperature or a scale")


def compared(flow: DataFlow, use: Use) -> Finding:
    """A tensor in Max or Min with data."""
    return keep(f"a bound: input {use.index} of {use.node.op_type}")


def quantised(flow: DataFlow, use: Use) -> Finding:
    """The scale or zero point of a quantised tensor."""
    return keep("a quantisation scale" if use.index else "quantised before use")


def _count(shape: Shape | None) -> int:
    return 0 if shape is None else math.prod(shape)


def _covers(flow: DataFlow, linear: ir.Node, use: Use) -> bool:
    """Whether the tensor is a bias by its size: as many numbers as the layer has outputs."""
    for value in linear.inputs[:2]:
        shape = flow.shape(value) if flow.is_param(value) else None
        if shape is None or not shape:
            continue
        count = _count(use.shape)
        if linear.op_type == "Einsum":
            return count <= math.prod(shape)
        outputs = shape[0] if linear.op_type.endswith("Conv") else shape[-1]
        if linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) != 0:
            outputs = shape[0]
        return count == outputs
    return False


def from_input(flow: DataFlow, value: ir.Value | None, depth: int = 8) -> bool:
    """Whether `value` is a model input, but for casts, shapes and arithmetic with constants."""
    if value is None or depth == 0:
        return False
    value = flow.resolve(value)
    node = value.producer()
    if node is None:
        return value.is_graph_input()
    if node.op_type in PASSING:
        return from_input(flow, node.inputs[0], depth - 1)
    if node.op_type in ("Sub", "Div", "Mul", "Add"):
        signals = [v for v in node.inputs if flow.is_data(v)]
        return bool(signals) and all(from_input(flow, v, depth - 1) for v in signals)
    return False


def is_output(flow: DataFlow, node: ir.Node) -> bool:
    """Whether the result of a node, perhaps shifted by a vector, is an output of the model."""
    if _ends(flow, node.outputs[0]):
        return True
    after = ahead(flow, node.outputs[0])
    if len(after) != 1 or after[0].op_type != "Add" or not _ends(flow, after[0].outputs[0]):
        return False
    return not all(map(flow.is_data, after[0].inputs))  # the sum with a residual is no shift


def _ends(flow: DataFlow, value: ir.Value) -> bool:
    """Whether a value is an output of the model, perhaps cut, limited or rearranged."""
    for _ in range(_MAX_STEPS):
        if value.is_graph_output():
            return True
        sites = flow.uses(value)
        if len(sites) != 1 or sites[0].index or sites[0].node.op_type not in _TO_OUTPUT:
            return False
        value = sites[0].node.outputs[0]
    return False


def _flows_into(flow: DataFlow, node: ir.Node, operators: frozenset[str]) -> bool:
    return any(n.op_type in operators for n in ahead(flow, node.outputs[0]))


def _is_mean_shift(flow: DataFlow, data: ir.Value | None) -> bool:
    """`shift - mean * inverse`, or its sum with the scaled input (TensorFlow's order)."""
    node = behind(flow, data)
    if node is None or node.op_type != "Mul" or len(node.inputs) != 2:
        return False
    for index in (0, 1):
        inner = behind(flow, node.inputs[index])
        operands = inner.inputs if inner is not None and inner.op_type == "Mul" else ()
        if any(is_inverse_deviation(flow, operand) for operand in operands):
            return True
        if is_inverse_deviation(flow, node.inputs[index]):
            return True
    return False


def _is_batch_axis(flow: DataFlow, data: ir.Value | None, shape: Shape) -> bool:
    """Whether the one long axis is the first axis of the data, which is the batch."""
    if len(shape) < 2:
        return False
    known = flow.shape(data)
    rank = len(known) if known is not None else (2 if len(shape) == 2 else 0)
    long = [k - len(shape) for k, size in enumerate(shape) if size != 1]
    return bool(long) and rank > 0 and long[0] == -rank


def _spans_positions(flow: DataFlow, use: Use, data: ir.Value | None) -> bool:
    """Whether the tensor is one number for all features of a position, right after a LayerNorm."""
    norm = flow.producer(data)
    last = use.shape is not None and len(use.shape) > 1 and use.shape[-1] == 1
    return last and norm is not None and norm.op_type in _FEATURE_NORMS


def _is_mixed(flow: DataFlow, use: Use) -> bool:
    """Two scales of one shape whose products are added: x * m + y * n, n perhaps 1 - m, folded.

    Where the graph itself computes 1 - m, both factors come from one tensor, which is learned.
    """
    for after in ahead(flow, use.node.outputs[0]):
        if after.op_type != "Add" or len(after.inputs) != 2:
            continue
        for value in after.inputs:
            node = behind(flow, value)
            if node is None or node is use.node or node.op_type != "Mul":
                continue
            factors = [
                v
                for v in node.inputs
                if flow.is_param(v)
                and not flow.is_signal(v)
                and all(origin.root is not use.origin.root for origin in flow.origins(v))
            ]
            if any(flow.shape(factor) == use.shape for factor in factors):
                return True
    return False


def _is_frozen_norm(flow: DataFlow, node: ir.Node) -> bool:
    """Conv, then Mul and Add by (C, 1, 1), from an exporter that would have folded a BatchNorm."""
    if (flow.model.producer_name or "") != "pytorch":
        return False
    data = next((v for v in node.inputs if flow.is_data(v)), None)
    before = flow.producer(data)
    if before is None or before.op_type != "Conv":
        return False
    return _followed_by_vector(flow, node)


def _followed_by_vector(flow: DataFlow, node: ir.Node) -> bool:
    nodes = ahead(flow, node.outputs[0])
    return (
        len(nodes) == 1 and nodes[0].op_type == "Add" and any(map(flow.is_param, nodes[0].inputs))
    )
