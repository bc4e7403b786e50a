"""Shapes, slices, gathers, scatters and padding against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

LAST = np.iinfo(np.int64).max


def ints(*numbers):
    return np.array(numbers, np.int64)


@pytest.fixture(params=[False, True], ids=["computed", "constant"])
def constant(request):
    """Whether the second and later inputs are initializers."""
    return (1, 2, 3, 4) if request.param else ()


@pytest.mark.parametrize("opset", [5, 13, 21])
@pytest.mark.parametrize("shape", [(6, 4), (0, -1), (-1,), (2, 0, 1, 4)])
def test_reshape(check_operator, normal, constant, opset, shape):
    check_operator("Reshape", [normal(2, 3, 4), ints(*shape)], opset, constant=constant)


def test_reshape_to_nothing(check_operator, normal, constant):
    inputs = [normal(2, 0, 3), ints(0, 5)]
    check_operator("Reshape", inputs, 14, constant=constant, allowzero=1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_flatten(check_operator, normal, axis, opset):
    check_operator("Flatten", [normal(2, 3, 4)], opset, axis=axis)


def test_transpose(check_operator, normal):
    check_operator("Transpose", [normal(2, 3, 4)], 13)
    check_operator("Transpose", [normal(2, 3, 4)], 13, perm=[1, 2, 0])


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(check_operator, normal, constant, opset):
    x, y = normal(1, 3, 1), normal(3, 4)
    check_operator("Squeeze", [x], opset)
    if opset < 13:
        check_operator("Squeeze", [x], opset, axes=[-1])
        check_operator("Unsqueeze", [y], opset, axes=[0, -1, 2])
    else:
        check_operator("Squeeze", [x, ints(-1)], opset, constant=constant)
        check_operator("Unsqueeze", [y, ints(0, -1, 2)], opset, constant=constant)


@pytest.mark.parametrize("axis", [0, -1])
def test_concat(check_operator, normal, axis):
    check_operator("Concat", [normal(2, 3), normal(2, 3), normal(2, 3)], 13, axis=axis)


def test_split(check_operator, normal, constant):
    x = normal(4, 6)
    check_operator("Split", [x], 11, outputs=2)
    check_operator("Split", [x], 11, outputs=2, axis=1, split=[1, 5])
    check_operator("Split", [x, ints(1, 5)], 13, outputs=2, axis=1, constant=constant)
    check_operator("Split", [x], 13, outputs=3, axis=-1)
    check_operator("Split", [normal(7, 2)], 18, outputs=3, num_outputs=3)
    check_operator("Split", [x], 18, outputs=1, num_outputs=1)


@pytest.mark.parametrize("opset", [10, 11, 13])
@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1, 0), (3, 4), None, None),
        ((0, 1), (LAST, -1), (0, 1), None),
        ((-1,), (-LAST,), (1,), (-1,)),
        ((4,), (0,), (1,), (-2,)),
        ((0, 1), (4, 5), (0, 1), (2, 3)),
        ((3,), (1,), (0,), None),
    ],
)
def test_slice(check_operator, normal, constant, opset, starts, ends, axes, steps):
    inputs = [normal(4, 5), ints(*starts), ints(*ends)]
    if axes is not None:
        inputs.append(ints(*axes))
        if steps is not None:
            inputs.append(ints(*steps))
    check_operator("Slice", inputs, opset, constant=constant)


def test_slice_by_attributes(check_operator, normal):
    check_operator("Slice", [normal(4, 5)], 9, starts=[1, 0], ends=[3, -1])
    check_operator("Slice", [normal(4, 5)], 9, starts=[1], ends=[1000], axes=[1])


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "indices", [ints(1, 0), np.array(1), np.array([[0, 1], [1, 1]], np.int32)], ids=str
)
def test_gather(check_operator, normal, constant, opset, axis, indices):
    check_operator("Gather", [normal(2, 3, 4), indices], opset, axis=axis, constant=constant)


def test_gather_counts_negative_indices_from_the_end(check_operator, normal, constant):
    check_operator("Gather", [normal(3, 4), ints(-1, 0)], 11, constant=constant)
    check_operator("GatherElements", [normal(3, 4), ints(-1, 0, 1, -2).reshape(1, 4)], 11)
    check_operator("GatherND", [normal(3, 4), ints(-1, 0, 1, -2).reshape(2, 2)], 11)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("depth", [1, 2])
def test_gather_nd(check_operator, normal, batch, depth):
    indices = np.random.default_rng(0).integers(0, 2, (2, 3, depth))
    check_operator("GatherND", [normal(2, 3, 4, 5), indices], 12, batch_dims=batch)


@pytest.mark.parametrize(
    ("opset", "reduction"), [(11, None), (16, "add"), (16, "mul"), (18, "max"), (18, "min")]
)
def test_scatter(check_operator, normal, opset, reduction):
    attributes = {} if reduction is None else {"reduction": reduction}
    indices = ints(0, -1).reshape(2, 1) if reduction is None else ints(1, 1).reshape(2, 1)
    check_operator("ScatterND", [normal(3, 4), indices, normal(2, 4)], opset, **attributes)
    places = ints(0, 2, 1).reshape(1, 3)
    if reduction is None:
        check_operator("Scatter", [normal(3, 4), places, normal(1, 3)], 10, axis=1)
    inputs = [normal(3, 4), places, normal(1, 3)]
    check_operator("ScatterElements", inputs, opset, axis=1, **attributes)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1), (1,)])
def test_expand(check_operator, normal, constant, shape):
    check_operator("Expand", [normal(3, 1), ints(*shape)], 13, constant=constant)


def test_tile(check_operator, normal, constant):
    check_operator("Tile", [normal(2, 3), ints(2, 3)], 13, constant=constant)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("opset", [10, 11, 13, 18])
def test_pad(check_operator, normal, constant, mode, opset):
    x, pads = normal(1, 2, 4, 5), (0, 0, 1, 2, 0, 0, 3, 1)
    if opset < 11:
        check_operator("Pad", [x], opset, mode=mode, pads=list(pads), value=0.5)
    else:
        value = [np.array(0.5, np.float32)] if mode == "constant" else []
        check_operator("Pad", [x, ints(*pads), *value], opset, mode=mode, constant=constant)


def test_pad_of_chosen_axes(check_operator, normal, constant):
    x = normal(2, 4, 5)
    check_operator("Pad", [x, ints(1, 2, 0, 1), None, ints(-1, 1)], 18, constant=constant)
    check_operator("Pad", [x, ints(0, 2, 7, 0, 3, 2)], 19, mode="wrap", constant=constant)
    check_operator("Pad", [x, ints(0, -1, 2, 0, 0, -2)], 13, constant=constant)


def test_shape_and_size(check_operator, normal):
    check_operator("Shape", [normal(2, 3, 4)], 13)
    check_operator("Shape", [normal(2, 3, 4)], 15, start=1)
    check_operator("Shape", [normal(2, 3, 4)], 15, start=-3, end=-1)
    check_operator("Size", [normal(2, 3, 4)], 13)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(check_operator, normal, mode):
    check_operator("DepthToSpace", [normal(2, 8, 3, 2)], 13, blocksize=2, mode=mode)
    check_operator("SpaceToDepth", [normal(2, 3, 4, 6)], 13, blocksize=2)


def test_constants(check_operator):
    check_operator("ConstantOfShape", [ints(2, 3)], 9)
    check_operator("Range", [np.array(1), np.array(9), np.array(3)], 11)
    check_operator("Range", [np.array(number, np.float32) for number in (1, 0.1, -0.25)], 11)
    check_operator("EyeLike", [np.zeros((3, 4), np.float32)], 9, k=1)


def test_selection(check_operator, normal):
    check_operator("OneHot", [ints(0, 2, -1), ints(4), np.float32([0.5, 2.0])], 11)
    check_operator("OneHot", [ints(0, 2, -1), ints(4), np.float32([0.5, 2.0])], 11, axis=0)
    check_operator("NonZero", [np.float32([[1, 0], [0, 3]])], 13)
    check_operator("Compress", [normal(3, 2), np.array([False, True, True])], 11, axis=0)
    check_operator("Compress", [normal(3, 2), np.array([False, True, True])], 11)
    for upper in (0, 1):
        check_operator("Trilu", [normal(3, 4)], 14, upper=upper)
        check_operator("Trilu", [normal(3, 4), np.array(-1)], 14, upper=upper)
    for axes in ({"time_axis": 0, "batch_axis": 1}, {"time_axis": 1, "batch_axis": 0}):
        check_operator("ReverseSequence", [normal(4, 4, 2), ints(1, 2, 4, 3)], 10, **axes)


def test_dropout_is_off(check_operator, normal):
    check_operator("Dropout", [normal(2, 3)], 10)
    check_operator("Dropout", [normal(2, 3)], 13, outputs=2)
