"""Says what differs between two ONNX files beyond the values of initializers.

Initialisation may change values, and what is needed to hold one:

- a Constant, ConstantOfShape, Identity or Random* node becomes an initializer with the name of
  its output;
- a graph input gets an initializer;
- an IR version below 4 becomes 4;
- metadata whose keys start with `onnx_ghn.` is the tool's own provenance.

Everything else has to be the same: nodes in their order (operator, domain, names, attributes),
inputs, outputs, opsets, functions, metadata, value_info, documentation. Works on the protobuf
alone, so that it shares no code with what it checks.

    python tools/graph_diff.py BEFORE.onnx AFTER.onnx

Exit code 0: nothing else differs; 1: something does.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

HOLDERS = {
    "Constant",
    "ConstantOfShape",
    "Identity",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""Nodes that may become an initializer."""

PROVENANCE = "onnx_ghn."


@dataclass
class Difference:
    """What differs between two models.

    Attributes:
        refused: Differences that initialisation must not make.
        allowed: Those it may make, besides values.
        changed: Names of initializers whose stored tensor differs, or that are new.
    """

    refused: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def compare(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """The differences between a model and its initialised form that must not be."""
    return difference(a, b).refused


def difference(a: onnx.ModelProto, b: onnx.ModelProto) -> Difference:
    """All differences between a model and its initialised form."""
    found = Difference()
    if a.ir_version != b.ir_version:
        message = f"IR version {a.ir_version} became {b.ir_version}"
        raised = a.ir_version < 4 and b.ir_version == 4
        (found.allowed if raised else found.refused).append(message)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(a, name) != getattr(b, name):
            found.refused.append(f"{name} differs")
    _compare_opsets(a.opset_import, b.opset_import, found)
    _compare_metadata("model", a.metadata_props, b.metadata_props, found)
    for name in ("functions", "training_info", "configuration"):
        _compare_sequences(name, getattr(a, name), getattr(b, name), found)
    _compare_graphs(a.graph, b.graph, "graph", found)
    return found


def _compare_opsets(
    a: Sequence[onnx.OperatorSetIdProto],
    b: Sequence[onnx.OperatorSetIdProto],
    found: Difference,
) -> None:
    before, after = (dict.fromkeys((o.domain, o.version) for o in opsets) for opsets in (a, b))
    if list(before) != list(after):  # which may be said twice
        found.refused.append("opset imports differ")


def _compare_metadata(
    where: str,
    a: Iterable[onnx.StringStringEntryProto],
    b: Iterable[onnx.StringStringEntryProto],
    found: Difference,
) -> None:
    before = {entry.key: entry.value for entry in a}
    after = {entry.key: entry.value for entry in b}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            ours = key.startswith(PROVENANCE)
            (found.allowed if ours else found.refused).append(f"{where}: metadata {key!r} differs")


def _compare_sequences(where: str, a: Sequence, b: Sequence, found: Difference) -> None:
    if len(a) != len(b):
        found.refused.append(f"{where}: {len(a)} became {len(b)}")
        return
    for index, (before, after) in enumerate(zip(a, b, strict=True)):
        if _canonical(before) != _canonical(after):
            name = getattr(before, "name", "") or str(index)
            found.refused.append(f"{where}: {name!r} differs")


def _compare_graphs(a: onnx.GraphProto, b: onnx.GraphProto, where: str, found: Difference) -> None:
    for name in ("name", "doc_string"):
        if getattr(a, name) != getattr(b, name):
            found.refused.append(f"{where}: {name} differs")
    _compare_metadata(where, a.metadata_props, b.metadata_props, found)
    for name in ("input", "output"):
        _compare_sequences(f"{where} {name}", getattr(a, name), getattr(b, name), found)
    _compare_sequences(
        f"{where} sparse_initializer", a.sparse_initializer, b.sparse_initializer, found
    )
    replaced = _replaced(a, b)
    _compare_nodes(a, b, replaced, where, found)
    _compare_initializers(a, b, replaced, where, found)
    _compare_named("value_info", a.value_info, b.value_info, replaced, where, found)
    _compare_named(
        "quantization_annotation",
        a.quantization_annotation,
        b.quantization_annotation,
        set(),
        where,
        found,
    )


def _replaced(a: onnx.GraphProto, b: onnx.GraphProto) -> set[str]:
    """Outputs of holder nodes of `a` that are initializers in `b`."""
    initializers = {tensor.name for tensor in b.initializer}
    produced = {name for node in b.node for name in node.output}
    return {
        node.output[0]
        for node in a.node
        if node.op_type in HOLDERS
        and len(node.output) == 1
        and node.output[0] in initializers - produced
    }


def _compare_nodes(
    a: onnx.GraphProto, b: onnx.GraphProto, replaced: set[str], where: str, found: Difference
) -> None:
    kept = []
    for node in a.node:
        if len(node.output) == 1 and node.output[0] in replaced:
            found.allowed.append(
                f"{where}: {node.op_type} became the initializer {node.output[0]!r}"
            )
        else:
            kept.append(node)
    if len(kept) != len(b.node):
        before = Counter(node.op_type for node in kept)
        after = Counter(node.op_type for node in b.node)
        found.refused.append(
            f"{where}: nodes gone {dict(before - after)}, nodes new {dict(after - before)}"
        )
        return
    for before, after in zip(kept, b.node, strict=True):
        _compare_node(before, after, where, found)


def _compare_node(a: onnx.NodeProto, b: onnx.NodeProto, where: str, found: Difference) -> None:
    here = f"{where}: {a.op_type} {a.name or ', '.join(a.output)!r}"
    for name in ("op_type", "domain", "overload", "name", "doc_string"):
        if getattr(a, name) != getattr(b, name):
            found.refused.append(f"{here}: {name} differs")
    for name in ("input", "output"):
        if _without_trailing_blanks(getattr(a, name)) != _without_trailing_blanks(getattr(b, name)):
            found.refused.append(f"{here}: {name}s differ")
    _compare_metadata(here, a.metadata_props, b.metadata_props, found)
    _compare_sequences(
        f"{here} device configurations", a.device_configurations, b.device_configurations, found
    )
    if [attribute.name for attribute in a.attribute] != [
        attribute.name for attribute in b.attribute
    ]:
        found.refused.append(f"{here}: attributes differ")
        return
    for before, after in zip(a.attribute, b.attribute, strict=True):
        if before.type == after.type == onnx.AttributeProto.GRAPH:
            _compare_graphs(before.g, after.g, f"{here}.{before.name}", found)
        elif before.type == after.type == onnx.AttributeProto.GRAPHS and len(before.graphs) == len(
            after.graphs
        ):
            for first, second in zip(before.graphs, after.graphs, strict=True):
                _compare_graphs(first, second, f"{here}.{before.name}", found)
        elif _canonical(before) != _canonical(after):
            found.refused.append(f"{here}: attribute {before.name!r} differs")


def _compare_initializers(
    a: onnx.GraphProto, b: onnx.GraphProto, replaced: set[str], where: str, found: Difference
) -> None:
    before = {tensor.name: tensor for tensor in a.initializer}
    after = {tensor.name: tensor for tensor in b.initializer}
    inputs = {info.name for info in a.input}
    kept_order = [name for name in after if name in before]
    if kept_order != [name for name in before if name in after]:
        found.refused.append(f"{where}: the order of the initializers differs")
    for name in before:
        if name not in after:
            found.refused.append(f"{where}: initializer {name!r} is gone")
    for name, tensor in after.items():
        if name not in before:
            found.changed.append(name)
            if name in inputs:
                found.allowed.append(f"{where}: input {name!r} got an initializer")
            elif name not in replaced:
                found.refused.append(f"{where}: initializer {name!r} is new")
            continue
        first = before[name]
        if (first.data_type, list(first.dims)) != (tensor.data_type, list(tensor.dims)):
            found.refused.append(f"{where}: initializer {name!r} has another type or shape")
        if first.SerializeToString(deterministic=True) != tensor.SerializeToString(
            deterministic=True
        ):
            found.changed.append(name)


def _compare_named(
    kind: str,
    a: Sequence,
    b: Sequence,
    optional: set[str],
    where: str,
    found: Difference,
) -> None:
    """Entries found by name, in any order; those for `optional` names may come and go."""
    key = "name" if kind == "value_info" else "tensor_name"
    before = {getattr(entry, key): _canonical(entry) for entry in a}
    after = {getattr(entry, key): _canonical(entry) for entry in b}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and name not in optional:
            state = (
                "is gone" if name not in after else "is new" if name not in before else "differs"
            )
            found.refused.append(f"{where}: {kind} {name!r} {state}")


def _without_trailing_blanks(names: Sequence[str]) -> list[str]:
    """Outputs at the end that are left out may be written as blanks or not at all."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _canonical(message: object) -> bytes:
    """The message's bytes with every list of metadata sorted, for lists whose order is free."""
    copy = type(message)()
    copy.CopyFrom(message)
    _sort_metadata(copy)
    return copy.SerializeToString(deterministic=True)


def _sort_metadata(message: object) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.name == "metadata_props":
            entries = sorted((entry.key, entry.value) for entry in value)
            del value[:]
            for key, text in entries:
                value.add(key=key, value=text)
            continue
        for entry in value if descriptor.is_repeated else [value]:
            _sort_metadata(entry)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences between two files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    models = [onnx.load(path, load_external_data=False) for path in (options.before, options.after)]
    found = difference(*models)
    for message in found.refused:
        print(f"differs  {message}")
    for message in found.allowed:
        print(f"allowed  {message}")
    print(f"{len(found.changed)} tensors changed")
    for name in found.changed:
        print(f"  {name}")
    return 1 if found.refused else 0


if __name__ == "__main__":
    sys.exit(main())
