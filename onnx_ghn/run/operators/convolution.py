"""Conv and ConvTranspose in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from onnx_ghn.run.operators.padding import explicit_pads, same_pads, torch_pads
from onnx_ghn.run.registry import Kernel, NodeView, operator

_CONV = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}
_TRANSPOSED = {
    3: torch.conv_transpose1d,
    4: torch.conv_transpose2d,
    5: torch.conv_transpose3d,
}


@operator("Conv", since=1)
def build_conv(node: NodeView) -> Kernel:
    """The function of a Conv node."""
    attributes = node.attributes
    stride = list(attributes.get_ints("strides", ())) or 1
    dilation = list(attributes.get_ints("dilations", ())) or 1
    groups = attributes.get_int("group", 1)
    begin, end, automatic = explicit_pads(node)

    if automatic:

        def same(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            pads = same_pads(x.shape[2:], w.shape[2:], stride, dilation, automatic)
            return _CONV[w.dim()](pad(x, torch_pads(*pads)), w, b, stride, 0, dilation, groups)

        return same

    edges = torch_pads(begin, end)
    if begin != end:

        def asymmetric(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            return _CONV[w.dim()](pad(x, edges), w, b, stride, 0, dilation, groups)

        return asymmetric

    padding = begin or 0

    def depthwise(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        # For a window larger than the image, oneDNN has no fast weight gradient with padding:
        # padding first is 4 to 20 times faster on small images.
        if x.is_cpu and w.shape[1] == 1 and w.shape[-1] > x.shape[-1]:
            return _CONV[w.dim()](pad(x, edges), w, b, stride, 0, dilation, groups)
        return _CONV[w.dim()](x, w, b, stride, padding, dilation, groups)

    if groups > 1 and edges:
        return depthwise

    def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return _CONV[w.dim()](x, w, b, stride, padding, dilation, groups)

    return conv


@operator("ConvTranspose", since=1)
def _conv_transpose(node: NodeView) -> Kernel:
    attributes = node.attributes
    groups = attributes.get_int("group", 1)
    strides = attributes.get_ints("strides", ())
    dilations = attributes.get_ints("dilations", ())
    extra = attributes.get_ints("output_padding", ())
    target = attributes.get_ints("output_shape", ())
    begin, end, automatic = explicit_pads(node)

    def transpose(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = w.dim() - 2
        stride = list(strides) or [1] * rank
        dilation = list(dilations) or [1] * rank
        added = list(extra) or [0] * rank
        first, last = list(begin) or [0] * rank, list(end) or [0] * rank
        full = [
            s * (size - 1) + (k - 1) * d + 1 + e
            for s, size, k, d, e in zip(
                stride, x.shape[2:], w.shape[2:], dilation, added, strict=True
            )
        ]
        if target or automatic:
            wanted = target[-rank:] or [
                size * s for size, s in zip(x.shape[2:], stride, strict=True)
            ]
            total = [f - size for f, size in zip(full, wanted, strict=True)]
            half = [t // 2 for t in total]
            rest = [t - h for t, h in zip(total, half, strict=True)]
            # The odd element goes to the end for SAME_UPPER, to the beginning otherwise.
            first, last = (half, rest) if automatic == "SAME_UPPER" else (rest, half)
        if first == last and min(first) >= 0:
            return _TRANSPOSED[w.dim()](x, w, b, stride, first, added, groups, dilation)
        # Torch pads both sides alike: compute everything, then crop (a negative pad).
        whole = _TRANSPOSED[w.dim()](x, w, b, stride, 0, added, groups, dilation)
        return pad(whole, torch_pads(_negated(first), _negated(last)))

    return transpose


def _negated(numbers: Sequence[int]) -> list[int]:
    return [-number for number in numbers]
