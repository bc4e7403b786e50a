"""Max and average pooling, over windows and over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ghn.run.operators.padding import explicit_pads, per_axis, same_pads, torch_pads
from onnx_ghn.run.registry import Kernel, NodeView, direct, operator

_MAX = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}
_MAX_WITH_INDICES = {
    1: functional.max_pool1d_with_indices,
    2: functional.max_pool2d_with_indices,
    3: functional.max_pool3d_with_indices,
}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


@dataclass(frozen=True)
class _Window:
    """What the attributes of a pooling node say of the window that slides over the map."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    ceil: bool
    begin: list[int]
    end: list[int]
    automatic: str

    @classmethod
    def of(cls, node: NodeView) -> _Window:
        attributes = node.attributes
        kernel = list(attributes.get_ints("kernel_shape"))
        rank = len(kernel)
        begin, end, automatic = explicit_pads(node)
        return cls(
            kernel,
            per_axis(attributes.get_ints("strides", ()), rank),
            per_axis(attributes.get_ints("dilations", ()), rank),
            bool(attributes.get_int("ceil_mode", 0)),
            begin or [0] * rank,
            end or [0] * rank,
            automatic,
        )

    @property
    def is_plain(self) -> bool:
        """Whether torch's own pools take it: the same padding on both sides, half a window."""
        fits = all(2 * pad <= side for pad, side in zip(self.begin, self.kernel, strict=True))
        return fits and self.begin == self.end and not self.automatic

    def padding(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """Padding before and after each axis of a map of `sizes`."""
        if self.automatic:
            return same_pads(sizes, self.kernel, self.stride, self.dilation, self.automatic)
        return self.begin, self.end

    def edges(self, sizes: Sequence[int], first: list[int], last: list[int]) -> list[int]:
        """What `torch.nn.functional.pad` must add so that no window is cut off."""
        shape = (self.kernel, self.stride, self.dilation)
        return _edges(sizes, _output_sizes(sizes, *shape, first, last, self.ceil), *shape, first)


@operator("MaxPool", since=1)
def _max_pool(node: NodeView) -> Kernel:
    window = _Window.of(node)
    kernel, stride, dilation, ceil = window.kernel, window.stride, window.dilation, window.ceil
    rank = len(kernel)
    if node.output_count > 1:
        if node.attributes.get_int("storage_order", 0):
            raise node.unsupported("indices in column-major order")
        if not window.is_plain:
            raise node.unsupported("indices with asymmetric padding")
        return _max_pool_with_indices(kernel, stride, window.begin, dilation, ceil)
    if window.is_plain:
        pool, padding = _MAX[rank], window.begin
        return lambda x: pool(x, kernel, stride, padding, dilation, ceil)

    def padded(x: Tensor) -> Tensor:
        edges = window.edges(x.shape[2:], *window.padding(x.shape[2:]))
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        filled = functional.pad(x, edges, value=lowest)
        return _MAX[rank](filled, kernel, stride, 0, dilation)

    return padded


def _max_pool_with_indices(
    kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil: bool
) -> Kernel:
    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = _MAX_WITH_INDICES[len(kernel)](x, kernel, stride, padding, dilation, ceil)
        # Torch counts inside one channel, ONNX through the whole tensor.
        planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * prod(x.shape[2:])
        return values, indices + planes.view(x.shape[0], x.shape[1], *[1] * len(kernel))

    return pool


@operator("AveragePool", since=1)
def _average_pool(node: NodeView) -> Kernel:
    window = _Window.of(node)
    kernel, stride, dilation, ceil = window.kernel, window.stride, window.dilation, window.ceil
    rank = len(kernel)
    count_padding = bool(node.attributes.get_int("count_include_pad", 0))
    if window.is_plain and max(dilation) == 1:
        pool, padding = _AVERAGE[rank], window.begin
        return lambda x: pool(x, kernel, stride, padding, ceil, count_padding)

    def by_convolution(x: Tensor) -> Tensor:
        first, last = window.padding(x.shape[2:])
        edges = window.edges(x.shape[2:], first, last)
        ones = x.new_ones((1, 1, *kernel))
        planes = x.reshape(-1, 1, *x.shape[2:])
        total = _CONV[rank](functional.pad(planes, edges), ones, None, stride, 0, dilation)
        counted = x.new_ones((1, 1, *x.shape[2:]))
        outer = edges
        if count_padding:  # the declared padding counts, what ceil_mode adds does not
            declared = torch_pads(first, last)
            counted = functional.pad(counted, declared, value=1.0)
            outer = [edge - amount for edge, amount in zip(edges, declared, strict=True)]
        count = _CONV[rank](functional.pad(counted, outer), ones, None, stride, 0, dilation)
        return (total / count).reshape(*x.shape[:2], *total.shape[2:])

    return by_convolution


def _output_sizes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    ceil: bool,
) -> list[int]:
    result = []
    for i, size in enumerate(sizes):
        room = size + begin[i] + end[i] - (kernel[i] - 1) * dilation[i] - 1
        steps = -(-room // stride[i]) if ceil else room // stride[i]
        if ceil and steps * stride[i] >= size + begin[i]:
            steps -= 1  # a window must begin inside the input or its left padding
        result.append(steps + 1)
    return result


def _edges(
    sizes: Sequence[int],
    outputs: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
) -> list[int]:
    """Padding, possibly negative at the end, with which exactly `outputs` windows fit."""
    end = [
        (outputs[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - size - begin[i]
        for i, size in enumerate(sizes)
    ]
    return torch_pads(begin, end)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


direct("GlobalAveragePool", lambda x: x.mean(_spatial(x), keepdim=True))
direct("GlobalMaxPool", lambda x: x.amax(_spatial(x), keepdim=True))
