"""Do nodes have the inputs and the attribute types that their operator's schema asks for?

Whatever reads the graph later may rely on it: `Conv` has two inputs, and `group` is a number.
Operators without a schema (custom domains) are let through, and so are attributes that the
schema does not know, which exporters leave over from other opsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.model_io.tensors import quote


@dataclass(frozen=True)
class _Signature:
    """What a schema says, in plain objects: asking the schema itself is slow."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required: tuple[tuple[int, str], ...]
    attributes: Mapping[str, int]


def check_node(node: onnx.NodeProto, opsets: Mapping[str, int]) -> None:
    """Check a node against its schema.

    Args:
        node: The node.
        opsets: Imported version of each domain; ai.onnx is "".

    Raises:
        ModelError: Too few or too many inputs or outputs, or an attribute of another type.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    signature = _signature(node.op_type, domain, opsets.get(domain, 1))
    if signature is None:
        return
    for kind, count, (low, high) in (
        ("inputs", len(node.input), signature.inputs),
        ("outputs", len(node.output), signature.outputs),
    ):
        if not low <= count <= high:
            bounds = f"{low}" if low == high else f"{low} to {high}"
            raise ModelError(f"{describe(node)} has {count} {kind}; the operator takes {bounds}")
    for index, formal in signature.required:
        if index < len(node.input) and not node.input[index]:
            raise ModelError(f"{describe(node)} lacks its input {formal}")
    for attribute in node.attribute:
        expected = signature.attributes.get(attribute.name, attribute.type)
        if attribute.type != expected:
            raise ModelError(
                f"attribute {attribute.name} of {describe(node)} is of type "
                f"{_TYPE_NAMES[attribute.type]}; the operator takes {_TYPE_NAMES[expected]}"
            )


def describe(node: onnx.NodeProto) -> str:
    """What messages call a node: its operator, and its name or its first output."""
    name = node.name or next((output for output in node.output if output), "")
    operator = str(node.op_type or "node")
    return f"{operator if operator.isprintable() else quote(operator)} {quote(name)}"


_TYPE_NAMES = {kind.value: kind.name for kind in ir.AttributeType}


@cache
def _signature(operator: str, domain: str, version: int) -> _Signature | None:
    try:
        schema: Any = onnx.defs.get_schema(operator, min(version, 1 << 20), domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return _Signature(
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        required=tuple(
            (index, formal.name)
            for index, formal in enumerate(schema.inputs)
            if formal.option == single
        ),
        attributes={name: attribute.type.value for name, attribute in schema.attributes.items()},
    )
