"""Reductions and searches along axes against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"]
REDUCTIONS += ["ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("opset", [11, 13, 18, 20])
@pytest.mark.parametrize("axes", [None, (1,), (-1, 0)])
@pytest.mark.parametrize("keep", [0, 1])
def test_reduction(check_operator, normal, name, opset, axes, keep):
    x = np.abs(normal(2, 3, 4)) + 0.1
    by_input = opset >= (13 if name == "ReduceSum" else 18)
    if axes is None:
        check_operator(name, [x], opset, keepdims=keep)
    elif by_input:
        for constant in ((), (1,)):
            inputs = [x, np.array(axes)]
            check_operator(name, inputs, opset, keepdims=keep, constant=constant)
    else:
        check_operator(name, [x], opset, keepdims=keep, axes=list(axes))


@pytest.mark.parametrize("name", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceProd"])
def test_integers(check_operator, name):
    x = np.array([[5, -3, 4], [2, 7, -11]], np.int32)
    by_input = name == "ReduceSum"
    inputs = [x, np.array([1])] if by_input else [x]
    check_operator(name, inputs, 13, **({} if by_input else {"axes": [1]}))


def test_empty_axes_can_mean_nothing(check_operator, normal):
    check_operator("ReduceSum", [normal(2, 3)], 13, noop_with_empty_axes=1)


@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_arg_extremes(check_operator, name, last, keep, axis):
    x = np.float32([[3, 1, 3], [0, 5, 5]])
    check_operator(name, [x], 13, axis=axis, keepdims=keep, select_last_index=last)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_top_k(check_operator, normal, largest, axis):
    inputs = [normal(4, 5), np.array([3])]
    for constant in ((), (1,)):
        settings = {"axis": axis, "largest": largest, "constant": constant}
        check_operator("TopK", inputs, 11, outputs=2, **settings)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(check_operator, normal, exclusive, reverse):
    inputs = [normal(3, 4), np.array(1)]
    check_operator("CumSum", inputs, 14, exclusive=exclusive, reverse=reverse)
