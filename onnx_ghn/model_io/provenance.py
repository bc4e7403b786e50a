"""What the tool says in a file about what it did: entries of the model's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

PREFIX = "onnx_ghn."
"""Every key of ours in `metadata_props` starts so."""


def record_provenance(model: ir.Model, provenance: Mapping[str, Any]) -> None:
    """Replace the model's provenance by `provenance`; keys get the prefix `onnx_ghn.`.

    Args:
        model: Changed in place, in `metadata_props` only.
        provenance: Name to value; values are stored as text.
    """
    clear_provenance(model)
    for key, value in provenance.items():
        model.metadata_props[PREFIX + key] = str(value)


def clear_provenance(model: ir.Model) -> None:
    """Remove what `record_provenance` wrote; other metadata stays."""
    for key in [key for key in model.metadata_props if key.startswith(PREFIX)]:
        del model.metadata_props[key]
