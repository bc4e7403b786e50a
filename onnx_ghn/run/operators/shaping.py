"""Operators that give the same elements another shape, order or extent."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.operators.padding import torch_pads
from onnx_ghn.run.registry import Kernel, NodeView, Placement, direct, operator


@operator("Reshape", since=1)
def _reshape_attribute(node: NodeView) -> Kernel:
    shape = list(node.attributes.get_ints("shape", ()))
    return lambda x: x.reshape(_filled(shape, x.shape))


@operator("Reshape", since=5, python=(1,))
def _reshape(node: NodeView) -> Kernel:
    if node.attributes.get_int("allowzero", 0):
        return lambda x, shape: x.reshape(shape)
    constant = node.constant(1)
    if constant is not None and 0 not in constant:
        return lambda x, _: x.reshape(constant)
    return lambda x, shape: x.reshape(_filled(shape, x.shape))


def _filled(shape: Sequence[int], old: Sequence[int]) -> list[int]:
    """Zeros stand for the old size of that axis."""
    return [old[i] if size == 0 else size for i, size in enumerate(shape)]


@operator("Flatten", since=1)
def _flatten(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        rows = prod(x.shape[:axis]) if axis else 1
        return x.reshape(rows, prod(x.shape[axis:]))

    return flatten


@operator("Transpose", since=1)
def _transpose(node: NodeView) -> Kernel:
    order = node.attributes.get_ints("perm", None)
    if order is None:
        return lambda x: x.permute(*reversed(range(x.dim())))
    order = list(order)
    return lambda x: x.permute(order)


@operator("Squeeze", since=1)
def _squeeze_attribute(node: NodeView) -> Kernel:
    axes = node.attributes.get_ints("axes", None)
    return lambda x: _squeeze(x, axes)


@operator("Squeeze", since=13, python=(1,))
def _squeeze_input(node: NodeView) -> Kernel:
    return _squeeze


def _squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", since=1)
def _unsqueeze_attribute(node: NodeView) -> Kernel:
    axes = node.attributes.get_ints("axes")
    return lambda x: _unsqueeze(x, axes)


@operator("Unsqueeze", since=13, python=(1,))
def _unsqueeze_input(node: NodeView) -> Kernel:
    return _unsqueeze


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Concat", since=1)
def _concat(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 1)
    return lambda *inputs: torch.cat(inputs, axis)


@operator("Split", since=1, many=True)
def _split_attribute(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    sizes = node.attributes.get_ints("split", None)
    count = node.output_count
    if node.has_input(1):
        raise node.unsupported("sizes as an input before opset 13")
    return lambda x: _split(x, sizes, count, axis)


@operator("Split", since=13, python=(1,), many=True)
def _split_input(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    count = node.output_count
    return lambda x, sizes=None: _split(x, sizes, count, axis)


def _split(x: Tensor, sizes: Sequence[int] | None, count: int, axis: int) -> Sequence[Tensor]:
    if sizes is None:  # equal parts, the last one smaller
        return x.split(-(-x.shape[axis] // count), axis)
    return x.split(list(sizes), axis)


@operator("Expand", since=8, python=(1,))
def _expand(node: NodeView) -> Kernel:
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile", since=6, python=(1,))
def _tile(node: NodeView) -> Kernel:
    return lambda x, repeats: x.repeat(repeats)


@operator("Pad", since=1)
def _pad_attributes(node: NodeView) -> Kernel:
    attributes = node.attributes
    pads = attributes.get_ints("pads", None) or attributes.get_ints("paddings", None)
    mode = attributes.get_string("mode", "constant")
    value = attributes.get_float("value", 0.0)
    return lambda x: _pad(x, pads, value, None, mode)


@operator("Pad", since=11, python=(1, 2, 3))
def _pad_inputs(node: NodeView) -> Kernel:
    mode = node.attributes.get_string("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise node.unsupported(f"mode {mode!r}")
    return lambda x, pads, value=None, axes=None: _pad(x, pads, value, axes, mode)


def _pad(
    x: Tensor, pads: Sequence[int], value: Any, axes: Sequence[int] | None, mode: str
) -> Tensor:
    padded = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
    begin, end = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(padded):
        begin[axis], end[axis] = pads[i], pads[i + len(padded)]
    if mode == "constant":
        number = value[0] if isinstance(value, list) else value
        return functional.pad(x, torch_pads(begin, end), value=number or 0)
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            x = x.index_select(axis, _sources(x.shape[axis], before, after, mode).to(x.device))
    return x


def _sources(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which element each element of a padded axis copies."""
    position = torch.arange(-before, size + after)
    if mode == "edge":
        return position.clamp(0, size - 1)
    if mode == "wrap":
        return position % size
    period = max(1, 2 * (size - 1))
    position = position % period
    return torch.minimum(position, period - position)


@operator("Shape", since=1, placement=Placement.METADATA)
def _shape(node: NodeView) -> Kernel:
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", None)
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


@operator("Size", since=1, placement=Placement.METADATA)
def _size(node: NodeView) -> Kernel:
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@operator("DepthToSpace", since=1)
def _depth_to_space(node: NodeView) -> Kernel:
    block = node.attributes.get_int("blocksize")
    columns_first = node.attributes.get_string("mode", "DCR") == "CRD"

    def spread(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        depth = c // block**2
        if columns_first:
            parts = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, depth, h * block, w * block)

    return spread


@operator("SpaceToDepth", since=1)
def _space_to_depth(node: NodeView) -> Kernel:
    block = node.attributes.get_int("blocksize")

    def gather(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block, w // block)

    return gather


@operator("Dropout", since=1)
def _dropout(node: NodeView) -> Kernel:
    """Off, also in a training export: the interpreter is deterministic."""
    if node.output_count == 1:
        return lambda x, *_: x
    return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))


direct("Identity", lambda x: x)
