"""Slices, gathers, scatters and what else selects elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Slice", since=1)
def _slice_attributes(node: NodeView) -> Kernel:
    starts = node.attributes.get_ints("starts")
    ends = node.attributes.get_ints("ends")
    axes = node.attributes.get_ints("axes", None)
    return lambda x: _slice(x, starts, ends, axes)


@operator("Slice", since=10, python=(1, 2, 3, 4))
def _slice_inputs(node: NodeView) -> Kernel:
    return _slice


def _slice(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = i if axes is None else axes[i]
        step = 1 if steps is None else steps[i]
        size = x.shape[axis]
        chosen = range(*slice(start, end, step).indices(size))
        if step > 0:
            if len(chosen) != size:
                # An empty range may end before it starts, which torch does not take.
                stop = max(chosen.start, chosen.stop)
                x = x[(slice(None),) * (axis % x.dim()) + (slice(chosen.start, stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    return x


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end; what lies outside stays outside and raises."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather", since=1)
def _gather(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    constant = node.constant(1)
    if isinstance(constant, int):
        return lambda x, _: x.select(axis, constant)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        wrapped = _wrapped(indices, x.shape[axis])
        first = axis % x.dim()
        chosen = x.index_select(first, wrapped.flatten())
        return chosen.reshape([*x.shape[:first], *indices.shape, *x.shape[first + 1 :]])

    return gather


@operator("GatherElements", since=11)
def _gather_elements(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    return lambda x, indices: x.gather(axis, _wrapped(indices, x.shape[axis]))


@operator("GatherND", since=11)
def _gather_nd(node: NodeView) -> Kernel:
    batch = node.attributes.get_int("batch_dims", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        index: list[Tensor] = []
        outer = indices.dim() - 1
        for axis in range(batch):
            shape = [1] * outer
            shape[axis] = x.shape[axis]
            index.append(torch.arange(x.shape[axis], device=x.device).view(shape))
        for i in range(depth):
            index.append(_wrapped(indices[..., i], x.shape[batch + i]))
        return x[tuple(index)]

    return gather


@operator("ScatterND", since=11)
def _scatter_nd(node: NodeView) -> Kernel:
    reduction = node.attributes.get_string("reduction", "none")

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        index = tuple(_wrapped(indices[..., i], x.shape[i]) for i in range(depth))
        if reduction in ("none", "add"):
            return x.index_put(index, updates, accumulate=reduction == "add")
        # Number the elements, then scatter each updated element by its number.
        numbers = torch.arange(x.numel(), device=x.device).view(x.shape)[index]
        flat = x.reshape(-1).scatter_reduce(
            0, numbers.reshape(-1), updates.reshape(-1), _REDUCTIONS[reduction]
        )
        return flat.view(x.shape)

    return scatter


@operator("Scatter", since=9)
@operator("ScatterElements", since=11)
def _scatter_elements(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    reduction = node.attributes.get_string("reduction", "none")

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        wrapped = _wrapped(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, wrapped, updates)
        return x.scatter_reduce(axis, wrapped, updates, _REDUCTIONS[reduction])

    return scatter


@operator("OneHot", since=9, python=(1,))
def _one_hot(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", -1)

    def one_hot(indices: Tensor, depth: int | list[int], values: Tensor) -> Tensor:
        size = int(depth[0] if isinstance(depth, list) else depth)
        place = axis % (indices.dim() + 1)
        shape = [1] * (indices.dim() + 1)
        shape[place] = size
        counted = torch.arange(size, device=indices.device).view(shape)
        hot = _wrapped(indices, size).unsqueeze(place) == counted
        return torch.where(hot, values[1], values[0])

    return one_hot


@operator("NonZero", since=9)
def _non_zero(node: NodeView) -> Kernel:
    return lambda x: x.nonzero().t()


@operator("Compress", since=9)
def _compress(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", None)

    def compress(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.nonzero().flatten()
        return x.flatten()[chosen] if axis is None else x.index_select(axis, chosen)

    return compress


@operator("Trilu", since=14, python=(1,))
def _trilu(node: NodeView) -> Kernel:
    keep = torch.triu if node.attributes.get_int("upper", 1) else torch.tril

    def trilu(x: Tensor, diagonal: int | list[int] | None = None) -> Tensor:
        number = diagonal[0] if isinstance(diagonal, list) else diagonal
        return keep(x, number or 0)

    return trilu


@operator("ReverseSequence", since=10)
def _reverse_sequence(node: NodeView) -> Kernel:
    time = node.attributes.get_int("time_axis", 0)
    batch = node.attributes.get_int("batch_axis", 1)

    def reverse(x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[time], device=x.device).unsqueeze(1)
        source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [time, batch]
        if time > batch:
            source = source.t()
        index = source.reshape(*source.shape, *[1] * (x.dim() - 2)).expand_as(x)
        return x.gather(time, index)

    return reverse
