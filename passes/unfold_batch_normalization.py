"""Puts a neutral BatchNormalization behind each Conv into which an exporter may have folded one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_ghn.model_copy import copy_model

EPSILON = 1e-5
"""What torch adds to a variance."""

_NONLINEAR = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip", "HardSwish", "Mish", "Gelu"}
    | {"Softplus", "Softsign", "Tanh", "Erf", "ThresholdedRelu", "Swish"}
)
_JOINING = frozenset({"Add", "Sum", "Concat", "Conv", "MaxPool", "AveragePool"})
_NORMS = frozenset(
    {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}
)
_POOLING = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


@dataclass(frozen=True)
class Unfolded:
    """One Conv and the BatchNormalization behind it, by the names of their tensors."""

    weight: str
    bias: str
    running_mean: str
    running_variance: str


class UnfoldBatchNormalization(ir.passes.FunctionalPass):
    """Give each Conv that may hold a folded BatchNormalization a neutral one again.

    Mean 0 and variance 1, scale 1 and shift 0: the copy computes what the model does, but for
    `EPSILON`. A Conv qualifies by its place: it has a bias of its own, a non-linearity, a sum or
    another convolution follows, and no norm; gates (squeeze and excitation) and heads do not.

    Attributes:
        layers: After a run, what was unfolded, in node order.
        left: After a run, by the weight's name, why a Conv that qualifies was left.

    Examples:
        >>> import onnx_ir as ir
        >>> from onnx_ghn.passes import UnfoldBatchNormalization
        >>> model = ir.from_onnx_text('''
        ... <ir_version: 10, opset_import: ["" : 21]>
        ... net (float[n, 1, 8, 8] x) => (float[n, 2, 8, 8] y)
        ... <float[2, 1, 1, 1] weight = {1, 2}, float[2] bias = {0, 0}>
        ... { c = Conv (x, weight, bias)  y = Relu (c) }
        ... ''')
        >>> unfolded = UnfoldBatchNormalization()(model).model
        >>> [node.op_type for node in unfolded.graph]
        ['Conv', 'BatchNormalization', 'Relu']
    """

    def __init__(self) -> None:
        self.layers: tuple[Unfolded, ...] = ()
        self.left: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Unfold in a copy of the model."""
        copy = copy_model(model)
        layers: list[Unfolded] = []
        self.left = {}
        for node in list(copy.graph):
            if not _qualifies(node):
                continue
            weight, bias = node.inputs[1], node.inputs[2]
            assert weight is not None and bias is not None
            if len(weight.uses()) + len(bias.uses()) > 2:
                self.left[str(weight.name)] = "it serves several nodes"
            elif weight.shape is None or bias.const_value is None:
                self.left[str(weight.name)] = "its weight has no value"
            else:
                layers.append(_unfold(copy.graph, node, weight, bias))
        if layers:
            copy.ir_version = max(copy.ir_version, 4)  # before, initializers had to be inputs
        self.layers = tuple(layers)
        return ir.passes.PassResult(copy, modified=bool(layers))


def _unfold(graph: ir.Graph, node: ir.Node, weight: ir.Value, bias: ir.Value) -> Unfolded:
    output = node.outputs[0]
    dtype = bias.dtype or ir.DataType.FLOAT
    assert bias.const_value is not None
    channels = bias.const_value.size
    names = [f"{output.name}/unfolded_{part}" for part in ("scale", "shift", "mean", "variance")]
    neutral = []
    for name, number in zip(names, (1, 0, 0, 1), strict=True):
        array = np.full((channels,), number, dtype.numpy())
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(dtype),
            const_value=ir.Tensor(array, dtype=dtype, name=name),
        )
        graph.register_initializer(value)
        neutral.append(value)
    norm = ir.node("BatchNormalization", [output, *neutral], {"epsilon": EPSILON})
    norm.outputs[0].name = norm.name = f"{output.name}/unfolded"
    norm.outputs[0].type, norm.outputs[0].shape = output.type, output.shape
    output.replace_all_uses_with(norm.outputs[0], replace_graph_outputs=True)
    norm.replace_input_with(0, output)
    graph.insert_after(node, norm)
    return Unfolded(str(weight.name), str(bias.name), names[2], names[3])


def _qualifies(node: ir.Node) -> bool:
    """Whether a BatchNormalization may have been folded into the node."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or len(node.inputs) < 3:
        return False
    tensors = node.inputs[1:3]
    if any(tensor is None or not tensor.is_initializer() for tensor in tensors):
        return False
    output = node.outputs[0]
    after = {consumer.op_type for consumer in output.consumers()}
    if output.is_graph_output() or after & _NORMS or _follows_pooling(node):
        return False
    swish = {"Sigmoid", "Mul"} <= after or {"HardSigmoid", "Mul"} <= after
    return swish or bool(after & (_NONLINEAR | _JOINING))


def _follows_pooling(node: ir.Node) -> bool:
    """Whether the node works on what was pooled globally, as gates do."""
    value = node.inputs[0]
    while value is not None:
        producer = value.producer()
        if producer is None:
            return False
        if producer.op_type in _POOLING:
            return True
        if producer.op_type != "Conv" and producer.op_type not in _NONLINEAR:
            return False
        value = producer.inputs[0]
    return False
