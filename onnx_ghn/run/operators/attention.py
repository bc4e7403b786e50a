"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, operator
from onnx_ghn.run.tensors import torch_dtype


@operator("Attention", since=23)
def _attention(node: NodeView) -> Kernel:
    attributes = node.attributes
    causal = bool(attributes.get_int("is_causal", 0))
    scale = attributes.get_float("scale", None)
    softcap = attributes.get_float("softcap", 0.0)
    query_heads = attributes.get_int("q_num_heads", 0)
    value_heads = attributes.get_int("kv_num_heads", 0)
    precision = attributes.get_int("softmax_precision", 0)
    score_stage = attributes.get_int("qk_matmul_output_mode", 0)
    if node.has_input(6):
        raise node.unsupported("nonpad_kv_seqlen")

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
    ) -> object:
        flat = q.dim() == 3
        if flat:
            q, k, v = _heads(q, query_heads), _heads(k, value_heads), _heads(v, value_heads)
        if past_key is not None and past_value is not None:
            k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
        present = (k, v)
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        bias = _bias(q, k, mask, causal)
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        scores = (q * factor) @ k.transpose(-1, -2)
        stages = [scores]
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        capped = scores
        if bias is not None:
            scores = scores + bias
        stages += [scores, capped] if node.version < 24 else [capped, scores]
        wide = scores.to(torch_dtype(precision)) if precision else scores
        weights = torch.softmax(wide, -1).to(q.dtype)
        stages.append(weights)
        y = weights @ v
        if flat:
            y = y.transpose(1, 2).flatten(2)
        return y if node.output_count == 1 else (y, *present, stages[score_stage])

    return attention


def _heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads x size] as [batch, heads, length, size]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _bias(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """What is added to the scores: minus infinity where attention may not look."""
    bias = mask
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    if causal:
        rows, columns = q.shape[-2], k.shape[-2]
        future = torch.ones(rows, columns, dtype=torch.bool, device=q.device)
        future = future.triu(1 + columns - rows)
        hidden = torch.zeros(rows, columns, dtype=q.dtype, device=q.device)
        hidden = hidden.masked_fill(future, float("-inf"))
        bias = hidden if bias is None else bias + hidden
    return bias


@operator("RotaryEmbedding", since=23)
def _rotary_embedding(node: NodeView) -> Kernel:
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    heads = node.attributes.get_int("num_heads", 0)
    rotated = node.attributes.get_int("rotary_embedding_dim", 0)

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        flat = x.dim() == 3
        if flat:
            x = _heads(x, heads)
        if positions is not None:
            cos, sin = cos[positions], sin[positions]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # [batch, 1, length, half]
        size = rotated or x.shape[-1]
        turning, rest = x[..., :size], x[..., size:]
        if interleaved:
            first, second = turning[..., 0::2], turning[..., 1::2]
        else:
            first, second = turning.chunk(2, -1)
        halves = first * cos - second * sin, first * sin + second * cos
        y = torch.stack(halves, -1).flatten(-2) if interleaved else torch.cat(halves, -1)
        y = torch.cat((y, rest), -1)
        return y.transpose(1, 2).flatten(2) if flat else y

    return rotate
