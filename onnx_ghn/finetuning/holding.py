"""Makes every tensor that training moves an initializer of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_ghn.drawing import set_value
from onnx_ghn.errors import ModelError
from onnx_ghn.read.dataflow import DataFlow, trace
from onnx_ghn.read.parameter import Holder, Parameter

MEAN, VARIANCE = 3, 4
"""Inputs of BatchNormalization that hold its running statistics."""


@dataclass(frozen=True)
class Layer:
    """The running statistics of one BatchNormalization, or of several that share all four tensors.

    Attributes:
        node: Name of the node, or of its output where it has none.
        mean: Name of the running mean.
        variance: Name of the running variance.
    """

    node: str
    mean: str
    variance: str


def hold_all(
    model: ir.Model, parameters: Sequence[Parameter], names: Collection[str]
) -> tuple[dict[str, ir.Value], list[str]]:
    """Give each of the named tensors an initializer of its own name.

    An Identity by which an exporter merged equal tensors is replaced wherever the tensor before
    or behind it moves: they will differ from now on.

    Args:
        model: Changed in place where a Constant or Identity node gives a tensor.
        parameters: What the reader says of its tensors.
        names: Those that move.

    Returns:
        The initializers by name, and what was changed, for the report.

    Raises:
        ModelError: A tensor has no value.
    """
    held: dict[str, ir.Value] = {}
    replaced: dict[Holder, int] = {}
    for parameter in parameters:
        moves = parameter.name in names
        behind = parameter.holder is Holder.IDENTITY and parameter.source in names
        if not moves and not behind:
            continue
        if parameter.holder is Holder.INITIALIZER:
            held[parameter.name] = parameter.value
            continue
        tensor = _tensor(model, parameter)
        held[parameter.name] = set_value(parameter, tensor)
        replaced[parameter.holder] = replaced.get(parameter.holder, 0) + 1
    changes = [
        f"{count} {holder} node(s) replaced by initializers of the same name"
        for holder, count in replaced.items()
    ]
    if replaced and model.ir_version < 4:
        # Before version 4 an initializer has to be an input.
        changes.append(f"IR version raised from {model.ir_version} to 4")
        model.ir_version = 4
    return held, changes


def _tensor(model: ir.Model, parameter: Parameter) -> ir.TensorProtocol:
    value: ir.Value | None = parameter.value
    if parameter.holder is Holder.IDENTITY and parameter.source is not None:
        value = model.graph.initializers.get(parameter.source, parameter.value)
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ModelError(f"tensor {parameter.name!r} has no value that could be trained")
    return tensor


def normalisation_layers(
    model: ir.Model, parameters: Mapping[str, Parameter]
) -> tuple[list[Layer], list[str], list[str]]:
    """Find the BatchNormalizations that normalise data, and part what equal tensors were merged.

    Where a running statistic is also something else (another layer's statistics, a bias: equal
    when the model was exported, so that the exporter kept one of them), it gets an initializer
    of its own.

    Args:
        model: Changed in place where statistics were merged.
        parameters: The reader's parameters by name.

    Returns:
        The layers; what was changed; and names of the nodes whose statistics can't be stored.
    """
    flow = trace(model)
    layers: dict[tuple[ir.Value | None, ...], Layer] = {}
    changes: list[str] = []
    left: list[str] = []
    for node in flow.nodes:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        if not flow.is_data(node.inputs[0]):
            continue  # normalises a weight
        label = node.name or node.outputs[0].name or ""
        key = tuple(node.inputs[1:5])
        if key in layers:
            continue
        names = []
        for slot in (MEAN, VARIANCE):
            value = node.inputs[slot]
            if value is not None and _is_merged(node, slot, value):
                value = _part(model, flow, node, slot, value)
                if value is not None:
                    changes.append(f"{value.name!r} parted from {key[slot - 1].name!r}")  # type: ignore[union-attr]
            name = None if value is None else flow.original(flow.resolve(value)).name
            stored = name is not None and (name in parameters or name in model.graph.initializers)
            names.append(name if stored else None)
        if None in names:
            left.append(label)
        else:
            layers[key] = Layer(label, str(names[0]), str(names[1]))
    return list(layers.values()), changes, left


def _is_merged(node: ir.Node, slot: int, value: ir.Value) -> bool:
    """Whether the value is anything but this statistic of this layer."""
    return any(
        other.op_type != "Identity"
        and (
            other.op_type != "BatchNormalization"
            or index != slot
            or other.inputs[1:5] != node.inputs[1:5]
        )
        for other, index in value.uses()
    )


def _part(
    model: ir.Model, flow: DataFlow, node: ir.Node, slot: int, value: ir.Value
) -> ir.Value | None:
    """Give the statistic of the layers that share it a copy of its own; None where none can."""
    tensor = ir.convenience.get_const_tensor(value)
    if flow.model is not model or tensor is None or node.graph is not model.graph:
        return None
    kind = "mean" if slot == MEAN else "variance"
    name = f"{node.outputs[0].name}/running_{kind}"
    while name in model.graph.initializers:
        name += "_"
    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=tensor)
    model.graph.register_initializer(copy)
    before = tuple(node.inputs[1:5])
    for other in [use.node for use in value.uses()]:
        if other.op_type == "BatchNormalization" and tuple(other.inputs[1:5]) == before:
            other.replace_input_with(slot, copy)
    return copy
