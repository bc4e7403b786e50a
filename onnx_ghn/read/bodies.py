"""Graphs inside nodes: the branches of If, the bodies of Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and its bodies, in a fixed order."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        for body in bodies(node):
            yield from values(body)
        yield from node.outputs


def is_same(returned: ir.Value, formal: ir.Value) -> bool:
    """Whether a body returns its input unchanged."""
    for _ in range(8):
        if returned is formal:
            return True
        node = returned.producer()
        if node is None or node.op_type != "Identity" or node.inputs[0] is None:
            return False
        returned = node.inputs[0]
    return False
