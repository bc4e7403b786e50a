"""Linear quantisation as float arithmetic; rounding passes no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, operator
from onnx_ghn.run.tensors import torch_dtype


@operator("DequantizeLinear", since=10)
def _dequantize(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        factor = _along(scale, x, axis, block)
        # Integers of 8 and 16 bits are exact in single precision, those of 32 bits are not.
        wide = x.to(torch.float64 if x.dtype == torch.int32 else scale.dtype)
        shifted = wide if zero is None else wide - _along(zero, x, axis, block).to(wide.dtype)
        return shifted.to(scale.dtype) * factor

    return dequantize


@operator("QuantizeLinear", since=10)
def _quantize(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    code = node.attributes.get_int("output_dtype", 0)

    def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        dtype = zero.dtype if zero is not None else torch_dtype(code) if code else torch.uint8
        limits = torch.iinfo(dtype)
        levels = torch.round(x / _along(scale, x, axis, block))
        if zero is not None:
            levels = levels + _along(zero, x, axis, block).to(levels.dtype)
        return levels.clamp(limits.min, limits.max).to(dtype)

    return quantize


def _along(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point, shaped to broadcast against `x`."""
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.view(shape)


@operator("DynamicQuantizeLinear", since=11, many=True)
def _dynamic_quantize(node: NodeView) -> Kernel:
    def quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
        scale = (high - low) / 255.0
        scale = torch.where(scale == 0, 1.0, scale)
        zero = torch.round(-low / scale).clamp(0, 255)
        levels = (torch.round(x / scale) + zero).clamp(0, 255)
        return levels.to(torch.uint8), scale, zero.to(torch.uint8)

    return quantize


@operator("MatMulInteger", since=10)
def _matmul_integer(node: NodeView) -> Kernel:
    def matmul(
        a: Tensor, b: Tensor, zero_a: Tensor | None = None, zero_b: Tensor | None = None
    ) -> Tensor:
        # Double precision holds sums of 8-bit products exactly, and is fast.
        left, right = a.double(), b.double()
        if zero_a is not None:
            left = left - (zero_a.unsqueeze(-1) if zero_a.dim() == 1 else zero_a)
        if zero_b is not None:
            right = right - zero_b
        return (left @ right).to(torch.int32)

    return matmul
