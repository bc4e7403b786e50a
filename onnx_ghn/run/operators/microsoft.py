"""The fused float operators that ONNX Runtime's optimiser writes into a file (com.microsoft)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.operators.convolution import build_conv
from onnx_ghn.run.operators.linear import build_gemm
from onnx_ghn.run.registry import Builder, Kernel, NodeView, direct, operator

_DOMAIN = "com.microsoft"
_microsoft = partial(operator, since=1, domain=_DOMAIN)

direct("Gelu", functional.gelu, domain=_DOMAIN)
direct("BiasGelu", lambda x, bias: functional.gelu(x + bias), domain=_DOMAIN)


@_microsoft("FastGelu")
def _fast_gelu(node: NodeView) -> Kernel:
    return lambda x, bias=None: functional.gelu(x if bias is None else x + bias, approximate="tanh")


@_microsoft("QuickGelu")
def _quick_gelu(node: NodeView) -> Kernel:
    alpha = node.attributes.get_float("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@_microsoft("FusedMatMul")
def _fused_matmul(node: NodeView) -> Kernel:
    attributes = node.attributes
    alpha = attributes.get_float("alpha", 1.0)
    batch = attributes.get_int("transBatchA", 0), attributes.get_int("transBatchB", 0)
    last = attributes.get_int("transA", 0), attributes.get_int("transB", 0)

    def arranged(x: Tensor, side: int) -> Tensor:
        if batch[side]:  # the first axis becomes the last but one
            x = x.movedim(0, -2)
        return x.transpose(-1, -2) if last[side] else x

    def matmul(a: Tensor, b: Tensor) -> Tensor:
        return alpha * (arranged(a, 0) @ arranged(b, 1))

    return matmul


def _fused(build: Builder) -> Builder:
    """A standard operator of three inputs, an optional term to add, then an activation."""

    def fused(node: NodeView) -> Kernel:
        kernel = build(node)
        activation = node.attributes.get_string("activation", "")
        parameters = list(node.attributes.get_floats("activation_params", ()))
        if activation and activation not in _ACTIVATIONS:
            raise node.unsupported(f"activation {activation!r}")
        after = _ACTIVATIONS[activation] if activation else None

        def run(*operands: Any) -> Tensor:
            y = kernel(*operands[:3])
            if len(operands) > 3:
                y = y + operands[3]
            return y if after is None else after(y, *parameters)

        return run

    return fused


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


_ACTIVATIONS: dict[str, Kernel] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "LeakyRelu": functional.leaky_relu,
    "Clip": torch.clamp,
    "HardSigmoid": _hard_sigmoid,
}
_microsoft("FusedConv")(_fused(build_conv))
_microsoft("FusedGemm")(_fused(build_gemm))


@_microsoft("SkipLayerNormalization", many=True)
def _skip_layer_norm(node: NodeView) -> Kernel:
    epsilon = node.attributes.get_float("epsilon", 1e-12)

    def norm(
        x: Tensor,
        skip: Tensor,
        scale: Tensor,
        shift: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        total = x + skip
        if bias is not None:
            total = total + bias
        y = functional.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
        return y, None, None, total

    return norm


@_microsoft("EmbedLayerNormalization", many=True)
def _embed_layer_norm(node: NodeView) -> Kernel:
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    mask_type = node.attributes.get_int("mask_index_type", 1)

    def embed(
        words: Tensor,
        segments: Tensor | None,
        word_table: Tensor,
        position_table: Tensor,
        segment_table: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        if positions is None:
            where = position_table[: words.shape[1]]
        else:
            where = functional.embedding(positions.long(), position_table)
        total = functional.embedding(words.long(), word_table) + where
        if segments is not None and segment_table is not None:
            total = total + functional.embedding(segments.long(), segment_table)
        y = functional.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
        counted = None
        if mask_type == 1:
            lengths = words.new_zeros(words.shape[0]) if mask is None else mask.sum(1)
            counted = lengths.to(torch.int32)
        return y, counted, total

    return embed


@_microsoft("Attention")
def _attention(node: NodeView) -> Kernel:
    """Self-attention with one packed projection (in, 3 x out) and a padding mask."""
    attributes = node.attributes
    heads = attributes.get_int("num_heads")
    scale = attributes.get_float("scale", 0.0) or None
    causal = bool(attributes.get_int("unidirectional", 0))
    masked = attributes.get_float("mask_filter_value", -10000.0)
    sizes = list(attributes.get_ints("qkv_hidden_sizes", ()))
    if node.output_count > 1 or node.has_input(4):
        raise node.unsupported("past and present states")

    def attention(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        past: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        packed = x @ weight if bias is None else x @ weight + bias
        parts = packed.split(sizes or weight.shape[1] // 3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        factor = scale or q.shape[-1] ** -0.5
        scores = (q @ k.transpose(-1, -2)) * factor
        if mask is not None:
            scores = scores + masked * (1 - _attended(node, mask, k.shape[2]).to(scores.dtype))
        if causal:
            ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device)
            scores = scores.masked_fill(ones.triu(1 + k.shape[2] - q.shape[2]), float("-inf"))
        if added is not None:
            scores = scores + added
        return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)

    return attention


def _attended(node: NodeView, mask: Tensor, length: int) -> Tensor:
    """The mask as 0 and 1, broadcastable to [batch, heads, queries, keys]."""
    if mask.dim() == 1:  # the number of valid keys of each sequence
        return (torch.arange(length, device=mask.device) < mask[:, None])[:, None, None]
    if mask.dim() == 2:
        return mask[:, None, None]
    if mask.dim() == 3:
        return mask[:, None]
    raise node.unsupported("a mask of rank 4")
