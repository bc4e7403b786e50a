"""Operators that make tensors from attributes and shapes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, Placement, operator
from onnx_ghn.run.tensors import to_torch, torch_dtype


@operator("Constant", since=1)
def _constant(node: NodeView) -> Kernel:
    attributes = node.attributes
    if "value" in attributes:
        stored = attributes.get_tensor("value")
        name = node.node.outputs[0].name or ""
        return lambda: to_torch(stored, name)
    for key, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for name in (key, key + "s"):
            if name in attributes:
                numbers = attributes[name].value
                return lambda: torch.tensor(numbers, dtype=dtype)
    raise node.unsupported(f"attributes {list(attributes)}")


@operator("ConstantOfShape", since=9, python=(0,))
def _constant_of_shape(node: NodeView) -> Kernel:
    stored = node.attributes.get_tensor("value", None)
    value = torch.zeros(1) if stored is None else to_torch(stored, "value")
    number, dtype = value.item(), value.dtype
    return lambda shape: torch.full(shape, number, dtype=dtype)


@operator("Range", since=11, placement=Placement.HOST)
def _range(node: NodeView) -> Kernel:
    return lambda start, limit, delta: torch.arange(
        start.item(), limit.item(), delta.item(), dtype=start.dtype
    )


@operator("EyeLike", since=9)
def _eye_like(node: NodeView) -> Kernel:
    code = node.attributes.get_int("dtype", None)
    diagonal = node.attributes.get_int("k", 0)

    def eye(x: Tensor) -> Tensor:
        dtype = x.dtype if code is None else torch_dtype(code)
        ones = torch.ones(x.shape, dtype=dtype, device=x.device)
        return ones.triu(diagonal).tril(diagonal)

    return eye


@operator("RandomNormal", since=1)
def _random_normal(node: NodeView) -> Kernel:
    mean = node.attributes.get_float("mean", 0.0)
    scale = node.attributes.get_float("scale", 1.0)
    return _random(node, lambda x, generator: x.normal_(mean, scale, generator=generator))


@operator("RandomUniform", since=1)
def _random_uniform(node: NodeView) -> Kernel:
    low = node.attributes.get_float("low", 0.0)
    high = node.attributes.get_float("high", 1.0)
    return _random(node, lambda x, generator: x.uniform_(low, high, generator=generator))


def _random(node: NodeView, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Kernel:
    """Drawn once for a program: the same values at every call."""
    shape = list(node.attributes.get_ints("shape"))
    dtype = torch_dtype(node.attributes.get_int("dtype", int(ir.DataType.FLOAT)))
    seed = int(node.attributes.get_float("seed", 0.0))

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return fill(torch.empty(shape, dtype=dtype), generator)

    return draw
