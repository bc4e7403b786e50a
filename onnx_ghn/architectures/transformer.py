"""Small vision transformers (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021)."""

from __future__ import annotations

import numpy as np

from onnx_ghn.architectures.builder import Builder, Map

MLP_RATIOS = (2, 3, 4)


def patches(b: Builder, x: Map, width: int, patch: int, class_token: bool) -> Map:
    """Cut an image into patches, embed each, and add positions: a sequence.

    Where `class_token`, it starts with a token that stands for the whole image.
    """
    y = b.conv(x, width, patch, stride=patch, bias=True, padded=False)
    tokens = y.side * y.side
    y = b.reshape(y, (0, width, -1), (width, tokens))
    y = b.transpose(y, (0, 2, 1), (tokens, width))
    return b.positions(b.class_token(y) if class_token else y)


def layer(b: Builder, x: Map, heads: int, ratio: int) -> Map:
    """One pre-norm transformer layer."""
    x = b.add(x, attention(b, b.layer_norm(x, x.channels), heads))
    y = b.linear(b.layer_norm(x, x.channels), ratio * x.channels)
    return b.add(x, b.linear(b.activation(y), x.channels))


def attention(b: Builder, x: Map, heads: int) -> Map:
    """Multi-head self-attention with one packed projection for queries, keys and values."""
    tokens, width = x.shape
    each = width // heads
    packed = b.linear(x, 3 * width)
    packed = b.reshape(packed, (0, -1, 3, heads, each), (tokens, 3, heads, each))
    packed = b.transpose(packed, (0, 2, 3, 1, 4), (3, heads, tokens, each))
    query, key, value = (b.pick(packed, index) for index in range(3))
    key = b.transpose(key, (0, 1, 3, 2), (heads, each, tokens))
    scores = b.node("MatMul", [query.value, key.value], (heads, tokens, tokens))
    scale = b.constant(np.array(each**-0.5, np.float32))
    scores = b.node("Mul", [scores.value, scale], scores.shape)
    weights = b.node("Softmax", [scores.value], scores.shape)
    mixed = b.node("MatMul", [weights.value, value.value], (heads, tokens, each))
    b.macs += 2 * heads * tokens * tokens * each
    mixed = b.transpose(mixed, (0, 2, 1, 3), (tokens, heads, each))
    return b.linear(b.reshape(mixed, (0, -1, width), x.shape), width)
