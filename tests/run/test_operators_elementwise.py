"""Elementwise operators, activations and softmax against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto

from onnx_ghn.run.interpreter import Interpreter

ANYWHERE = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Floor", "Ceil", "LeakyRelu", "Elu"]
ANYWHERE += ["Selu", "HardSigmoid", "Softplus", "Softsign"]
LATER = [("Erf", 13), ("Sign", 13), ("Round", 11), ("Sin", 7), ("Cos", 7), ("Tan", 7)]
LATER += [("Sinh", 9), ("Cosh", 9), ("Asinh", 9), ("Atan", 7), ("IsNaN", 13), ("IsInf", 10)]
LATER += [("Celu", 12), ("HardSwish", 14), ("Mish", 18), ("Gelu", 20), ("ThresholdedRelu", 10)]


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("opset", [7, 13, 17])
def test_unary(check_operator, normal, name, opset):
    check_operator(name, [3 * normal(3, 4)], opset)


@pytest.mark.parametrize(("name", "opset"), LATER)
def test_later_unary(check_operator, normal, name, opset):
    check_operator(name, [3 * normal(3, 4)], opset)


@pytest.mark.parametrize("name", ["Sqrt", "Log", "Reciprocal"])
def test_positive_unary(check_operator, normal, name):
    check_operator(name, [np.abs(normal(3, 4)) + 0.1], 13)


@pytest.mark.parametrize("name", ["Asin", "Acos", "Atanh"])
def test_bounded_unary(check_operator, normal, name):
    check_operator(name, [np.tanh(normal(3, 4))], 13)


def test_acosh(check_operator, normal):
    check_operator("Acosh", [1 + np.abs(normal(3, 4))], 13)


def test_special_values(check_operator):
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    check_operator("IsNaN", [x], 13)
    for positive, negative in ((1, 1), (1, 0), (0, 1), (0, 0)):
        check_operator("IsInf", [x], 10, detect_positive=positive, detect_negative=negative)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {"alpha": 0.7}),
        ("Selu", {"alpha": 1.5, "gamma": 1.1}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("Celu", {"alpha": 1.4}),
    ],
)
def test_activation_attributes(check_operator, normal, name, attributes):
    check_operator(name, [2 * normal(3, 4)], 16, **attributes)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_swish(check_operator, normal, alpha):
    check_operator("Swish", [normal(3, 4)], 24, alpha=alpha)


def test_gelu_of_tanh(check_operator, normal):
    check_operator("Gelu", [normal(3, 4)], 20, approximate="tanh")


@pytest.mark.parametrize("opset", [7, 16])
@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (1, 3, 4, 5)])
def test_prelu(check_operator, normal, opset, slope):
    check_operator("PRelu", [normal(2, 3, 4, 5), normal(*slope)], opset)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("opset", "axis"), [(11, None), (12, 2), (11, -1), (13, None), (17, 1)])
def test_softmax(check_operator, normal, name, opset, axis):
    attributes = {} if axis is None else {"axis": axis}
    check_operator(name, [normal(2, 3, 4)], opset, **attributes)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize("opset", [7, 13, 14])
def test_binary(check_operator, normal, name, opset):
    check_operator(name, [np.abs(normal(2, 3, 4)) + 0.5, normal(3, 1)], opset)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div"])
def test_integer_binary(check_operator, name):
    a, b = np.array([7, -7, 5, -5]), np.array([2, 2, -3, -3])
    check_operator(name, [a, b], 14)


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0])
def test_pow_by_a_constant(check_operator, normal, exponent):
    inputs = [np.abs(normal(2, 3)), np.array(exponent, np.float32)]
    check_operator("Pow", inputs, 13, constant=(1,))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("constant", [(), (1,)])
def test_pow_keeps_the_type_of_its_base(check_operator, dtype, constant):
    check_operator("Pow", [np.array([1, 2, 3]), np.array(2, dtype)], 13, constant=constant)


@pytest.mark.parametrize("name", ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
@pytest.mark.parametrize("opset", [13, 19])
def test_comparison(check_operator, name, opset):
    check_operator(name, [np.arange(6.0).reshape(2, 3), np.array([3.0, 1.0, 2.0])], opset)


@pytest.mark.parametrize("name", ["And", "Or", "Xor"])
def test_logic(check_operator, name):
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    check_operator(name, [a, b], 13)
    check_operator("Not", [a], 13)


@pytest.mark.parametrize("name", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits(check_operator, name):
    check_operator(name, [np.array([12, 10, -7]), np.array([10, 3, 5])], 18)
    check_operator("BitwiseNot", [np.array([12, 10, -7])], 18)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(check_operator, direction):
    a, b = np.array([12, 10], np.uint8), np.array([1, 2], np.uint8)
    check_operator("BitShift", [a, b], 11, direction=direction)


@pytest.mark.parametrize("name", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("opset", [8, 13])
def test_variadic(check_operator, normal, name, count, opset):
    check_operator(name, [normal(2, 3), normal(3), normal(1, 3)][:count], opset)


@pytest.mark.parametrize("opset", [6, 11, 13])
def test_clip(check_operator, normal, opset):
    x = normal(3, 4)
    if opset < 11:
        check_operator("Clip", [x], opset, min=-0.5, max=0.7)
        check_operator("Clip", [x], opset, max=0.7)
    else:
        low, high = np.array(-0.5, np.float32), np.array(0.7, np.float32)
        for constant in ((), (1, 2)):
            check_operator("Clip", [x, low, high], opset, constant=constant)
        check_operator("Clip", [x, None, high], opset)


@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(check_operator, fmod):
    a, b = np.array([7, -7, 5, -5], np.int64), np.array([3, 3, -3, -3], np.int64)
    check_operator("Mod", [a, b], 13, fmod=fmod)
    check_operator("Mod", [a.astype(np.float32), b.astype(np.float32)], 13, fmod=1)


def test_where(check_operator, normal):
    check_operator("Where", [normal(2, 3) > 0, normal(2, 3), normal(3)], 16)


@pytest.mark.parametrize(
    "kind", ["FLOAT", "DOUBLE", "FLOAT16", "INT64", "INT32", "INT8", "UINT8", "BOOL"]
)
@pytest.mark.parametrize("opset", [9, 13, 19])
def test_cast(check_operator, normal, kind, opset):
    check_operator("Cast", [10 * np.abs(normal(3, 4))], opset, to=getattr(TensorProto, kind))


def test_cast_like(check_operator, normal):
    check_operator("CastLike", [normal(3, 4), np.zeros(1, np.float64)], 15)


# ONNX Runtime begins at opset 7; what came before is checked against numpy.
OLD = """
<ir_version: 3, opset_import: ["" : 6]>
old (float[2, 3, 4] x, float[3] b) => (float[2, 3, 4] y) {{ y = {body} (x, b) }}
"""


def old(body, *arrays):
    model = ir.from_onnx_text(OLD.format(body=body))
    inputs = dict(zip("xb", map(torch.from_numpy, arrays), strict=True))
    return Interpreter(model)(inputs)[0].numpy()


def test_old_broadcasting_begins_at_an_axis(normal):
    x, b = normal(2, 3, 4), normal(3)
    y = old("Add <broadcast: int = 1, axis: int = 1>", x, b)
    np.testing.assert_allclose(y, x + b[:, None])


def test_old_prelu_has_a_slope_for_each_channel(normal):
    x, slope = normal(2, 3, 4), normal(3)
    np.testing.assert_allclose(old("PRelu", x, slope), np.where(x < 0, x * slope[:, None], x))


def test_old_clip_and_cast(normal):
    text = """
    <ir_version: 3, opset_import: ["" : 4]>
    old (float[3] x) => (int64[3] y) {
      a = Clip <min: float = 0.0> (x)
      y = Cast <to: string = "INT64"> (a)
    }
    """
    x = np.float32([-1.5, 2.5, 3.0])
    (y,) = Interpreter(ir.from_onnx_text(text))(torch.from_numpy(x))
    np.testing.assert_array_equal(y.numpy(), [0, 2, 3])
