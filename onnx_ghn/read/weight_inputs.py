"""Weights that are inputs of the graph, in files whose weights were taken out.

Such a file stores no kernel or matrix at all. Its inputs of static shape that stand in the slots
of layers are the weights; with at least one of them certain, so are the vectors and tables that
meet the layers' outputs. A file that stores matrices takes data by its inputs, wherever they go:
a cache of keys, the features of a template, an adjacency.
"""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

from onnx_ghn.read import slots
from onnx_ghn.read.constants import Constants, root_tensor
from onnx_ghn.read.parameter import Site


class Flow(Protocol):
    """What these rules ask of the data flow, which is still being traced."""

    constants: Constants

    def uses(self, value: ir.Value) -> list[Site]:
        """The nodes that read a value, also inside bodies to which it is passed."""

    def producer(self, value: ir.Value | None) -> ir.Node | None:
        """The node that computes a value, seen through the borders of bodies."""


def feeds_slot(flow: Flow, value: ir.Value, depth: int = 0) -> bool:
    """Whether a value enters a weight slot, directly or through nodes that only rearrange it."""
    for site in flow.uses(value):
        if slots.find(site.node, site.index) is not None:
            return True
        if (
            site.index == 0
            and depth < 8
            and site.node.op_type in slots.REARRANGING
            and feeds_slot(flow, site.node.outputs[0], depth + 1)
        ):
            return True
    return False


def scales_norm(flow: Flow, value: ir.Value, depth: int = 0) -> bool:
    """Whether a value is the scale or shift that Caffe's exporters put after a BatchNormalization.

    Those are Mul and Add nodes of their own, which take the vector through an Unsqueeze.
    """
    for site in flow.uses(value):
        node = site.node
        if site.index == 0 and depth < 8 and node.op_type in slots.REARRANGING:
            if scales_norm(flow, node.outputs[0], depth + 1):
                return True
        elif node.op_type in ("Mul", "Add") and len(node.inputs) == 2:
            before = flow.producer(node.inputs[1 - site.index])
            if node.op_type == "Add" and before is not None and before.op_type == "Mul":
                before = flow.producer(before.inputs[0])
            if before is not None and before.op_type == "BatchNormalization":
                return True
    return False


def weight_inputs(flow: Flow, graph: ir.Graph) -> list[ir.Value]:
    """The inputs of `graph` that are weights."""
    free = [
        value
        for value in graph.inputs
        if not value.is_initializer()
        and value.dtype in slots.FLOAT_TYPES
        and flow.constants.shape(value) is not None
    ]
    if not free or len(free) == len(graph.inputs) == 1 or _stores_matrices(flow, graph):
        return []
    if not any(_is_certain(flow, value) for value in free):
        return []
    return [value for value in free if feeds_slot(flow, value) or _joins_layers(flow, value)]


def _stores_matrices(flow: Flow, graph: ir.Graph) -> bool:
    """Whether an initializer or Constant node fills the slot of a kernel or matrix."""
    for node in graph:
        for index, value in enumerate(node.inputs):
            slot = slots.find(node, index)
            if slot is None or slot.form not in slots.MATRICES or value is None:
                continue
            if root_tensor(_root(value)) is not None:
                return True
    return False


def _root(value: ir.Value) -> ir.Value:
    """What a value is made of, seen through what only rearranges it."""
    node = value.producer()
    while node is not None and node.op_type in slots.REARRANGING and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _is_certain(flow: Flow, value: ir.Value) -> bool:
    """Whether an input is surely a weight: a kernel, or a matrix behind a computed operand."""
    for site in _slot_sites(flow, value):
        slot = slots.find(site[0], site[1])
        if slot is None or slot.form not in slots.MATRICES:
            continue
        if slot.form in (slots.Form.KERNEL, slots.Form.KERNEL_TRANSPOSED):
            return True
        shape = flow.constants.shape(value)
        data = site[0].inputs[0]
        bare = data is None or _root(data).is_graph_input()
        if shape is not None and len(shape) == 2 and not bare:
            return True
    return False


def _slot_sites(flow: Flow, value: ir.Value, depth: int = 0) -> list[tuple[ir.Node, int]]:
    sites = []
    for site in flow.uses(value):
        if slots.find(site.node, site.index) is not None:
            sites.append((site.node, site.index))
        elif site.index == 0 and depth < 8 and site.node.op_type in slots.REARRANGING:
            sites.extend(_slot_sites(flow, site.node.outputs[0], depth + 1))
    return sites


def _joins_layers(flow: Flow, value: ir.Value) -> bool:
    """Whether an input is a vector that meets computed data, or a table that is indexed."""
    shape = flow.constants.shape(value)
    sites = flow.uses(value)
    if not sites or shape is None:
        return False
    if len(shape) == 2 and all(s.node.op_type == "Gather" and s.index == 0 for s in sites):
        return True
    if len(shape) != 1:
        return False
    for site in sites:
        others = [v for k, v in enumerate(site.node.inputs) if k != site.index and v is not None]
        if site.node.op_type not in ("Add", "Mul") or _root(others[0]).is_graph_input():
            return False
    return True
