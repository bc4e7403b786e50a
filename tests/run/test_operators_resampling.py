"""Resize and Upsample against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

NOTHING = np.array([], np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 1.5])
def test_upsample(check_operator, normal, mode, factor):
    x, scales = normal(1, 2, 4, 6), np.float32([1, 1, factor, 2])
    check_operator("Upsample", [x], 7, mode=mode, scales=list(scales), atol=1e-5)
    for constant in ((), (1,)):
        check_operator("Upsample", [x, scales], 9, mode=mode, constant=constant, atol=1e-5)
        check_operator("Resize", [x, scales], 10, mode=mode, constant=constant, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(8, 12), (7, 9), (3, 2), (1, 5)])
def test_resize_to_sizes(check_operator, normal, opset, coordinates, mode, sizes):
    region = NOTHING if opset < 13 else None
    scales = NOTHING if opset < 13 else None
    inputs = [normal(1, 2, 4, 6), region, scales, np.array([1, 2, *sizes])]
    check_operator(
        "Resize",
        inputs,
        opset,
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor" if coordinates == "asymmetric" else "round_prefer_floor",
        constant=(1, 2, 3),
        atol=1e-5,
    )


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_rounding(check_operator, normal, rounding):
    inputs = [normal(1, 1, 5, 6), None, np.float32([1, 1, 1.7, 0.6])]
    check_operator("Resize", inputs, 13, mode="nearest", nearest_mode=rounding)


@pytest.mark.parametrize("outside", [0, 1])
def test_cubic(check_operator, normal, outside):
    inputs = [normal(1, 1, 5, 6), None, np.float32([1, 1, 1.6, 2.5])]
    settings = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": outside}
    check_operator("Resize", inputs, 13, atol=1e-5, **settings)


def test_chosen_axes(check_operator, normal):
    inputs = [normal(1, 2, 4, 6), None, np.float32([2.0, 1.5])]
    check_operator("Resize", inputs, 18, mode="linear", axes=[2, 3], atol=1e-5)
