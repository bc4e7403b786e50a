"""Marks that an exporter leaves in a file, which are trusted where they are."""

from __future__ import annotations

import enum

import onnx_ir as ir

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


class Mark(enum.Enum):
    """What the exporter says a tensor is."""

    PARAMETER = "parameter"
    BUFFER = "buffer"


def mark_of(value: ir.Value) -> Mark | None:
    """The mark of torch.export's graph signature on an initializer, or None."""
    kind = value.metadata_props.get(_KIND, "")
    if kind.endswith("PARAMETER"):
        return Mark.PARAMETER
    if kind.endswith(("BUFFER", "CONSTANT_TENSOR")):
        return Mark.BUFFER
    return None
