"""A hash of a network's structure, to tell architectures apart and to keep held-out ones out."""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def graph_key(model: ir.Model) -> str:
    """Hash of the operators, their attributes, their connections and the shapes of weights.

    Names, values, the order of initializers and the size of the images play no role: of a
    position table only its width counts. Networks whose nodes are stored in another order have
    another key.
    """
    graph = model.graph
    numbers: dict[ir.Value, str] = {value: f"i{k}" for k, value in enumerate(graph.inputs)}
    digest = hashlib.sha256()
    for position, node in enumerate(graph):
        parts = [node.domain, node.op_type]
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if not isinstance(attribute, ir.Attr) or attribute.type in _GRAPHS:
                continue
            parts.append(f"{name}={attribute.value}")
        for value in node.inputs:
            parts.append("-" if value is None else numbers.get(value) or _weight(value))
        for index, value in enumerate(node.outputs):
            numbers[value] = f"{position}.{index}"
        digest.update("\t".join(parts).encode() + b"\n")
    digest.update(" ".join(numbers.get(value, "") for value in graph.outputs).encode())
    return digest.hexdigest()[:16]


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR)


def _weight(value: ir.Value) -> str:
    """What counts of an initializer: its shape, or of few integers their values."""
    tensor = value.const_value
    if tensor is not None and value.dtype == ir.DataType.INT64 and tensor.size <= 16:
        return str(tensor.numpy().tolist())
    shape = [] if value.shape is None else [str(axis) for axis in value.shape]
    if len(shape) == 3 and shape[0] == "1":
        shape[1] = "*"  # tokens: one for each patch of the image
    return "x".join(shape)
