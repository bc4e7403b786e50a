"""Residual branches: which tensors close one, and how small it starts.

The last projection of each branch of a pre-norm transformer is scaled down.

A sum of n branches of unit variance grows like sqrt(n); GPT-2 therefore scales the weights that
write into the residual stream by 1/sqrt(n), n being twice the number of blocks
(Radford et al., 2019, "Language models are unsupervised multitask learners", section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from onnx_ghn.read.context import NORMS, PASSING, ahead, behind, linear_before
from onnx_ghn.read.dataflow import DataFlow

LAYER_SCALE = 0.1
"""Of a tensor that scales a branch: the largest of the published values (1e-6 to 0.1, smaller for
deeper networks; Touvron et al., "Going deeper with image transformers", 2021), so that a branch
starts small, but carries signal."""

_LINEAR = frozenset({"MatMul", "Gemm", "FusedMatMul", "Einsum"})
_MINIMUM = 4
"""Fewer branches than this are no deep transformer."""


def depth_scales(flow: DataFlow) -> dict[ir.Node, float]:
    """The factor for the weight of each linear node that closes a residual branch."""
    closing = []
    for node in flow.nodes:
        if node.op_type == "Add" and len(node.inputs) == 2 and all(map(flow.is_data, node.inputs)):
            last = _branch_end(flow, node)
            if last is not None and not _is_post_norm(flow, node):
                closing.append(last)
    if len(closing) < _MINIMUM:
        return {}
    return dict.fromkeys(closing, 1.0 / math.sqrt(len(closing)))


def closes_branch(nodes: Iterable[ir.Node]) -> bool:
    """Whether what the nodes scale is then added to a residual stream, and not to a bias."""
    pending = list(nodes)
    while pending:
        for output in pending.pop().outputs:
            for node, index in output.uses():
                others = [value for place, value in enumerate(node.inputs) if place != index]
                if node.op_type in ("Add", "Sum") and any(map(_is_computed, others)):
                    return True
                if node.op_type in PASSING:
                    pending.append(node)
    return False


def _is_computed(value: ir.Value | None) -> bool:
    """Whether a value is data: neither a tensor of the file nor an input."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in PASSING:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node is not None and node.op_type not in ("Constant", "ConstantOfShape")


def _branch_end(flow: DataFlow, add: ir.Node) -> ir.Node | None:
    """The linear node whose output, with bias and layer scale, is added to the stream."""
    ends = [_linear_end(flow, value) for value in add.inputs]
    found = [end for end in ends if end is not None]
    return found[0] if len(found) == 1 else None


def _linear_end(flow: DataFlow, value: ir.Value | None) -> ir.Node | None:
    for _ in range(4):
        linear = linear_before(flow, value)
        if linear is not None:
            return linear if linear.op_type in _LINEAR else None
        node = behind(flow, value)
        if node is None or node.op_type not in ("Add", "Mul"):
            return None
        signals = [v for v in node.inputs if flow.is_data(v)]
        if len(signals) != 1:  # another residual sum, or a gate
            return None
        value = signals[0]
    return None


def _is_post_norm(flow: DataFlow, add: ir.Node) -> bool:
    """Whether the sum only feeds a norm: a post-norm block keeps its scale by itself."""
    after = ahead(flow, add.outputs[0])
    if len(after) == 1:
        return after[0].op_type in NORMS
    # a decomposed norm reads the sum twice: for its mean, and to subtract it
    decomposed = {"ReduceMean", "Sub", "Pow", "Mul", "Div"} | PASSING
    return bool(after) and all(node.op_type in decomposed for node in after)
