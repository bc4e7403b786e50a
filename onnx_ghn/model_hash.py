"""The identity of a model's graph, whatever the bytes of its tensors are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnx_ghn.model_io.tensors import holds_bytes


def model_sha256(model: ir.Model) -> str:
    """Hash of a model's graph without the bytes of its tensors.

    Covers operators, attributes, names of values, types and shapes. The same whether weights are
    there or not, and after initialisation: a Constant, a ConstantOfShape, random numbers and the
    Identity of a tensor count as the initializers that may replace them, and an input counts as
    an input, whether or not it has got an initializer.
    """
    functions = [
        [*map(str, identifier), *_body(function, {})]
        for identifier, function in sorted(model.functions.items())
    ]
    content = [sorted(model.opset_imports.items()), _body(model.graph, {}), functions]
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


_Type = list[Any] | None
"""Element type and shape."""


def _body(graph: ir.Graph | ir.Function, outer: Mapping[str, _Type]) -> list[Any]:
    inputs = [[value.name, _type_of(value)] for value in graph.inputs]
    known = {**outer, **{str(value.name): _type_of(value) for value in graph.inputs}}
    given = {value.name for value in graph.inputs}
    tensors: dict[str, _Type] = {}
    if isinstance(graph, ir.Graph):
        for value in graph.initializers.values():
            if value.name not in given:
                tensors[str(value.name)] = known[str(value.name)] = _type_of(value)
    nodes = []
    for node in graph:
        found = _stored(node, known)
        if found is not None:
            tensors[str(node.outputs[0].name)] = known[str(node.outputs[0].name)] = found
        else:
            nodes.append(_node(node, known))
    outputs = [value.name for value in graph.outputs]
    return [inputs, sorted(tensors.items()), nodes, outputs]


def _type_of(value: ir.Value) -> _Type:
    tensor = value.const_value
    shape = value.shape if tensor is None else tensor.shape
    dtype = value.dtype if tensor is None else tensor.dtype
    return [
        None if dtype is None else dtype.name,
        None if shape is None else [d if isinstance(d, int) else str(d) for d in shape],
    ]


def _stored(node: ir.Node, known: Mapping[str, _Type]) -> _Type:
    """Type and shape of what the node stores, None where it computes."""
    if node.domain not in ("", "ai.onnx"):
        return None
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Constant" and "value" in node.attributes:
        attribute = node.attributes["value"]
        return None if attribute.is_ref() else _tensor_type(attribute.as_tensor())
    if node.op_type == "Identity" and source is not None:
        return known.get(str(source.name))
    if node.op_type == "ConstantOfShape" and source is not None:
        sizes = _integers(source)
        value = node.attributes.get("value")
        if sizes is None or (value is not None and value.is_ref()):
            return None
        return ["FLOAT" if value is None else value.as_tensor().dtype.name, sizes]
    if node.op_type in ("RandomNormal", "RandomUniform"):
        shape, dtype = node.attributes.get("shape"), node.attributes.get("dtype")
        if shape is None or shape.is_ref() or (dtype is not None and dtype.is_ref()):
            return None
        number = ir.DataType.FLOAT.value if dtype is None else dtype.as_int()
        return [ir.DataType(number).name, list(shape.as_ints())]
    return None


def _integers(value: ir.Value) -> list[int] | None:
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant":
        attribute = producer.attributes.get("value")
        tensor = None if attribute is None or attribute.is_ref() else attribute.as_tensor()
    if tensor is None or not holds_bytes(tensor):
        return None
    return [int(size) for size in tensor.numpy().ravel()]


def _tensor_type(tensor: ir.TensorProtocol) -> list[Any]:
    return [tensor.dtype.name, [d if isinstance(d, int) else str(d) for d in tensor.shape]]


def _node(node: ir.Node, known: Mapping[str, _Type]) -> list[Any]:
    return [
        *(node.domain, node.op_type, node.overload),
        [None if value is None else value.name for value in node.inputs],
        [value.name for value in node.outputs],
        [[name, _attribute(node.attributes[name], known)] for name in sorted(node.attributes)],
    ]


def _attribute(attribute: ir.Attr, known: Mapping[str, _Type]) -> Any:
    kinds = ir.AttributeType
    if attribute.is_ref():
        return ["reference", attribute.ref_attr_name]
    value = attribute.value
    if attribute.type is kinds.TENSOR:
        return _tensor_type(value)
    if attribute.type is kinds.TENSORS:
        return [_tensor_type(tensor) for tensor in value]
    if attribute.type is kinds.GRAPH:
        return _body(value, known)
    if attribute.type is kinds.GRAPHS:
        return [_body(graph, known) for graph in value]
    if isinstance(value, (tuple, list)):
        return [repr(item) for item in value]
    return repr(value)
