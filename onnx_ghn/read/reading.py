"""Reading a model: every float tensor with its verdict, and the graph of canonical nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnx_ghn.read.assembly import Node, assemble
from onnx_ghn.read.canonical import find_nodes
from onnx_ghn.read.channels import Channels
from onnx_ghn.read.dataflow import DataFlow, trace
from onnx_ghn.read.given import GivenRole
from onnx_ghn.read.graph import GhnGraph, Op
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.verdict import judge

MAX_NODES = 8192
"""A larger graph needs too much memory for its distances and for attention over all pairs."""

MIN_CONVOLUTIONS = 8
"""Fewer than this, all with a bias and none with a norm, are no sign of a folded BatchNorm."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the reader found in a model.

    Attributes:
        parameters: Every float tensor, learnable or not, in node order of first use.
        graph: The canonical graph; None where there is none.
        warnings: What the user should know of the model, each one sentence.
        graph_reason: Why there is no graph; "" where there is one.
        flow: The data flow that it comes from.
    """

    parameters: tuple[Parameter, ...]
    graph: GhnGraph | None
    warnings: tuple[str, ...]
    graph_reason: str
    flow: DataFlow

    @cached_property
    def channels(self) -> Channels:
        """The places of all channels, found when they are first asked for: few archives do."""
        return Channels(self.flow)


def read_model(model: ir.Model, given: Mapping[str, GivenRole] | None = None) -> Reading:
    """Read a model; it is not changed, and no weight bytes are needed.

    Args:
        model: The model.
        given: By name of the tensor, roles that the user gives. A name that is not among
            `Reading.parameters`, and a tensor that nothing can be stored in, is passed over.

    Raises:
        ModelError: The model can't be followed, see `trace`.
    """
    flow = trace(model)
    parameters = judge(model, flow, given)
    nodes = find_nodes(flow, parameters)
    warnings = tuple(_warnings(parameters, nodes))
    if len(nodes) > MAX_NODES:
        reason = f"graph too large: {len(nodes)} nodes, at most {MAX_NODES}"
        return Reading(parameters, None, warnings, reason, flow)
    return Reading(parameters, assemble(nodes), warnings, "", flow)


def build_graph(flow: DataFlow, parameters: Sequence[Parameter]) -> GhnGraph:
    """The canonical graph of a traced and judged model, whatever its size."""
    return assemble(find_nodes(flow, parameters))


def _warnings(parameters: Sequence[Parameter], nodes: Sequence[Node]) -> Iterator[str]:
    if _seems_folded(parameters, nodes):
        yield (
            "every convolution has a bias and there is no normalisation: the exporter may have "
            "folded BatchNorm away; export in training mode to keep it"
        )
    shared = [p for p in parameters if p.role is Role.NORM_SCALE and _norm_layers(p) > 1]
    if shared:
        yield (
            f"{len(shared)} norm scale(s) serve several layers, as {shared[0].name!r} does: an "
            "exporter may have merged equal tensors; they stay one parameter"
        )


def _seems_folded(parameters: Sequence[Parameter], nodes: Sequence[Node]) -> bool:
    """Whether a deep network has residual sums or depthwise layers, biases, and no norm.

    Networks from before BatchNorm (VGG, SqueezeNet) have biases too, but neither of the former.
    """
    convolutions = [p for p in parameters if p.role is Role.CONV and p.learnable]
    operators = {node.op for node in nodes}
    return (
        len(convolutions) >= MIN_CONVOLUTIONS
        and all(_has_bias(p.sites[0].node) for p in convolutions)
        and bool(operators & {Op.SUM, Op.SEP_CONV})
        and not operators & {Op.BN, Op.LN}
        and all(p.role is not Role.NORM_SCALE for p in parameters)
    )


def _has_bias(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and node.inputs[2] is not None


def _norm_layers(parameter: Parameter) -> int:
    return len({site.node for site in parameter.sites})
