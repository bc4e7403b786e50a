"""Values of parameters: drawn when somebody asks for them, and put where the file holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.model_copy import copy_model
from onnx_ghn.plan import Plan
from onnx_ghn.read.parameter import Holder, Parameter, Role
from onnx_ghn.read.reading import Reading
from onnx_ghn.report import Status

Draw = Callable[[npt.DTypeLike], npt.NDArray[Any]]
"""Makes a tensor's values in its logical shape, rounded to a type."""


LARGE = 1 << 26
"""Bytes of a tensor that is not made whole to be written, if its rows repeat."""


@runtime_checkable
class Repeats(Protocol):
    """A draw of values whose rows repeat."""

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The rows that repeat along the first axis, contiguous."""


class _Repeating(ir.LazyTensor):
    """A lazy tensor whose rows are made once to be written, and written again and again."""

    def __init__(self, rows: Callable[[], npt.NDArray[Any]], *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._rows = rows

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes."""
        rows = self._rows()
        whole, rest = divmod(self.shape.numpy()[0], len(rows))
        for _ in range(whole):
            file.write(rows.view(np.uint8).data)
        file.write(rows[:rest].view(np.uint8).data)


def lazy(parameter: Parameter, draw: Draw, *, cache: bool) -> ir.LazyTensor:
    """The parameter's tensor: drawn and laid out when somebody asks for the values."""

    def evaluate() -> ir.Tensor:
        physical = parameter.layout.to_physical(draw(parameter.dtype.numpy()))
        array = np.ascontiguousarray(physical)
        return ir.Tensor(array, dtype=parameter.dtype, name=parameter.name)

    kind: Callable[..., ir.LazyTensor] = ir.LazyTensor
    large = parameter.dtype.itemsize * math.prod(parameter.shape) >= LARGE
    if large and isinstance(draw, Repeats) and not parameter.layout.steps:
        kind = partial(_Repeating, partial(draw.rows, parameter.dtype.numpy()))
    return kind(
        evaluate,
        dtype=parameter.dtype,
        shape=ir.Shape(parameter.shape),
        name=parameter.name,
        cache=cache,
    )


def statistic(parameter: Parameter) -> ir.Tensor:
    """A running mean of 0 or a running variance of 1."""
    start = 1.0 if parameter.role is Role.RUNNING_VARIANCE else 0.0
    array = np.full(parameter.shape, start, dtype=parameter.dtype.numpy())
    return ir.Tensor(array, dtype=parameter.dtype, name=parameter.name)


def set_value(
    parameter: Parameter, tensor: ir.TensorProtocol, value: ir.Value | None = None
) -> ir.Value:
    """Make `tensor` the parameter's value; returns the value that now holds it.

    Args:
        parameter: The parameter.
        tensor: Its values.
        value: What stands for it in a copy of the model; `parameter.value` where None.
    """
    value = value or parameter.value
    if parameter.holder is Holder.INITIALIZER:
        value.const_value = tensor
        return value
    if parameter.holder is Holder.INPUT:
        value.const_value = tensor
        assert value.graph is not None
        value.graph.register_initializer(value)
        return value
    node = value.producer()
    assert node is not None and isinstance(node.graph, ir.Graph)
    graph = node.graph
    held = ir.Value(
        name=value.name,
        shape=ir.Shape(parameter.shape),
        type=ir.TensorType(parameter.dtype),
        const_value=tensor,
        doc_string=value.doc_string,
        metadata_props=dict(value.metadata_props),
    )
    value.replace_all_uses_with(held, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    graph.register_initializer(held)
    return held


def needs_ir_version_4(model: ir.Model) -> bool:
    """Before IR version 4 every initializer has to be a graph input too."""
    return model.ir_version < 4 and any(
        not value.is_graph_input() for value in model.graph.initializers.values()
    )


def scale(draws: Mapping[int, Draw], factors: Mapping[int, float]) -> dict[int, Draw]:
    """Multiply what is drawn; tied parameters share a draw, and the factor of the first."""
    scaled: dict[Draw, Draw] = {}
    for index, factor in factors.items():
        scaled.setdefault(draws[index], partial(_times, draws[index], np.float32(factor)))
    return {index: scaled.get(draw, draw) for index, draw in draws.items()}


def _times(draw: Draw, factor: np.float32, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return (draw(np.float32) * factor).astype(dtype, copy=False)


def complete_copy(
    model: ir.Model, reading: Reading, plan: Plan, draws: Mapping[int, Draw]
) -> ir.Model:
    """A copy of the model in which every tensor that is set has its value."""
    copy = copy_model(model)
    values = {
        value.name: value
        for graph in copy.graphs()
        for value in (
            *graph.inputs,
            *graph.initializers.values(),
            *(output for node in graph for output in node.outputs),
        )
    }
    for index, parameter in enumerate(reading.parameters):
        if parameter.name not in values:
            continue
        if index in draws:
            tensor = lazy(parameter, draws[index], cache=False)
            set_value(parameter, tensor, values[parameter.name])
        elif plan.outcomes[index].status is Status.CALIBRATED:
            set_value(parameter, statistic(parameter), values[parameter.name])
    if needs_ir_version_4(copy):
        copy.ir_version = 4
    return copy
