"""Floating-point operations of a model, from the shapes of its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from onnx_ghn.errors import OnnxGhnError
from onnx_ghn.model_copy import copy_model
from onnx_ghn.read.constants import Constants

Shape = tuple[int, ...]
Rule = Callable[[ir.Node], int]
"""Multiply-adds of a node whose values have shapes."""


class UnknownCostError(OnnxGhnError):
    """The cost of a node can't be told."""


def count_flops(model: ir.Model, example: Shape) -> int | None:
    """Floating-point operations for one example.

    Two for each multiply-add of convolutions, matrix products, attention and recurrent layers,
    bodies of loops once; what is elementwise does not count, as is the custom.

    Args:
        model: The model; weights need no values.
        example: Shape of what its only input is fed, with the batch axis.

    Returns:
        The number, or None where a shape stays unknown or an operator of another domain may hide
        products.
    """
    copy = copy_model(model)
    common.InlinePass()(copy)
    graph = copy.graph
    for value in graph.inputs:
        if value.name not in graph.initializers:
            value.shape = ir.Shape(example)
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None  # what the file says may be of another batch size
        if node.op_type == "GroupNormalization" and node.domain in ONNX:
            _replace_by_identity(node)
    while True:
        try:
            copy = _infer(copy)
            return 2 * sum(_cost(node) for node in copy.graph.all_nodes()) // max(1, example[0])
        except UnknownCostError:
            if not _fold_integers(copy):
                return None


def _replace_by_identity(node: ir.Node) -> None:
    """Put what onnx infers in the place of a node that keeps its shape and costs nothing.

    onnx has no rule for it, only a body, whose shapes it can't follow in every release.
    """
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)


def _infer(model: ir.Model) -> ir.Model:
    """The model with shapes. Weights without a value, which can't be serialised, become inputs."""
    graph = model.graph
    for value in [v for v in graph.initializers.values() if v.const_value is None]:
        del graph.initializers[value.name or ""]
        if not value.is_graph_input():
            graph.inputs.append(value)
    try:
        return common.ShapeInferencePass(check_type=False, data_prop=True)(model).model
    except Exception as error:  # onnx's inference raises what it likes
        raise UnknownCostError(str(error)) from error


def _fold_integers(model: ir.Model) -> bool:
    """Make initializers of axes and shapes that are computed: onnx knows only stored ones.

    Returns:
        Whether there were any, so that more shapes can be inferred.
    """
    graph = model.graph
    known = Constants(lambda value: value)
    folded = False
    for node in list(graph):
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        (output,) = node.outputs
        integers = known.integers(output)
        if integers is None or output.dtype is None or not output.dtype.is_integer():
            continue
        tensor = ir.Tensor(integers.astype(output.dtype.numpy()), name=output.name)
        held = ir.Value(
            name=output.name,
            shape=ir.Shape(tensor.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        output.replace_all_uses_with(held)
        graph.remove(node, safe=True)
        graph.register_initializer(held)
        folded = True
    return folded


def _cost(node: ir.Node) -> int:
    if node.domain not in (*ONNX, MICROSOFT):
        raise UnknownCostError(node.domain)
    if node.domain == MICROSOFT and node.op_type in HIDDEN:
        raise UnknownCostError(node.op_type)
    rule = RULES.get(node.op_type)
    return 0 if rule is None else rule(node)


def _shape(value: ir.Value | None) -> Shape:
    if value is None or value.shape is None:
        raise UnknownCostError("a value has no shape")
    sizes = tuple(size for size in value.shape if isinstance(size, int))
    if len(sizes) < len(value.shape):
        raise UnknownCostError(f"{value.name!r} has a dynamic shape")
    return sizes


def _convolution(weight: int) -> Rule:
    """A convolution whose kernel is the input `weight`: each output sums one row of it."""
    return lambda node: (
        math.prod(_shape(node.outputs[0])) * math.prod(_shape(node.inputs[weight])[1:])
    )


def _conv_transpose(node: ir.Node) -> int:
    return math.prod(_shape(node.inputs[0])) * math.prod(_shape(node.inputs[1])[1:])


def _product(node: ir.Node) -> int:
    """A matrix product: each output sums over the columns of the first input."""
    transposed = node.attributes.get_int("transA", 0)
    inner = _shape(node.inputs[0])[-2 if transposed else -1]
    return math.prod(_shape(node.outputs[0])) * inner


def _einsum(node: ir.Node) -> int:
    equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation:
        raise UnknownCostError(equation)
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        sizes.update(zip(term, _shape(value), strict=True))
    return math.prod(sizes.values()) if len(terms) > 1 else 0


def _recurrent(node: ir.Node) -> int:
    rows = math.prod(_shape(node.inputs[0])[:2])  # steps and batch, in either layout
    return rows * sum(math.prod(_shape(node.inputs[index])) for index in (1, 2))


def _attention(node: ir.Node) -> int:
    """Queries times keys, then weights times values."""
    keys = _shape(node.inputs[1])[-2]
    return keys * (math.prod(_shape(node.inputs[0])) + math.prod(_shape(node.outputs[0])))


RULES: Mapping[str, Rule] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "DeformConv": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _product,
    "MatMul": _product,
    "FusedMatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
}

ONNX = ("", "ai.onnx")

MICROSOFT = "com.microsoft"

HIDDEN = frozenset(
    {"Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "QAttention"}
    | {"PackedMultiHeadAttention", "DecoderMaskedMultiHeadAttention", "LongformerAttention"}
    | {"SparseAttention", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm"}
    | {"NhwcConv", "NhwcFusedConv", "DynamicQuantizeLSTM", "MoE", "QMoE"}
)
"""Operators of ONNX Runtime's own domain that multiply matrices and have no rule here."""
