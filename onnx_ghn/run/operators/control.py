"""If, Loop and Scan, and the sequences of tensors that loops collect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onnx_ghn.run.registry import Kernel, NodeView, direct, operator


@operator("If", since=1, python=(0,), many=True)
def _if(node: NodeView) -> Kernel:
    then, otherwise = node.blocks["then_branch"], node.blocks["else_branch"]

    def choose(condition: bool | list[bool], *captured: Any) -> tuple[Any, ...]:
        chosen = condition[0] if isinstance(condition, list) else condition
        return then(*captured) if chosen else otherwise(*captured)

    return choose


@operator("Loop", since=1, python=(0, 1), many=True)
def _loop(node: NodeView) -> Kernel:
    body = node.blocks["body"]
    given = len(node.node.inputs)
    carried = given - 2

    def loop(trips: Any, condition: Any, *values: Any) -> tuple[Any, ...]:
        state, captured = values[:carried], values[carried:]
        limit = _number(trips)
        going = True if condition is None else bool(_number(condition))
        scanned: list[list[Tensor]] = [[] for _ in range(node.output_count - carried)]
        step = 0
        while going and (limit is None or step < limit):
            result = body(torch.tensor(step), torch.tensor(going), *state, *captured)
            going = bool(result[0])
            state = result[1 : 1 + carried]
            for collected, tensor in zip(scanned, result[1 + carried :], strict=True):
                collected.append(tensor)
            step += 1
        return *state, *(_stacked(collected) for collected in scanned)

    return loop


def _number(value: Any) -> Any:
    """Exporters write scalars as one-element lists too."""
    return value[0] if isinstance(value, list) else value


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if tensors else torch.empty(0)


@operator("Scan", since=9, many=True)
def _scan(node: NodeView) -> Kernel:
    attributes = node.attributes
    body = node.blocks["body"]
    given = len(node.node.inputs)
    scans = attributes.get_int("num_scan_inputs")
    carried = given - scans
    outputs = node.output_count - carried
    in_axes = list(attributes.get_ints("scan_input_axes", ())) or [0] * scans
    out_axes = list(attributes.get_ints("scan_output_axes", ())) or [0] * outputs
    in_backward = list(attributes.get_ints("scan_input_directions", ())) or [0] * scans
    out_backward = list(attributes.get_ints("scan_output_directions", ())) or [0] * outputs

    def scan(*values: Tensor) -> tuple[Tensor, ...]:
        state, captured = values[:carried], values[given:]
        columns = [
            _unbound(x, axis, bool(backward))
            for x, axis, backward in zip(values[carried:given], in_axes, in_backward, strict=True)
        ]
        scanned: list[list[Tensor]] = [[] for _ in range(outputs)]
        for row in zip(*columns, strict=True):
            result = body(*state, *row, *captured)
            state = result[:carried]
            for collected, tensor in zip(scanned, result[carried:], strict=True):
                collected.append(tensor)
        collected_outputs = (
            torch.stack(tensors[::-1] if backward else tensors, axis)
            for tensors, axis, backward in zip(scanned, out_axes, out_backward, strict=True)
        )
        return *state, *collected_outputs

    return scan


def _unbound(x: Tensor, axis: int, backward: bool) -> Sequence[Tensor]:
    rows = x.unbind(axis)
    return rows[::-1] if backward else rows


@operator("SequenceEmpty", since=11)
def _sequence_empty(node: NodeView) -> Kernel:
    return lambda: []


direct("SequenceConstruct", lambda *tensors: list(tensors), since=11)


@operator("SequenceAt", since=11, python=(1,))
def _sequence_at(node: NodeView) -> Kernel:
    return lambda sequence, position: sequence[position]


@operator("SequenceLength", since=11)
def _sequence_length(node: NodeView) -> Kernel:
    return lambda sequence: torch.tensor(len(sequence))


@operator("SequenceInsert", since=11, python=(2,))
def _sequence_insert(node: NodeView) -> Kernel:
    def insert(sequence: list[Tensor], tensor: Tensor, position: int | None = None) -> list[Tensor]:
        place = len(sequence) if position is None else position % (len(sequence) + 1)
        return [*sequence[:place], tensor, *sequence[place:]]

    return insert


@operator("SplitToSequence", since=11, python=(1,))
def _split_to_sequence(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis", 0)
    keep = node.attributes.get_int("keepdims", 1)

    def split(x: Tensor, sizes: int | list[int] | None = None) -> list[Tensor]:
        if sizes is None:
            return list(x.split(1, axis) if keep else x.unbind(axis))
        return list(x.split(sizes, axis))

    return split


@operator("ConcatFromSequence", since=11)
def _concat_from_sequence(node: NodeView) -> Kernel:
    axis = node.attributes.get_int("axis")
    join = torch.stack if node.attributes.get_int("new_axis", 0) else torch.cat
    return lambda sequence: join(sequence, axis)
