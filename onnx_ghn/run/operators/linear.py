"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, direct, operator

direct("MatMul", torch.matmul)


@operator("Gemm", since=1)
def build_gemm(node: NodeView) -> Kernel:
    """The function of a Gemm node."""
    attributes = node.attributes
    alpha = attributes.get_float("alpha", 1.0)
    beta = attributes.get_float("beta", 1.0)
    transpose_a = attributes.get_int("transA", 0)
    transpose_b = attributes.get_int("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        left = a.t() if transpose_a else a
        right = b.t() if transpose_b else b
        if c is None:
            product = left @ right
            return product if alpha == 1.0 else alpha * product
        return torch.addmm(c, left, right, beta=beta, alpha=alpha)

    return gemm


@operator("Einsum", since=12)
def _einsum(node: NodeView) -> Kernel:
    equation = node.attributes.get_string("equation")
    return lambda *operands: torch.einsum(equation, *operands)
