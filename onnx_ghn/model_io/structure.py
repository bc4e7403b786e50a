"""Is a parsed model a valid graph that onnx-ir can hold without losing anything?

Works on the protobuf, before any object is built from it, so that every refusal can name the
node, and that nothing invalid is repaired or dropped silently. Nodes that are not in topological
order are let through where no cycle is behind it: some converters write such files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx
import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.model_io.schema import check_node, describe
from onnx_ghn.model_io.tensors import quote
from onnx_ghn.model_io.wire import MAX_NODES

MIN_IR_VERSION = 3
"""Before it, models had no opset imports."""

MAX_FUNCTIONS = 1000
"""Putting their bodies in place takes time that grows with the square of their number."""

FunctionKey = tuple[str, str, str]
"""Domain, name, overload."""

_ELEMENT_TYPES = frozenset(int(dtype) for dtype in ir.DataType)

Scope = set[str]
"""Names of the values that a graph defines."""


def check_structure(model: onnx.ModelProto) -> None:
    """Check everything of a model but its tensors.

    Raises:
        ModelError: The first problem found, naming the node.
    """
    _check_header(model)
    functions = _functions(model)
    opsets = _opsets(model.opset_import, "the model")
    _check_graph(model.graph, [], opsets, functions, inside_function=False)
    for function in model.functions:
        _check_function(function, functions)
    _check_calls(model, functions)


def tensors_of(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of a model, at any depth, and whether it is an initializer."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    for tensor in graph.initializer:
        yield tensor, True
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(
    nodes: Sequence[onnx.NodeProto],
) -> Iterator[tuple[onnx.TensorProto, bool]]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
                yield attribute.t, False
            for tensor in attribute.tensors:
                yield tensor, False
            for graph in _subgraphs(attribute):
                yield from _tensors_of_graph(graph)


def _check_header(model: onnx.ModelProto) -> None:
    if not model.HasField("ir_version") or not model.HasField("graph"):
        raise ModelError("not an ONNX model: it has no IR version or no graph")
    if not MIN_IR_VERSION <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"IR version {model.ir_version} is unknown; versions {MIN_IR_VERSION} to "
            f"{onnx.IR_VERSION} can be read (a newer one needs a newer onnx package)"
        )
    if model.training_info:
        raise ModelError("it holds training_info, which would be lost: export it for inference")
    if not model.graph.node:
        raise ModelError("the graph is empty: it has no nodes")
    _check_texts("the model", model.producer_name, model.producer_version, model.domain)
    _check_texts("the model's documentation", model.doc_string)
    _check_metadata("the model", model.metadata_props)


def _functions(model: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    functions: dict[FunctionKey, onnx.FunctionProto] = {}
    if len(model.functions) > MAX_FUNCTIONS:
        raise ModelError(f"it defines more than {MAX_FUNCTIONS} functions")
    for function in model.functions:
        key = (_domain(function.domain), function.name, function.overload)
        if not function.name:
            raise ModelError("a function has no name")
        if key in functions:
            raise ModelError(f"function {quote(function.name)} is defined twice")
        functions[key] = function
    return functions


def _opsets(imports: Sequence[onnx.OperatorSetIdProto], owner: str) -> dict[str, int]:
    """Version of each imported domain; ai.onnx is ""."""
    domains: dict[str, int] = {}
    for opset in imports:
        _check_texts(f"an opset import of {owner}", opset.domain)
        domain = _domain(opset.domain)
        if domains.get(domain, opset.version) != opset.version:  # skl2onnx says the same twice
            raise ModelError(f"{owner} imports two versions of the domain {quote(opset.domain)}")
        newest = onnx.defs.onnx_opset_version()
        if opset.version < 1 or (not domain and opset.version > newest):
            raise ModelError(
                f"{owner} imports opset {opset.version} of {quote(opset.domain or 'ai.onnx')}, "
                f"which is unknown; the newest known one of ai.onnx is {newest}"
            )
        domains[domain] = opset.version
    if not domains:
        raise ModelError(f"{owner} imports no opset: the file is damaged")
    return domains


def _check_graph(
    graph: onnx.GraphProto,
    enclosing: list[Scope],
    opsets: dict[str, int],
    functions: Collection[FunctionKey],
    *,
    inside_function: bool,
) -> set[str]:
    """Check a graph and its subgraphs; returns the names it takes from the enclosing scopes."""
    _check_texts("the graph", graph.name, graph.doc_string)
    _check_metadata("the graph", graph.metadata_props)
    if graph.sparse_initializer:
        raise ModelError("it holds sparse initializers, which would be lost: make them dense")
    scope: Scope = set()
    for info in graph.input:
        _define(info.name, scope, "the graph's inputs")
    initializers: set[str] = set()
    for tensor in graph.initializer:
        _define(tensor.name, initializers, "the initializers")
        _check_texts("an initializer", tensor.doc_string)
        _check_metadata("an initializer", tensor.metadata_props)
    scope |= initializers
    for info in (*graph.input, *graph.output, *graph.value_info):
        _check_value_info(info)
    captured = _check_nodes(
        graph.node, scope, enclosing, opsets, functions, inside_function=inside_function
    )
    for info in graph.output:
        if info.name not in scope:
            if not any(info.name in outer for outer in enclosing):
                raise ModelError(f"nothing produces the graph's output {quote(info.name)}")
            captured.add(info.name)
    return captured


def _check_nodes(
    nodes: Sequence[onnx.NodeProto],
    scope: Scope,
    enclosing: list[Scope],
    opsets: dict[str, int],
    functions: Collection[FunctionKey],
    *,
    inside_function: bool,
) -> set[str]:
    """Check the nodes of one graph and add their outputs to its scope.

    Returns:
        The names they take from the enclosing scopes.
    """
    available = set(scope)
    for node in nodes:
        where = describe(node)
        _check_texts(where, node.name, node.op_type, node.domain, node.doc_string)
        _check_metadata(where, node.metadata_props)
        if not node.op_type:
            raise ModelError(f"{where} has no operator")
        if _domain(node.domain) not in opsets:
            raise ModelError(
                f"{where} is of the domain {quote(node.domain)}, for which the model "
                "imports no opset"
            )
        among = f"the outputs of {where} and what comes before it"
        for output in node.output:
            if output:
                _define(output, scope, among)
    captured: set[str] = set()
    reads: list[set[str]] = []
    ordered = True
    for node in nodes:
        names = {name for name in node.input if name}
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                names |= _check_graph(
                    graph, [*enclosing, scope], opsets, functions, inside_function=inside_function
                )
        _check_attributes(node, inside_function=inside_function)
        check_node(node, opsets)
        for name in sorted(names - scope):
            if not any(name in outer for outer in enclosing):
                raise ModelError(f"{describe(node)} reads {quote(name)}, which nothing produces")
            captured.add(name)
        reads.append(names & scope)
        ordered = ordered and names & scope <= available
        available.update(node.output)
    if not ordered:
        _check_acyclic(nodes, reads)
    return captured


def _check_acyclic(nodes: Sequence[onnx.NodeProto], reads: list[set[str]]) -> None:
    """Kahn's algorithm, for the rare graph whose nodes are not in order."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{producer[name] for name in names if name in producer} for names in reads]
    consumers: dict[int, list[int]] = {}
    for index, sources in enumerate(needs):
        for source in sources:
            consumers.setdefault(source, []).append(index)
    waiting = [len(sources) for sources in needs]
    ready = [index for index, count in enumerate(waiting) if not count]
    done = 0
    while ready:
        done += 1
        for consumer in consumers.get(ready.pop(), ()):
            waiting[consumer] -= 1
            if not waiting[consumer]:
                ready.append(consumer)
    if done < len(nodes):
        index = next(index for index, count in enumerate(waiting) if count)
        raise ModelError(f"{describe(nodes[index])} lies in or behind a cycle of the graph")


def _check_attributes(node: onnx.NodeProto, *, inside_function: bool) -> None:
    kinds = onnx.AttributeProto
    seen: set[str] = set()
    owner = describe(node)
    among = f"the attributes of {owner}"
    for attribute in node.attribute:
        where = f"attribute {quote(attribute.name)} of {owner}"
        _check_texts(where, attribute.doc_string)
        _define(attribute.name, seen, among)
        if attribute.ref_attr_name:
            if not inside_function:
                raise ModelError(f"{where} refers to a function's attribute outside of a function")
            continue
        if attribute.type == kinds.UNDEFINED:
            raise ModelError(f"{where} has no type")
        if attribute.type in (kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS):
            raise ModelError(f"{where} is a sparse tensor, which would be lost: make it dense")
        if (attribute.type, attribute.HasField("t")) == (kinds.TENSOR, False) or (
            attribute.type,
            attribute.HasField("g"),
        ) == (kinds.GRAPH, False):
            raise ModelError(f"{where} has no value")
        if attribute.type == kinds.STRINGS:
            for text in attribute.strings:
                _decode(text, where)
        if attribute.type == kinds.TYPE_PROTO:
            _check_type(attribute.tp, where)
        for type_proto in attribute.type_protos:
            _check_type(type_proto, where)


def _check_function(
    function: onnx.FunctionProto, functions: dict[FunctionKey, onnx.FunctionProto]
) -> None:
    name = f"function {quote(function.name)}"
    _check_texts(name, function.name, function.domain, function.overload, function.doc_string)
    _check_metadata(name, function.metadata_props)
    scope: Scope = set()
    for formal in function.input:
        _define(formal, scope, f"the inputs of {name}")
    for info in function.value_info:
        _check_value_info(info)
    opsets = _opsets(function.opset_import, name)
    try:
        _check_nodes(function.node, scope, [], opsets, functions, inside_function=True)
        for output in function.output:
            if output not in scope:
                raise ModelError(f"nothing produces the output {quote(output)}")
    except ModelError as error:
        raise ModelError(f"in {name}: {error}") from None


def _check_calls(model: onnx.ModelProto, functions: dict[FunctionKey, onnx.FunctionProto]) -> None:
    """No function may call itself, and putting all bodies in place must not explode.

    Thirty functions that call the next one twice make a graph of a billion nodes.
    """
    sizes: dict[FunctionKey, int] = {}
    for start in functions:
        # Depth-first without recursion: a chain of calls may be as long as the file likes.
        path: dict[FunctionKey, Iterator[FunctionKey]] = {}
        if start not in sizes:
            path[start] = _called(functions[start].node)
        while path:
            current, remaining = next(reversed(path.items()))
            called = next((key for key in remaining if key in functions and key not in sizes), None)
            if called is None:
                sizes[current] = sum(sizes.get(key, 1) for key in _called(functions[current].node))
                del path[current]
            elif called in path:
                raise ModelError(f"function {quote(called[1])} calls itself")
            else:
                path[called] = _called(functions[called].node)
    if sum(sizes.get(key, 1) for key in _called(model.graph.node)) > MAX_NODES:
        raise ModelError(f"its functions expand to more than {MAX_NODES} nodes")


def _called(nodes: Sequence[onnx.NodeProto]) -> Iterator[FunctionKey]:
    for node in nodes:
        yield _domain(node.domain), node.op_type, node.overload
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                yield from _called(graph.node)


def _check_value_info(info: onnx.ValueInfoProto) -> None:
    where = f"value {quote(info.name)}"
    _check_texts(where, info.name, info.doc_string)
    _check_metadata(where, info.metadata_props)
    if info.HasField("type"):
        _check_type(info.type, where)


def _check_type(type_proto: onnx.TypeProto, where: str) -> None:
    _check_texts(f"the type of {where}", type_proto.denotation)
    kind = type_proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        element = getattr(type_proto, kind).elem_type
        if element.WhichOneof("value") is None:
            raise ModelError(f"{where} is a {kind.removesuffix('_type')} of unknown elements")
        _check_type(element, where)
    elif kind in ("tensor_type", "sparse_tensor_type"):
        tensor_type = getattr(type_proto, kind)
        if tensor_type.elem_type not in _ELEMENT_TYPES:
            raise ModelError(f"{where} has the unknown element type {tensor_type.elem_type}")
        for dimension in tensor_type.shape.dim:
            _check_texts(f"the shape of {where}", dimension.dim_param, dimension.denotation)
            if dimension.dim_value < 0:
                raise ModelError(f"{where} has the negative dimension {dimension.dim_value}")


def _check_metadata(where: str, entries: Sequence[onnx.StringStringEntryProto]) -> None:
    for entry in entries:
        _check_texts(f"the metadata of {where}", entry.key, entry.value)


def _check_texts(where: str, *texts: str | bytes) -> None:
    """The parser hands text that is not UTF-8 out as bytes."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{where} holds text that is not UTF-8: {quote(text)}")


def _decode(text: bytes, where: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{where} holds text that is not UTF-8: {quote(text)}") from None


def _define(name: str, names: set[str], where: str) -> None:
    """Add a name that has to be new."""
    _check_texts(where, name)
    if not name:
        raise ModelError(f"one of {where} has no name")
    if name in names:
        raise ModelError(f"the name {quote(name)} occurs twice among {where}")
    names.add(name)


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
