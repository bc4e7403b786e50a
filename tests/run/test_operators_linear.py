"""Matrix products and attention against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("bias", [(5,), (3, 1), (3, 5)])
def test_gemm(check_operator, normal, opset, transposed, bias):
    a = normal(4, 3) if transposed[0] else normal(3, 4)
    b = normal(5, 4) if transposed[1] else normal(4, 5)
    settings = {"transA": transposed[0], "transB": transposed[1], "alpha": 0.5, "beta": 2.0}
    check_operator("Gemm", [a, b, normal(*bias)], opset, atol=1e-5, **settings)
    if opset >= 11:
        check_operator("Gemm", [a, b], opset, atol=1e-5, **settings)


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 3))]
)
@pytest.mark.parametrize("opset", [7, 9, 13])
def test_matmul(check_operator, normal, a, b, opset):
    check_operator("MatMul", [normal(*a), normal(*b)], opset, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij, bjk -> bik", [(2, 3, 4), (2, 4, 5)]),
        ("...i,oi->...o", [(2, 3, 4), (5, 4)]),
        ("ii->i", [(3, 3)]),
    ],
)
def test_einsum(check_operator, normal, equation, shapes):
    inputs = [normal(*shape) for shape in shapes]
    check_operator("Einsum", inputs, 12, equation=equation, atol=1e-5)


def _qkv(normal, rank: int, value_heads: int = 4):
    if rank == 4:
        return [normal(2, 4, 5, 8), normal(2, value_heads, 6, 8), normal(2, value_heads, 6, 8)]
    return [normal(2, 5, 32), normal(2, 6, 8 * value_heads), normal(2, 6, 8 * value_heads)]


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("value_heads", [4, 2])
@pytest.mark.parametrize(
    "attributes", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"is_causal": 1}], ids=str
)
def test_attention(check_operator, normal, rank, value_heads, attributes):
    inputs = _qkv(normal, rank, value_heads)
    if "is_causal" in attributes:  # of equal lengths: runtimes differ on where the diagonal is
        inputs[0] = normal(*inputs[0].shape[:-2], 6, inputs[0].shape[-1])
    heads = {"q_num_heads": 4, "kv_num_heads": value_heads} if rank == 3 else {}
    check_operator("Attention", inputs, 23, atol=1e-5, **heads, **attributes)


@pytest.mark.parametrize("boolean", [False, True])
def test_attention_mask(check_operator, normal, boolean):
    mask = normal(2, 1, 5, 6)
    mask = mask > -0.5 if boolean else mask
    if boolean:
        mask[..., 0] = True
    check_operator("Attention", [*_qkv(normal, 4), mask], 23, atol=1e-5)


def test_attention_with_a_past(check_operator, normal):
    past = [normal(2, 4, 3, 8), normal(2, 4, 3, 8)]
    inputs = [*_qkv(normal, 4), None, *past]
    check_operator("Attention", inputs, 23, outputs=3, atol=1e-5)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(check_operator, normal, interleaved, positions):
    x = normal(2, 4, 5, 8)
    if positions:
        tables, extra = (9, 4), [np.array([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]])]
    else:
        tables, extra = (2, 5, 4), []
    inputs = [x, normal(*tables), normal(*tables), *extra]
    check_operator("RotaryEmbedding", inputs, 23, interleaved=interleaved)
    flat = [x.transpose(0, 2, 1, 3).reshape(2, 5, 32), *inputs[1:]]
    check_operator("RotaryEmbedding", flat, 23, interleaved=interleaved, num_heads=4)
