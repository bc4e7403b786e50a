"""Keep a file's value_info as it was: onnx-ir writes an entry for every initializer."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

_DECLARED = "onnx_ghn.declared"
"""Key in `ir.Value.meta`; memory only."""


def mark_declared(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Remember which initializers have a value_info entry in the file."""
    for graph_proto, graph in _paired_graphs(proto.graph, model.graph):
        for info in graph_proto.value_info:
            value = graph.initializers.get(info.name)
            if value is not None:
                value.meta[_DECLARED] = True


def drop_undeclared(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Remove from a serialised model the entries that only repeat an initializer."""
    for graph_proto, graph in _paired_graphs(proto.graph, model.graph):
        redundant = {name for name, value in graph.initializers.items() if _is_redundant(value)}
        if not redundant:
            continue
        kept = [info for info in graph_proto.value_info if info.name not in redundant]
        del graph_proto.value_info[:]
        graph_proto.value_info.extend(kept)


def _is_redundant(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        tensor is not None
        and not value.meta.get(_DECLARED)
        and not value.metadata_props
        and not value.doc_string
        and value.type == ir.TensorType(tensor.dtype)
        and value.shape == tensor.shape
    )


def _paired_graphs(
    graph_proto: onnx.GraphProto, graph: ir.Graph
) -> Iterator[tuple[onnx.GraphProto, ir.Graph]]:
    """A graph and its subgraphs in both representations; nodes are in the same order in both."""
    yield graph_proto, graph
    for node_proto, node in zip(graph_proto.node, graph, strict=True):
        for attribute_proto in node_proto.attribute:
            if attribute_proto.type == onnx.AttributeProto.GRAPH:
                yield from _paired_graphs(
                    attribute_proto.g, node.attributes[attribute_proto.name].as_graph()
                )
            elif attribute_proto.type == onnx.AttributeProto.GRAPHS:
                graphs = node.attributes[attribute_proto.name].as_graphs()
                for nested_proto, nested in zip(attribute_proto.graphs, graphs, strict=True):
                    yield from _paired_graphs(nested_proto, nested)
