"""Fixed transforms of signals: Fourier bases and filterbanks in the slots of layers.

Audio models carry a short-time Fourier transform as a convolution of the raw input, whose output
is squared, and a mel filterbank as a matrix product, whose result goes into a logarithm. No
learned layer is used in either way.
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.read.context import PASSING, ahead, comes_from, reaches
from onnx_ghn.read.dataflow import DataFlow

_TO_LOGARITHM = PASSING | {"Add", "Max", "Clip"}
_PARTS = PASSING | {"Slice", "Split", "Gather"}


def is_transform(flow: DataFlow, node: ir.Node) -> bool:
    """Whether a linear or convolutional node computes a spectrum or a filterbank."""
    output = node.outputs[0]
    if node.op_type in ("MatMul", "FusedMatMul", "Gemm", "Einsum"):
        return reaches(flow, output, lambda n: n.op_type == "Log", _TO_LOGARITHM, 4) and (
            comes_from(flow, node.inputs[0], _squares, PASSING | {"Add", "Sqrt", "Sum"}, 6)
            is not None
        )
    return node.op_type == "Conv" and _is_squared(flow, output)


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Mul" and len(node.inputs) == 2:
        return node.inputs[0] is node.inputs[1]
    return node.op_type in ("Pow", "ReduceSumSquare", "ReduceL2")


def _is_squared(flow: DataFlow, value: ir.Value, depth: int = 3) -> bool:
    """Whether all that is done with `value` is to square it, whole or in parts."""
    nodes = ahead(flow, value)
    if not nodes or depth == 0:
        return False
    for node in nodes:
        if _squares(node):
            continue
        if node.op_type not in _PARTS or not all(
            _is_squared(flow, output, depth - 1) for output in node.outputs
        ):
            return False
    return True
