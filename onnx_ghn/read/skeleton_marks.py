"""What `strip` says in a skeleton of a tensor that it removed: its role, and to what it was tied.

Structure gives the role back in most cases. A role that the user corrected, and a tie that only
equal values proved, would be lost with the values.
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.model_io.value_info import drop_added_entry, note_added_entry
from onnx_ghn.read.given import GivenRole
from onnx_ghn.read.parameter import Parameter, Role

ROLE = "onnx_ghn.role"
"""Key in `ir.Value.metadata_props` while the tensor is empty, in `ir.Value.meta` afterwards."""

TIE = "onnx_ghn.tie"
"""The same, for the name of the first tensor of the tie group."""

ORIGIN = "the skeleton's mark"


def mark(value: ir.Value, parameter: Parameter) -> None:
    """Mark `value`, which holds the parameter and is emptied."""
    note_added_entry(value)
    value.metadata_props[ROLE] = str(parameter.role)
    if parameter.tie not in ("", parameter.name):
        value.metadata_props[TIE] = parameter.tie


def unmark(value: ir.Value) -> None:
    """Take the marks off the file, once the tensor has a value; in memory they stay in force."""
    drop_added_entry(value)
    for key in (ROLE, TIE):
        if key in value.metadata_props:
            value.meta[key] = value.metadata_props.pop(key)


def given_roles(model: ir.Model) -> dict[str, GivenRole]:
    """The marked roles, by name of the tensor. A role that does not exist is no mark."""
    given: dict[str, GivenRole] = {}
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            role = _read(value, ROLE)
            if role in tuple(Role):
                given[name] = GivenRole(Role(role), ORIGIN)
    return given


def tie_of(value: ir.Value) -> str:
    """Name of the tensor to which `value` was tied; "" where no mark says so."""
    return _read(value, TIE)


def _read(value: ir.Value, key: str) -> str:
    return value.metadata_props.get(key) or value.meta.get(key, "")
