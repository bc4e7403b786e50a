"""The padding attributes that convolution and pooling share."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_ghn.run.registry import NodeView


def explicit_pads(node: NodeView) -> tuple[list[int], list[int], str]:
    """Padding of a node before and after each spatial axis, and its automatic mode.

    Returns:
        (begin, end, mode): the lists are empty where nothing is padded; `mode` is SAME_UPPER or
        SAME_LOWER where the padding depends on the input's size, else empty.
    """
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [], [], mode
    if mode not in ("NOTSET", "VALID"):
        raise node.unsupported(f"auto_pad {mode!r}")
    pads = list(node.attributes.get_ints("pads", ())) if mode == "NOTSET" else []
    if not any(pads):
        return [], [], ""
    half = len(pads) // 2
    return pads[:half], pads[half:], ""


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] | int,
    dilation: Sequence[int] | int,
    mode: str,
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis so that the output has ceil(size / stride) elements."""
    begin, end = [], []
    rank = len(kernel)
    for size, k, s, d in zip(
        sizes, kernel, per_axis(stride, rank), per_axis(dilation, rank), strict=True
    ):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return begin, end


def torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """The order that `torch.nn.functional.pad` wants: pairs, last axis first."""
    pairs = zip(reversed(begin), reversed(end), strict=True)
    return [amount for pair in pairs for amount in pair]


def per_axis(numbers: Sequence[int] | int, rank: int) -> list[int]:
    """One number for each axis; a single one, or none given (1), counts for all."""
    return [numbers] * rank if isinstance(numbers, int) else list(numbers) or [1] * rank
