"""Fused operators of ONNX Runtime against ONNX Runtime itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest


@pytest.fixture
def check(check_operator):
    return partial(check_operator, opset=17, domain="com.microsoft", atol=1e-5)


@pytest.mark.parametrize(("name", "bias"), [("BiasGelu", True), ("FastGelu", True)])
def test_gelu(check, normal, name, bias):
    check(name, [normal(3, 4), normal(4)])
    if name == "FastGelu":
        check(name, [normal(3, 4)])
    check("Gelu", [normal(3, 4)])
    check("QuickGelu", [normal(3, 4)], alpha=1.5)


@pytest.mark.parametrize(
    ("a", "b", "attributes"),
    [
        ((2, 3, 4), (2, 4, 5), {"alpha": 0.5}),
        ((2, 4, 3), (2, 5, 4), {"transA": 1, "transB": 1}),
        ((3, 2, 4), (2, 4, 5), {"transBatchA": 1}),
        ((2, 3, 4), (5, 2, 4), {"transB": 1, "transBatchB": 1}),
    ],
)
def test_fused_matmul(check, normal, a, b, attributes):
    check("FusedMatMul", [normal(*a), normal(*b)], **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"activation": "Relu"},
        {"activation": "LeakyRelu", "activation_params": [0.3]},
        {"activation": "Clip", "activation_params": [-0.5, 0.5]},
    ],
)
def test_fused_conv(check, normal, attributes):
    inputs = [normal(1, 3, 5, 5), normal(4, 3, 3, 3), normal(4)]
    check("FusedConv", inputs, **attributes)
    if not attributes.get("activation_params"):
        check("FusedConv", [*inputs, normal(1, 4, 3, 3)], **attributes)


def test_fused_gemm(check, normal):
    inputs = [normal(3, 4), normal(5, 4), normal(5)]
    check("FusedGemm", inputs, transB=1, activation="Relu")


def test_skip_layer_norm(check, normal):
    inputs = [normal(2, 3, 4), normal(2, 3, 4), normal(4), normal(4), normal(4)]
    check("SkipLayerNormalization", inputs, epsilon=1e-5)


def test_embed_layer_norm(check, normal):
    words = np.array([[1, 2, 0], [3, 3, 1]], np.int32)
    segments = np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    tables = [normal(5, 4), normal(3, 4), normal(2, 4)]
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    inputs = [words, segments, *tables, normal(4), normal(4), mask]
    check("EmbedLayerNormalization", inputs, outputs=2, epsilon=1e-5)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "lengths", "keys"])
def test_attention(check, normal, causal, mask):
    masks = {
        None: [],
        "lengths": [np.array([2, 5], np.int32)],
        "keys": [np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], np.int32)],
    }
    inputs = [normal(2, 5, 8), 0.3 * normal(8, 24), normal(24), *masks[mask]]
    check("Attention", inputs, num_heads=2, unidirectional=causal)
