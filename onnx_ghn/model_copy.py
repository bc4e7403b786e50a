"""A copy of a model that shares its tensors: cheap, and safe to rewrite."""

from __future__ import annotations

import onnx_ir as ir


def copy_model(model: ir.Model) -> ir.Model:
    """Copy graphs, nodes and values, share the tensors, and sort the nodes.

    `ir.Model.clone` refuses a graph in which a node stands before one that it depends on, as
    some converters leave it. ONNX Runtime runs such files.

    Raises:
        ValueError: The graph has a cycle.
    """
    graph = model.graph.clone(allow_outer_scope_values=True)
    # A value that was copied after its use was taken for one of an outer scope: still the
    # original's.
    copies = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    copies |= {value.name: value for node in graph for value in node.outputs}
    originals = {
        value
        for node in model.graph.all_nodes()
        for value in (*node.inputs, *node.outputs)
        if value is not None
    }
    for node in graph.all_nodes():
        for index, value in enumerate(node.inputs):
            if value in originals:
                node.replace_input_with(index, copies[value.name])
    graph.sort()
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=[function.clone() for function in model.functions.values()],
        metadata_props=dict(model.metadata_props),
    )
