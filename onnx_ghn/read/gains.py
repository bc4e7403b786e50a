"""Gains: what offsets the variance that a non-linearity takes before a weight.

The gain of f is 1 / E[f(x)^2] for x of mean 0 and variance 1 (He et al., 2015, "Delving deep into
rectifiers", derive the 2 of ReLU; the others here are the same integral done numerically).
A product of two independent factors (a gated unit, squeeze-and-excitation) has both gains.
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.read.context import NORMS, behind, comes_from, is_activation
from onnx_ghn.read.dataflow import DataFlow

SECOND_MOMENT_GAIN = {
    "Relu": 2.0,
    "LeakyRelu": 2.0,
    "PRelu": 2.0,
    "ThresholdedRelu": 2.0,
    "Clip": 2.0,
    "FusedConv": 2.0,
    "Elu": 1.55,
    "Celu": 1.55,
    "Selu": 1.0,
    "Gelu": 2.35,
    "FastGelu": 2.35,
    "BiasGelu": 2.35,
    "QuickGelu": 2.35,
    "Swish": 2.81,
    "HardSwish": 3.02,
    "Mish": 2.21,
    "Tanh": 2.54,
    "Sigmoid": 3.41,
    "HardSigmoid": 3.46,
    "Softplus": 1.09,
    "Softsign": 5.46,
}
"""Operator -> gain, at the default parameters of the operator."""

_SQUASH_GAIN = {
    "Erf": 2.35,
    "Sigmoid": 2.81,
    "HardSigmoid": 3.02,
    "Clip": 3.02,
    "Softplus": 2.21,
    "Tanh": 2.35,
}
"""Squash inside a decomposed activation x * squash(x) -> gain of the whole."""

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedGemm", "Einsum"})
_SELECTING = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "Pad", "Slice", "Split"})
_STEPS = frozenset({"Add", "Mul", "Div", "Sub", "Pow", "Neg", "Reshape", "Transpose", "Cast"})
_MAX_DEPTH = 8


def gain_before(flow: DataFlow, value: ir.Value | None, depth: int = _MAX_DEPTH) -> float:
    """The gain for a weight that multiplies `value`; 1 after a layer, a norm or an input."""
    node = behind(flow, value)
    if node is None or depth == 0 or node.op_type in NORMS or node.op_type in _LAYERS:
        return 1.0
    if node.op_type in ("Mul", "Div") and is_activation(flow, node):
        squash = comes_from(flow, value, lambda n: n.op_type in _SQUASH_GAIN, _STEPS)
        return 2.0 if squash is None else _SQUASH_GAIN[squash.op_type]
    if node.op_type == "FusedConv" and not is_activation(flow, node):
        return 1.0
    if node.op_type in SECOND_MOMENT_GAIN:
        return SECOND_MOMENT_GAIN[node.op_type]
    signals = [v for v in node.inputs if flow.is_data(v)]
    if node.op_type == "Mul":  # a gate, or a scale by a constant
        gain = 1.0
        for signal in signals:
            gain *= gain_before(flow, signal, depth - 1)
        return gain
    if signals and (node.op_type in _SELECTING or node.op_type == "Concat"):
        return gain_before(flow, signals[0], depth - 1)
    return 1.0
