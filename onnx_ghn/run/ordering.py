"""The nodes of a graph in the order of execution, and what its subgraphs read from outside."""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.run.registry import describe

HOLDS_SUBGRAPHS = frozenset({"If", "Loop", "Scan"})


def in_order(graph: ir.Graph) -> list[ir.Node]:
    """The nodes, each after what it reads; some tools write files where that is not so."""
    nodes = list(graph)
    read: set[ir.Value | None] = set()
    for node in nodes:
        read.update(node.inputs)
        if not read.isdisjoint(node.outputs):
            break
    else:
        return nodes
    ordered: dict[ir.Node, None] = {}
    begun: set[ir.Node] = set()
    pending = nodes[::-1]
    while pending:
        node = pending[-1]
        if node in ordered:
            pending.pop()
            continue
        before = [value.producer() for value in (*node.inputs, *captured_values(node)) if value]
        missing = [n for n in before if n and n.graph is graph and n not in ordered]
        if missing and node in begun:
            raise ModelError(f"{describe(node)} reads what depends on its own output")
        if missing:
            begun.add(node)
            pending += missing
        else:
            ordered[pending.pop()] = None
    return list(ordered)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Values of enclosing graphs that the subgraphs of a node read, in order of first use."""
    if node.op_type not in HOLDS_SUBGRAPHS:
        return []
    subgraphs = [
        attribute.as_graph()
        for attribute in node.attributes.values()
        if attribute.type is ir.AttributeType.GRAPH
    ]
    found: dict[ir.Value, None] = {}
    for graph in subgraphs:
        inside = {*graph.inputs, *graph.initializers.values()}
        for inner in graph:
            for value in (*inner.inputs, *captured_values(inner)):
                if value is not None and value not in inside:
                    found[value] = None
            inside.update(inner.outputs)
        found.update((value, None) for value in graph.outputs if value not in inside)
    return list(found)
