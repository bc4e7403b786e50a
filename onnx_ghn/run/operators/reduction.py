"""Reductions over axes, and what else looks along an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, operator

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = x.numel() // max(1, x.amax(axes).numel())
    return torch.div(x.sum(axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceMean": _mean,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


def _by_attribute(reduction: Reduction) -> Callable[[NodeView], Kernel]:
    def build(node: NodeView) -> Kernel:
        keep = bool(node.attributes.get_int("keepdims", 1))
        axes = tuple(node.attributes.get_ints("axes", ()))
        if axes:
            return lambda x: reduction(x, axes, keep)
        return lambda x: reduction(x, tuple(range(x.dim())), keep)

    return build


def _by_input(reduction: Reduction) -> Callable[[NodeView], Kernel]:
    def build(node: NodeView) -> Kernel:
        keep = bool(node.attributes.get_int("keepdims", 1))
        all_if_empty = not node.attributes.get_int("noop_with_empty_axes", 0)

        def reduce(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
            if axes:
                return reduction(x, tuple(axes), keep)
            if all_if_empty:
                return reduction(x, tuple(range(x.dim())), keep)
            return reduction(x.unsqueeze(-1), (-1,), False)  # torch takes no axes for all axes

        return reduce

    return build


def _register_reductions() -> None:
    for name, reduction in _REDUCTIONS.items():
        changed = 13 if name == "ReduceSum" else 18
        operator(name, since=1)(_by_attribute(reduction))
        operator(name, since=changed, python=(1,))(_by_input(reduction))


_register_reductions()


@operator("ArgMax", since=1)
def _arg_max(node: NodeView) -> Kernel:
    return _arg_extreme(node, torch.argmax)


@operator("ArgMin", since=1)
def _arg_min(node: NodeView) -> Kernel:
    return _arg_extreme(node, torch.argmin)


def _arg_extreme(node: NodeView, function: Kernel) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    keep = bool(node.attributes.get_int("keepdims", 1))
    last = bool(node.attributes.get_int("select_last_index", 0))

    def extreme(x: Tensor) -> Tensor:
        if last:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
        return function(x, axis, keepdim=keep)

    return extreme


@operator("TopK", since=1)
def _top_k_attribute(node: NodeView) -> Kernel:
    axis, k = node.attributes.get_int("axis", -1), node.attributes.get_int("k")
    return lambda x: tuple(x.topk(k, axis))


@operator("TopK", since=10, python=(1,))
def _top_k_input(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", -1)
    largest = bool(node.attributes.get_int("largest", 1))
    ordered = bool(node.attributes.get_int("sorted", 1))
    return lambda x, k: tuple(x.topk(k[0], axis, largest, ordered))


@operator("CumSum", since=11, python=(1,))
def _cumulative_sum(node: NodeView) -> Kernel:
    exclusive = node.attributes.get_int("exclusive", 0)
    reverse = node.attributes.get_int("reverse", 0)

    def accumulate(x: Tensor, axis: int | list[int]) -> Tensor:
        along = axis[0] if isinstance(axis, list) else axis
        source = x.flip(along) if reverse else x
        total = source.cumsum(along, dtype=x.dtype)
        if exclusive:
            total = total - source
        return total.flip(along) if reverse else total

    return accumulate
