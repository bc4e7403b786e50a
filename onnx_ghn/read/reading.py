"""Reading a model: every float tensor with its verdict, and the graph of canonical nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_ghn.read.canonical import build_graph
from onnx_ghn.read.dataflow import DataFlow, trace
from onnx_ghn.read.graph import GhnGraph
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
    """

    parameters: tuple[Parameter, ...]
    graph: GhnGraph | None
    warnings: tuple[str, ...] = ()
    graph_reason: str = ""


def read_model(model: ir.Model) -> Reading:
    """Read a model; it is not changed, and no weight bytes are needed.

    Raises:
        ModelError: The model can't be followed, see `trace`.
    """
    flow = trace(model)
    parameters = judge(model, flow)
    warnings = tuple(_warnings(flow, parameters))
    graph = build_graph(flow, parameters)
    if len(graph) > MAX_NODES:
        reason = f"graph too large: {len(graph)} nodes, at most {MAX_NODES}"
        return Reading(parameters, None, warnings, reason)
    return Reading(parameters, graph, warnings)


def _warnings(flow: DataFlow, parameters: Sequence[Parameter]) -> list[str]:
    found = []
    roles = [parameter.role for parameter in parameters]
    convolutions = [p for p in parameters if p.role is Role.CONV and p.learnable]
    with_bias = sum(
        len(site.node.inputs) > 2 and site.node.inputs[2] is not None
        for parameter in convolutions
        for site in parameter.sites[:1]
    )
    if (
        len(convolutions) >= MIN_CONVOLUTIONS == MIN_CONVOLUTIONS
        and with_bias == len(convolutions)
        and Role.NORM_SCALE not in roles
    ):
        found.append(
            "every convolution has a bias and there is no normalisation: the exporter may have "
            "folded BatchNorm away; export in training mode to keep it"
        )
    shared = [p for p in parameters if p.role is Role.NORM_SCALE and _norm_layers(p) > 1]
    if shared:
        found.append(
            f"{len(shared)} norm scale(s) serve several layers, as {shared[0].name!r} does: an "
            "exporter may have merged equal tensors; they stay one parameter"
        )
    return found


def _norm_layers(parameter: Parameter) -> int:
    return len({site.node for site in parameter.sites})
