"""Elementwise arithmetic, comparison, logic and conversion."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.registry import Kernel, NodeView, direct, operator
from onnx_ghn.run.tensors import torch_dtype

_UNARY: dict[str, Kernel] = {
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sign": torch.sign,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Kernel] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}

_VARIADIC: dict[str, Kernel] = {
    "Sum": torch.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
}


def _one_sided(node: NodeView, kernel: Kernel) -> Kernel:
    """Before opset 7 the second operand was broadcast, and only on request, from `axis` on."""
    axis = node.attributes.get_int("axis", None)
    if axis is None or not node.attributes.get_int("broadcast", 0):
        return kernel

    def broadcast(a: Tensor, b: Tensor) -> Tensor:
        trailing = a.dim() - axis % a.dim() - b.dim()
        return kernel(a, b.reshape(*b.shape, *[1] * trailing))

    return broadcast


def _register_tables() -> None:
    for name, kernel in _UNARY.items():
        direct(name, kernel)
    for name, kernel in _BINARY.items():
        operator(name, since=1)(partial(_one_sided, kernel=kernel))
        direct(name, kernel, since=7)
    for name, kernel in _VARIADIC.items():
        direct(name, partial(_accumulate, kernel))


def _accumulate(kernel: Kernel, *inputs: Tensor) -> Tensor:
    return reduce(kernel, inputs)


_register_tables()
direct("Mean", lambda *inputs: reduce(torch.add, inputs) / len(inputs))
direct("Where", torch.where, since=9)


@operator("Pow", since=1)
def _pow(node: NodeView) -> Kernel:
    exponent = node.constant(1)
    if isinstance(exponent, float | int):  # a number is faster and needs no gradient
        return lambda x, _: torch.pow(x, exponent).to(x.dtype)
    return _one_sided(node, lambda x, y: torch.pow(x, y).to(x.dtype))


@operator("Mod", since=10)
def _mod(node: NodeView) -> Kernel:
    return torch.fmod if node.attributes.get_int("fmod", 0) else torch.remainder


@operator("IsInf", since=10)
def _is_inf(node: NodeView) -> Kernel:
    positive = node.attributes.get_int("detect_positive", 1)
    negative = node.attributes.get_int("detect_negative", 1)
    if positive and negative:
        return torch.isinf
    if not (positive or negative):
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf if positive else torch.isneginf


@operator("BitShift", since=11)
def _bit_shift(node: NodeView) -> Kernel:
    left = node.attributes.get_string("direction") == "LEFT"
    return torch.bitwise_left_shift if left else torch.bitwise_right_shift


@operator("Clip", since=1)
def _clip_attributes(node: NodeView) -> Kernel:
    low = node.attributes.get_float("min", None)
    high = node.attributes.get_float("max", None)
    return lambda x: _clip(x, low, high)


@operator("Clip", since=11, python=(1, 2))
def _clip_inputs(node: NodeView) -> Kernel:
    return _clip


def _clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low, high = _scalar(low), _scalar(high)
    if low is None and high is None:
        return x
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if numbers and low <= high and x.is_floating_point():
        # As ReLU6 is trained, with no gradient at the bounds; clamp takes five times as long.
        return functional.hardtanh(x, low, high)
    return torch.clamp(x, low, high)


def _scalar(number: Any) -> Any:
    """Exporters write scalars as one-element lists too."""
    return number[0] if isinstance(number, list) else number


@operator("Cast", since=1)
def _cast(node: NodeView) -> Kernel:
    attribute = node.attributes["to"]
    # Opset 1 to 5 wrote the type's name.
    named = attribute.type is ir.AttributeType.STRING
    dtype = torch_dtype(
        ir.DataType[attribute.as_string()] if named else ir.DataType(attribute.as_int())
    )
    return lambda x: x.to(dtype)


@operator("CastLike", since=15)
def _cast_like(node: NodeView) -> Kernel:
    return lambda x, like: x.to(like.dtype)
