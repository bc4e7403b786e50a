"""Keep what a file says of its values, where onnx-ir would add to it or drop it.

onnx-ir writes a value_info entry for every initializer, drops entries of graph inputs, graph
outputs and unknown names, and can't hold map types (scikit-learn's ZipMap) at all. What a file
had is therefore remembered in the metadata stores of graphs and values, which are never
serialised, and restored when the model is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

_DECLARED = "onnx_ghn.declared"
"""In `ir.Value.meta`: the initializer has a value_info entry in the file."""
_DROPPED = "onnx_ghn.value_info"
"""In `ir.Graph.meta`: the entries that onnx-ir drops."""
_TYPE = "onnx_ghn.type"
"""In `ir.Value.meta`: the TypeProto that onnx-ir can't hold."""

_ADDED = "onnx_ghn.entry"
"""In `ir.Value.metadata_props`: the entry is there for metadata only, the file had none before."""

_FOREIGN = ("map_type", "opaque_type")


def detach_types(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Take the types that onnx-ir can't hold off the main graph's inputs and outputs.

    Returns:
        Name of the value to its type, for `remember`.
    """
    detached: dict[str, onnx.TypeProto] = {}
    for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if _is_foreign(info.type):
            detached[info.name] = onnx.TypeProto()
            detached[info.name].CopyFrom(info.type)
            info.ClearField("type")
    return detached


def remember(
    proto: onnx.ModelProto, model: ir.Model, detached: Mapping[str, onnx.TypeProto]
) -> None:
    """Note in a model what its file says and onnx-ir does not hold."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "") in detached:
            value.meta[_TYPE] = detached[value.name or ""]
    for graph_proto, graph in _paired_graphs(proto.graph, model.graph):
        held = {output for node in graph_proto.node for output in node.output}
        held -= {info.name for info in graph_proto.output}
        dropped = []
        for info in graph_proto.value_info:
            initializer = graph.initializers.get(info.name)
            if initializer is not None and not initializer.is_graph_input():
                initializer.meta[_DECLARED] = _ADDED not in initializer.metadata_props
            elif info.name not in held:
                dropped.append(info)
        if dropped:
            graph.meta[_DROPPED] = dropped


def note_added_entry(value: ir.Value) -> None:
    """Note in the metadata of an initializer whether its value_info entry exists for that only.

    With the metadata gone (`drop_added_entry`), the entry goes, too.
    """
    if not value.meta.get(_DECLARED) and not value.is_graph_input():
        value.metadata_props[_ADDED] = "added for metadata"


def drop_added_entry(value: ir.Value) -> None:
    """Take back `note_added_entry`."""
    value.metadata_props.pop(_ADDED, None)


def restore(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Make a serialised model's value_info that of the file it came from."""
    for graph_proto, graph in _paired_graphs(proto.graph, model.graph):
        redundant = {name for name, value in graph.initializers.items() if _is_redundant(value)}
        kept = [info for info in graph_proto.value_info if info.name not in redundant]
        names = {info.name for info in kept}
        kept += [info for info in graph.meta.get(_DROPPED, ()) if info.name not in names]
        if len(kept) != len(graph_proto.value_info) or redundant:
            del graph_proto.value_info[:]
            graph_proto.value_info.extend(kept)
    for infos, values in (
        (proto.graph.input, model.graph.inputs),
        (proto.graph.output, model.graph.outputs),
    ):
        for info, value in zip(infos, values, strict=True):
            if _TYPE in value.meta:
                info.type.CopyFrom(value.meta[_TYPE])


def _is_foreign(type_proto: onnx.TypeProto) -> bool:
    kind = type_proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return _is_foreign(getattr(type_proto, kind).elem_type)
    return kind in _FOREIGN


def _is_redundant(value: ir.Value) -> bool:
    """Whether an entry for this initializer would only repeat it."""
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
