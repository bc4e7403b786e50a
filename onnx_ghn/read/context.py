"""What surrounds a use of a parameter: producers behind it, consumers after it.

Every walk is short and stops at the first node that computes something, so the whole reading
stays linear in the size of the graph.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnx_ghn.read import slots
from onnx_ghn.read.dataflow import DataFlow

PASSING = slots.REARRANGING | {"Dropout", "Flatten", "Expand", "Contiguous"}
"""Operators that hand their first input on without computing."""

RELU_LIKE = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Celu",
        "Gelu",
        "FastGelu",
        "BiasGelu",
        "QuickGelu",
        "HardSwish",
        "Swish",
        "Mish",
        "Clip",
    ]
)
"""Non-linearities that halve the second moment of a symmetric input, more or less."""

GATES = frozenset({"Sigmoid", "HardSigmoid", "Erf", "Tanh", "Softplus"})
"""Squashes which a decomposed activation multiplies with its input."""

NORMS = frozenset(
    [
        "BatchNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "MeanVarianceNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "EmbedLayerNormalization",
        "LpNormalization",
        "GroupNorm",
    ]
)

MEANS = frozenset(
    [
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
        "GlobalAveragePool",
        "LpNormalization",
    ]
)

_MAX_DEPTH = 12


def behind(flow: DataFlow, value: ir.Value | None) -> ir.Node | None:
    """The node that computes `value`, seen through what only rearranges it; None at an input."""
    for _ in range(_MAX_DEPTH):
        node = flow.producer(value)
        if node is None or node.op_type not in PASSING:
            return node
        value = node.inputs[0]
    return None


def ahead(flow: DataFlow, value: ir.Value) -> list[ir.Node]:
    """The nodes that compute with `value`, seen through what only rearranges it."""
    found: list[ir.Node] = []
    stack = [(value, 0)]
    while stack:
        current, depth = stack.pop()
        for site in flow.uses(current):
            if site.index == 0 and site.node.op_type in PASSING and depth < _MAX_DEPTH:
                stack.append((site.node.outputs[0], depth + 1))
            else:
                found.append(site.node)
    return found


def reaches(
    flow: DataFlow,
    value: ir.Value,
    wanted: Callable[[ir.Node], bool],
    through: frozenset[str],
    depth: int = _MAX_DEPTH,
) -> bool:
    """Whether `value` flows into a wanted node through operators of the set `through`."""
    seen = {value}
    stack = [(value, 0)]
    while stack:
        current, steps = stack.pop()
        for site in flow.uses(current):
            if wanted(site.node):
                return True
            if site.node.op_type in through and steps < depth:
                for output in site.node.outputs:
                    if output not in seen:
                        seen.add(output)
                        stack.append((output, steps + 1))
    return False


def comes_from(
    flow: DataFlow,
    value: ir.Value | None,
    wanted: Callable[[ir.Node], bool],
    through: frozenset[str],
    depth: int = _MAX_DEPTH,
) -> ir.Node | None:
    """The nearest wanted node from which `value` comes through operators of `through`."""
    stack = [(value, 0)]
    seen: set[ir.Node] = set()
    while stack:
        current, steps = stack.pop(0)
        node = flow.producer(current)
        if node is None or node in seen:
            continue
        seen.add(node)
        if wanted(node):
            return node
        if node.op_type in through and steps < depth:
            stack.extend((v, steps + 1) for v in node.inputs if not _is_const(flow, v))
    return None


def other_operand(node: ir.Node, index: int) -> ir.Value | None:
    """The operand of a binary node beside input `index`."""
    if len(node.inputs) != 2:
        return None
    return node.inputs[1 - index]


def linear_before(flow: DataFlow, value: ir.Value | None) -> ir.Node | None:
    """The linear or convolutional node with a weight that computes `value`, or None."""
    node = behind(flow, value)
    if node is None:
        return None
    for index in range(len(node.inputs)):
        slot = slots.find(node, index)
        if slot is not None and slot.form in slots.MATRICES and flow.is_param(node.inputs[index]):
            return node
    if node.op_type in ("MatMul", "Gemm", "Einsum") and any(map(flow.is_param, node.inputs)):
        return node
    return None


def _is_const(flow: DataFlow, value: ir.Value | None) -> bool:
    return value is None or not (flow.is_data(value) or flow.is_param(value))


# -- activations ------------------------------------------------------------------------------

_GATE_STEPS = PASSING | {"Add", "Mul", "Div", "Neg", "Sub", "Pow", "Clip", "Min", "Max"}


def is_activation(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a node ends a ReLU-like activation, whole (Relu) or decomposed (x * Sigmoid(x))."""
    if node.op_type == "FusedConv":
        return "activation" in node.attributes
    return node.op_type in RELU_LIKE or activation_source(flow, node) is not None


def activation_source(flow: DataFlow, node: ir.Node) -> ir.Value | None:
    """What goes into the decomposed activation that a node ends, or None where it ends none.

    That is x of x * squash(x); the closing `* 0.5` of GELU, or `/ 6` of a hard swish, ends the
    same activation once more.
    """
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    if node.op_type == "Mul" and all(map(flow.is_data, node.inputs)):
        return _gated(flow, node)
    if flow.kind(node.inputs[1]) == "data":
        return None
    inner = behind(flow, node.inputs[0])
    if inner is None or inner.op_type != "Mul" or not all(map(flow.is_data, inner.inputs)):
        return None
    return _gated(flow, inner)


def _gated(flow: DataFlow, product: ir.Node) -> ir.Value | None:
    """The factor of a product that the other factor is a squash of."""
    for index in (0, 1):
        factor, gate = product.inputs[index], product.inputs[1 - index]
        for signal in (factor, _unscaled(flow, factor)):
            if _gates(flow, gate, signal):
                return signal
    return None


def _unscaled(flow: DataFlow, signal: ir.Value | None) -> ir.Value | None:
    """The x of `0.5 * x`, where GELU's half comes first."""
    node = behind(flow, signal)
    if node is None or node.op_type != "Mul" or len(node.inputs) != 2:
        return signal
    data = [value for value in node.inputs if flow.is_data(value)]
    constant = [v for v in node.inputs if not flow.is_data(v) and not flow.is_param(v)]
    return data[0] if len(data) == 1 and constant else signal


def _gates(flow: DataFlow, gate: ir.Value | None, signal: ir.Value | None) -> bool:
    """Whether `gate` is a squash of `signal` itself."""
    squash = comes_from(
        flow, gate, lambda n: n.op_type in GATES or n.op_type == "Clip", _GATE_STEPS, 6
    )
    if squash is None:
        return False
    source = behind(flow, signal)
    root = signal if source is None else source.outputs[0]
    current: ir.Value | None = squash.inputs[0]
    for _ in range(_MAX_DEPTH):
        if current is root or current is signal:
            return True
        node = flow.producer(current)
        if node is None or node.op_type not in _GATE_STEPS:
            return False
        inputs = [v for v in node.inputs if v is not None and flow.is_data(v)]
        if any(v is root or v is signal for v in inputs):
            return True
        current = inputs[0] if inputs else None
    return False
