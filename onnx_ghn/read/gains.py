"""Gains: what makes up for the scale at which the signal arrives at a weight.

A weight of variance `gain / fan_in` gives outputs of variance 1 where `gain` is the inverse of
its input's second moment (He et al., 2015, "Delving deep into rectifiers", derive the 2 of ReLU;
the other activations are the same integral E[f(x)^2] over a normal x, done numerically). One pass
over the graph estimates the second moment of every value: a norm and a layer with a weight start
anew at 1, an activation takes its share, and so do zeros of padding and average pools; a sum of two
signals has the sum of their means and of their variances, a product of independent factors the
product. (The mean counts: a ReLU halves a signal around 0, but passes a stream of positive sums.)
So the weights behind the residual sums of a network without norms, whose BatchNorm was folded away
for instance, are smaller, and the signal keeps its scale however many branches are added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnx_ghn.read.constants import root_tensor
from onnx_ghn.read.context import (
    NORMS,
    PASSING,
    activation_source,
    behind,
    comes_from,
    linear_before,
)
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.norms import normalised
from onnx_ghn.read.residual import LAYER_SCALE, closes_branch
from onnx_ghn.read.sides import Sides

SECOND_MOMENT_GAIN = {
    "Relu": 2.0,
    "LeakyRelu": 2.0,
    "PRelu": 2.0,
    "ThresholdedRelu": 2.0,
    "Clip": 2.0,
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

_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Clip"})
"""Activations that cut off what is negative, or nearly so."""

_LARGE_MAP = 4096
"""Rows or columns of a map from which on the zeros around it hardly count."""

_BOUNDED = frozenset({"Tanh", "Sigmoid", "HardSigmoid", "Softplus", "Softsign"})
"""Activations whose output does not grow with their input, or hardly."""

_SQUASH_GAIN = {
    "Erf": 2.35,
    "Sigmoid": 2.81,
    "HardSigmoid": 3.02,
    "Clip": 3.02,
    "Softplus": 2.21,
    "Tanh": 2.35,
}
"""Squash inside a decomposed activation x * squash(x) -> gain of the whole."""

_VARIANCE_SHARE = {
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "QuickGelu"), 0.813),
    **{"Elu": 0.96, "Celu": 0.96, "Swish": 0.88, "HardSwish": 0.917, "Mish": 0.872},
}
"""Activation -> the share of its output's second moment that is variance, for a normal input."""

_SQUASH_SHARE = {
    **{"Erf": 0.813, "Tanh": 0.813, "Sigmoid": 0.88},
    **{"HardSigmoid": 0.917, "Clip": 0.917, "Softplus": 0.872},
}
"""The same by the squash inside a decomposed activation."""

_KEEPING = PASSING | {
    *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax"),
    *("Pad", "Slice", "Split", "Gather", "GatherND", "Tile", "Resize", "Upsample", "Dropout"),
    *("DepthToSpace", "SpaceToDepth", "Neg", "Abs", "Max", "Min", "Where", "GridSample"),
    *("QuantizeLinear", "Concat", "LRN", "Roll", "ScatterND", "ScatterElements"),
}
"""Operators whose output has the second moment of their signals, more or less."""

_STEPS = frozenset({"Add", "Mul", "Div", "Sub", "Pow", "Neg", "Reshape", "Transpose", "Cast"})
_ROOTS = frozenset({"Sqrt", "Rsqrt", "ReduceL2", "LpNormalization"})
_TO_ROOT = PASSING | {"Reciprocal", "Div", "Add", "Max", "Clip"}
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Einsum"})

_POOLS = frozenset({"GlobalAveragePool", "ReduceMean"})
_GATE_OF_MEANS = 0.27
"""Second moment of a gate behind them: means of maps are smaller than the maps, so that it lies
between that of a half, which is the squash of 0, and that for a signal of variance 1."""

LIMITS = (2.0**-20, 2.0**10)
"""Smallest and largest gain: an estimate beyond is a sign of an error, not of a signal."""


class Moments:
    """The second moment of every value, estimated for unit-variance inputs."""

    def __init__(self, flow: DataFlow, depth_scales: Mapping[ir.Node, float]) -> None:
        """Estimate them, in one pass over the nodes.

        Args:
            flow: The traced model.
            depth_scales: By linear node, the factor of its weight, see `residual`.
        """
        self._flow = flow
        self._depth_scales = depth_scales
        self._moments: dict[ir.Value, float] = {}
        self._means: dict[ir.Value, float] = {}
        self._squeezed: set[ir.Value] = set()
        self._sides = Sides(flow)
        for node in flow.nodes:
            self._sides.visit(node)
            if any(map(flow.is_signal, node.outputs)):
                if self._is_squeezed(node):
                    self._squeezed.update(node.outputs)
                mean, moment = self._estimate_mean(node), self._estimate(node)
                for output in node.outputs:
                    self._moments[output] = moment
                    if mean:
                        self._means[output] = mean

    def gain(self, value: ir.Value | None) -> float:
        """The gain for a weight that multiplies `value`; 1 after a layer, a norm or an input."""
        return float(np.clip(1.0 / self._of(value), *LIMITS))

    def centred_gain(self, value: ir.Value | None) -> float:
        """The gain for a weight whose elements sum to 0, as standardised kernels' do.

        The mean of `value` is lost on it: only the variance counts (Brock et al., 2021,
        "Characterizing signal propagation to close the performance gap in unnormalized ResNets").
        """
        variance = max(self._of(value) - self._mean(value) ** 2, 1e-12)
        return float(np.clip(1.0 / variance, *LIMITS))

    def _variance_share(self, node: ir.Node) -> float | None:
        """How much of the second moment of an activation is variance; None for other nodes."""
        if node.op_type in _VARIANCE_SHARE:
            return _VARIANCE_SHARE[node.op_type]
        if activation_source(self._flow, node) is None:
            return None
        squash = comes_from(
            self._flow, node.outputs[0], lambda n: n.op_type in _SQUASH_SHARE, _STEPS
        )
        return None if squash is None else _SQUASH_SHARE[squash.op_type]

    def _of(self, value: ir.Value | None) -> float:
        if value is None:
            return 1.0
        # What is almost nothing stays above it, so that the inverse exists.
        return max(self._moments.get(self._flow.resolve(value), 1.0), 1e-12)

    def _mean(self, value: ir.Value | None) -> float:
        return 0.0 if value is None else self._means.get(self._flow.resolve(value), 0.0)

    def _estimate_mean(self, node: ir.Node) -> float:
        """The mean of a node's outputs; 0 where it isn't followed."""
        signals = [v for v in node.inputs if v is not None and self._flow.is_signal(v)]
        if not signals:
            return 0.0
        if node.op_type in _RECTIFIERS:
            return self._rectified(signals[0])[0]
        share = self._variance_share(node)
        if share is not None:
            return math.sqrt((1.0 - share) * self._estimate(node))
        if node.op_type in ("Add", "Sum"):
            return sum(map(self._mean, signals))
        if node.op_type in ("Mul", "Div") and len(signals) == 1:
            number = self._constant(node, neutral=1.0) or 1.0
            return self._mean(signals[0]) * (number if node.op_type == "Mul" else 1.0 / number)
        if node.op_type == "BatchNormalization":
            return self._mean(signals[0]) if self._is_fixed(node) else 0.0
        if node.op_type in _KEEPING:
            return sum(map(self._mean, signals)) / len(signals)
        return 0.0

    def _rectified(self, value: ir.Value) -> tuple[float, float]:
        """Mean and second moment of max(x, 0) for a normal x."""
        mean, moment = self._mean(value), self._of(value)
        deviation = math.sqrt(max(moment - mean**2, 1e-12))
        z = mean / deviation
        above = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        first = mean * above + deviation * density
        return first, moment * above + mean * deviation * density

    def _estimate(self, node: ir.Node) -> float:
        """The second moment of a node's outputs."""
        flow, op = self._flow, node.op_type
        if op == "BatchNormalization" and self._is_fixed(node):
            return self._of(node.inputs[0])
        if op in NORMS:
            return 1.0
        if node.outputs and linear_before(flow, node.outputs[0]) is node:
            fused = 2.0 if op == "FusedConv" and "activation" in node.attributes else 1.0
            return self._depth_scales.get(node, 1.0) ** 2 * self._covered(node) / fused
        signals = [v for v in node.inputs if v is not None and flow.is_signal(v)]
        if not signals:
            return 1.0
        source = activation_source(flow, node)
        if source is not None:
            squash = comes_from(flow, node.outputs[0], lambda n: n.op_type in _SQUASH_GAIN, _STEPS)
            return self._of(source) / (2.0 if squash is None else _SQUASH_GAIN[squash.op_type])
        if op in _RECTIFIERS:
            return self._rectified(signals[0])[1]
        if op in ("Sigmoid", "HardSigmoid") and node.outputs[0] in self._squeezed:
            return _GATE_OF_MEANS
        if op in SECOND_MOMENT_GAIN:
            return (1.0 if op in _BOUNDED else self._of(signals[0])) / SECOND_MOMENT_GAIN[op]
        if op in ("Add", "Sub", "Sum"):
            variances = [self._of(v) - self._mean(v) ** 2 for v in signals]
            mean = sum(map(self._mean, signals)) if op != "Sub" else 0.0
            return sum(variances) + mean**2 + self._constant(node) ** 2
        if op == "Mul":
            return self._product(node, signals)
        if op == "Div":
            return self._quotient(node, signals)
        if op in _PRODUCTS:
            return self._mixed(signals)
        if op == "AveragePool":
            return self._pooled(node, signals[0])
        if op in _KEEPING:
            return sum(map(self._of, signals)) / len(signals)
        return 1.0

    def _pooled(self, node: ir.Node, signal: ir.Value) -> float:
        """The mean stays; of n equal values the variance would, too, of n independent ones 1/n.

        Neighbours in a map lie between the two.
        """
        mean, window = self._mean(signal), math.prod(node.attributes.get_ints("kernel_shape", ()))
        return mean**2 + (self._of(signal) - mean**2) / math.sqrt(max(1, window))

    def _covered(self, node: ir.Node) -> float:
        """The share of a convolution's products that meet data, not the zeros of its padding.

        Known only where the sizes of the maps are; it counts where they are small.
        """
        pads = node.attributes.get_ints("pads")
        if node.op_type not in ("Conv", "FusedConv") or not pads:
            return 1.0
        taps = (self._flow.shape(node.inputs[1]) or ())[2:]
        sizes = (self._flow.shape(node.inputs[0]) or ())[2:]
        if not sizes and len(taps) == 2:
            sizes = (self._sides.of(node.inputs[0]),) * 2
        if not 2 * len(taps) == 2 * len(sizes) == len(pads) or 0 in sizes:
            return 1.0
        ones = [1] * len(taps)
        strides = node.attributes.get_ints("strides") or ones
        dilations = node.attributes.get_ints("dilations") or ones
        if not len(strides) == len(dilations) == len(sizes) or min(*strides, *taps) < 1:
            return 1.0  # a damaged node
        covered = 1.0
        for axis, size in enumerate(sizes):
            largest = max(size, pads[axis], pads[axis + len(sizes)], taps[axis] * dilations[axis])
            if largest > _LARGE_MAP:
                continue
            products = dilations[axis] * np.arange(taps[axis])
            end = size + pads[axis + len(sizes)] - products[-1]
            met = np.arange(-pads[axis], end, strides[axis])[:, None] + products
            covered *= float(np.mean((met >= 0) & (met < size))) if met.size else 1.0
        return covered

    def _is_squeezed(self, node: ir.Node) -> bool:
        """Whether a node computes with nothing but means of maps, as in a squeeze-excitation."""
        if node.op_type in _POOLS:
            return True
        signals = [v for v in node.inputs if v is not None and self._flow.is_signal(v)]
        squeezed = all(self._flow.resolve(value) in self._squeezed for value in signals)
        return bool(signals) and squeezed and node.op_type not in NORMS

    @staticmethod
    def _is_fixed(node: ir.Node) -> bool:
        """Whether a BatchNormalization uses running statistics, which need not fit the new weights.

        Whether the file has values for them is no evidence: a model and its skeleton get the same
        weights. Statistics of a fresh network (mean 0, variance 1) let the signal through as it
        is. Where they are estimated anew the layer normalises, and weights behind it are at worst
        smaller than they had to be.
        """
        return not node.attributes.get_int("training_mode", 0)

    def _product(self, node: ir.Node, signals: list[ir.Value]) -> float:
        """A gate, a scale by a constant, or a division by a standard deviation."""
        if len(signals) > 1 and any(map(self._is_deviation, signals)):
            return 1.0
        product = 1.0
        for signal in signals:
            product *= self._of(signal)
        if len(signals) == 1 and self._scales_branch(node, signals[0]):
            product *= LAYER_SCALE**2
        return product * self._constant(node, neutral=1.0) ** 2

    def _scales_branch(self, node: ir.Node, signal: ir.Value) -> bool:
        """Whether a learned layer scale, which starts small, closes a residual branch here."""
        learned = any(map(self._flow.is_param, node.inputs))
        return learned and closes_branch([node]) and not normalised(self._flow, signal)

    def _quotient(self, node: ir.Node, signals: list[ir.Value]) -> float:
        if signals[0] is not node.inputs[0] or len(signals) > 1:
            return 1.0
        divisor = self._constant(node, neutral=1.0)
        return self._of(signals[0]) / (divisor**2 or 1.0)

    def _mixed(self, signals: list[ir.Value]) -> float:
        """A product of two signals: weights that sum to one keep the scale of the values."""
        for index, signal in enumerate(signals):
            before = behind(self._flow, signal)
            if before is not None and before.op_type == "Softmax" and len(signals) == 2:
                return self._of(signals[1 - index])
        return 1.0

    def _is_deviation(self, value: ir.Value) -> bool:
        """Whether a value is the inverse of a norm or of a standard deviation."""
        node = behind(self._flow, value)
        if node is None or node.op_type not in ("Reciprocal", "Div", "Rsqrt", "Pow"):
            return False
        if node.op_type == "Pow":
            return self._constant(node) < 0
        return comes_from(self._flow, value, lambda n: n.op_type in _ROOTS, _TO_ROOT, 4) is not None

    def _constant(self, node: ir.Node, neutral: float = 0.0) -> float:
        """The number that a node combines its signal with; the neutral one where it isn't known."""
        for value in node.inputs:
            if value is None or self._flow.is_signal(value):
                continue
            tensor = root_tensor(self._flow.resolve(value))
            if tensor is None or tensor.size != 1 or not tensor.dtype.is_floating_point():
                continue
            if not self._flow.is_param(value):
                number = float(tensor.numpy().reshape(()))
                return number if np.isfinite(number) else neutral
        return neutral
