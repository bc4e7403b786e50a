"""Conv, ConvTranspose and pooling against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

CONV = [
    pytest.param((2, 4, 9), (6, 4, 3), {}, id="1d"),
    pytest.param((2, 4, 9, 8), (6, 4, 3, 3), {}, id="2d"),
    pytest.param((1, 2, 5, 6, 4), (3, 2, 3, 2, 2), {"strides": [2, 1, 1]}, id="3d"),
    pytest.param((2, 4, 9, 8), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}, id="grouped"),
    pytest.param((2, 4, 9, 8), (4, 1, 3, 3), {"group": 4, "strides": [2, 2]}, id="depthwise"),
    pytest.param((2, 4, 9, 8), (6, 4, 3, 2), {"pads": [0, 1, 2, 3]}, id="asymmetric"),
    pytest.param((1, 4, 11, 9), (6, 4, 3, 3), {"dilations": [2, 3]}, id="dilated"),
    pytest.param(
        (1, 4, 10, 9), (6, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, id="same_upper"
    ),
    pytest.param(
        (1, 4, 10, 9), (6, 4, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}, id="same_lower"
    ),
    pytest.param((1, 4, 10, 9), (6, 4, 4, 3), {"auto_pad": "VALID"}, id="valid"),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONV)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_conv(check_operator, normal, x, w, attributes, bias, opset):
    inputs = [normal(*x), normal(*w), *([normal(w[0])] if bias else [])]
    check_operator("Conv", inputs, opset, atol=1e-4, **attributes)


@pytest.mark.parametrize("side", [2, 3, 6])
def test_depthwise_window_larger_than_the_image(check_operator, normal, side):
    inputs = [normal(2, 4, side, side), normal(4, 1, 5, 5), normal(4)]
    for strides in ([1, 1], [2, 2]):
        settings = {"group": 4, "pads": [2, 2, 2, 2], "strides": strides}
        check_operator("Conv", inputs, 13, atol=1e-5, **settings)


TRANSPOSED = [
    pytest.param((2, 4, 7), (4, 3, 3), {"strides": [2]}, id="1d"),
    pytest.param((2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, id="2d"),
    pytest.param((1, 2, 3, 4, 3), (2, 3, 2, 2, 2), {}, id="3d"),
    pytest.param((1, 4, 5, 6), (4, 2, 3, 3), {"group": 2, "dilations": [2, 1]}, id="grouped"),
    pytest.param(
        (1, 4, 5, 6), (4, 2, 3, 3), {"strides": [2, 3], "output_padding": [1, 2]}, id="extra"
    ),
    pytest.param((1, 4, 5, 6), (4, 2, 3, 3), {"pads": [0, 1, 2, 0]}, id="asymmetric"),
    pytest.param(
        (1, 4, 5, 6), (4, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, id="same_upper"
    ),
    pytest.param(
        (1, 4, 5, 6), (4, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, id="same_lower"
    ),
    pytest.param(
        (1, 4, 5, 6), (4, 2, 3, 3), {"strides": [2, 2], "output_shape": [10, 12]}, id="shape"
    ),
]


@pytest.mark.parametrize(("x", "w", "attributes"), TRANSPOSED)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_conv_transpose(check_operator, normal, x, w, attributes, opset):
    outputs = w[1] * attributes.get("group", 1)
    inputs = [normal(*x), normal(*w), normal(outputs)]
    check_operator("ConvTranspose", inputs, opset, atol=1e-5, **attributes)


POOL = [
    pytest.param((2, 3, 10), {"kernel_shape": [3]}, id="1d"),
    pytest.param((2, 3, 10, 9), {"kernel_shape": [3, 2], "strides": [2, 1]}, id="2d"),
    pytest.param((1, 2, 6, 5, 7), {"kernel_shape": [2, 2, 3]}, id="3d"),
    pytest.param(
        (2, 3, 10, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, id="pads"
    ),
    pytest.param(
        (2, 3, 10, 9),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        id="asymmetric",
    ),
    pytest.param((2, 3, 10, 9), {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, id="wide"),
    pytest.param(
        (2, 3, 10, 9),
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        id="same_upper",
    ),
    pytest.param(
        (2, 3, 10, 9),
        {"kernel_shape": [2, 3], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
        id="same_lower",
    ),
]
CEIL = [
    pytest.param((2, 3, 10, 9), {"kernel_shape": [3, 3], "strides": [2, 2]}, id="2d"),
    pytest.param(
        (2, 3, 10, 9),
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]},
        id="uneven",
    ),
    pytest.param(
        (1, 2, 8, 7), {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1]}, id="pads"
    ),
]


@pytest.mark.parametrize(("x", "attributes"), POOL)
@pytest.mark.parametrize("opset", [8, 11, 22])
def test_max_pool(check_operator, normal, x, attributes, opset):
    check_operator("MaxPool", [normal(*x)], opset, **attributes)


@pytest.mark.parametrize(("x", "attributes"), CEIL)
@pytest.mark.parametrize("opset", [10, 22])
def test_max_pool_ceil(check_operator, normal, x, attributes, opset):
    check_operator("MaxPool", [normal(*x)], opset, ceil_mode=1, **attributes)


def test_max_pool_of_negative_values_ignores_padding(check_operator, normal):
    x = -np.abs(normal(1, 2, 6, 6)) - 1
    for pads in ([1, 1, 1, 1], [0, 0, 1, 1]):
        check_operator("MaxPool", [x], 13, kernel_shape=[3, 3], strides=[2, 2], pads=pads)


@pytest.mark.parametrize("opset", [10, 12, 22])
def test_max_pool_dilations_and_indices(check_operator, normal, opset):
    settings = {"kernel_shape": [2, 3], "strides": [2, 1], "dilations": [2, 2]}
    check_operator("MaxPool", [normal(2, 3, 10, 9)], opset, **settings)
    check_operator("MaxPool", [normal(2, 3, 10, 9)], opset, outputs=2, **settings)


@pytest.mark.parametrize(("x", "attributes"), POOL)
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_average_pool(check_operator, normal, x, attributes, count, opset):
    check_operator("AveragePool", [normal(*x)], opset, count_include_pad=count, **attributes)


@pytest.mark.parametrize(("x", "attributes"), CEIL)
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("opset", [10, 19, 22])
def test_average_pool_ceil(check_operator, normal, x, attributes, count, opset):
    check_operator(
        "AveragePool", [normal(*x)], opset, ceil_mode=1, count_include_pad=count, **attributes
    )


@pytest.mark.parametrize("count", [0, 1])
def test_average_pool_dilated(check_operator, normal, count):
    check_operator(
        "AveragePool",
        [normal(2, 3, 10, 9)],
        19,
        kernel_shape=[3, 2],
        dilations=[2, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=count,
    )


@pytest.mark.parametrize("name", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 7, 5), (2, 3, 4, 3, 2)])
def test_global_pool(check_operator, normal, name, shape):
    check_operator(name, [normal(*shape)], 13)
