"""Quantisation against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("opset", [10, 13, 19])
def test_per_tensor(check_operator, normal, dtype, opset):
    scale, zero = np.array(0.05, np.float32), np.array(7, dtype)
    check_operator("QuantizeLinear", [normal(3, 4), scale, zero], opset)
    check_operator("QuantizeLinear", [normal(3, 4), scale], opset)
    levels = np.arange(12, dtype=dtype).reshape(3, 4)
    check_operator("DequantizeLinear", [levels, scale, zero], opset)


@pytest.mark.parametrize("axis", [0, -1])
def test_per_axis(check_operator, normal, axis):
    size = (3, 4)[axis]
    scale, zero = np.abs(normal(size)) / 20 + 0.01, np.arange(size, dtype=np.int8)
    check_operator("QuantizeLinear", [normal(3, 4), scale, zero], 13, axis=axis)
    levels = np.arange(12, dtype=np.int8).reshape(3, 4)
    check_operator("DequantizeLinear", [levels, scale, zero], 13, axis=axis)


def test_blocks(check_operator, normal):
    levels = np.arange(24, dtype=np.int8).reshape(4, 6)
    scale = np.abs(normal(2, 6)) + 0.1
    check_operator("DequantizeLinear", [levels, scale], 21, axis=0, block_size=2)


def test_bias_of_32_bits(check_operator):
    levels = np.array([2**24 + 1, -(2**24) - 3], np.int32)
    check_operator("DequantizeLinear", [levels, np.array(0.5, np.float32)], 13)


def test_dynamic(check_operator, normal):
    check_operator("DynamicQuantizeLinear", [normal(3, 4)], 11, outputs=3)


def test_matmul_integer(check_operator):
    # Small numbers: on CPUs without VNNI, ONNX Runtime saturates pairs of products at 16 bits.
    generator = np.random.default_rng(0)
    a = generator.integers(0, 127, (3, 4), dtype=np.uint8)
    b = generator.integers(-64, 63, (4, 5), dtype=np.int8)
    zeros = [np.array(3, np.uint8), np.array(-2, np.int8)]
    check_operator("MatMulInteger", [a, b], 10)
    check_operator("MatMulInteger", [a, b, *zeros], 10)
