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


def in_data_flow_order(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of a graph, each after those that it reads from; otherwise as in the file.

    Converters leave files behind whose nodes are out of order, and ONNX Runtime runs them.
    """
    order: list[ir.Node] = []
    begun: set[ir.Node] = set()
    for first in graph:
        stack = [] if first in begun else [(first, _producers(first, graph))]
        begun.add(first)
        while stack:
            node, sources = stack[-1]
            source = next((s for s in sources if s not in begun), None)
            if source is None:
                order.append(node)
                stack.pop()
            else:
                begun.add(source)
                stack.append((source, _producers(source, graph)))
    return order


def _producers(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of `graph` that a node, or what it holds, reads from."""
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and producer.graph is graph:
            yield producer
    for body in bodies(node):
        for inner in body:
            yield from _producers(inner, graph)


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
