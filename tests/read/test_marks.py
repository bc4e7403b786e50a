"""Marks of exporters."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_ghn.read.marks import Mark, mark_of

KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
FOLDED = "pkg.onnxscript.optimizer.folded_from"


@pytest.mark.parametrize(
    ("name", "key", "text", "mark"),
    [
        ("w", KIND, "PARAMETER", Mark.PARAMETER),
        ("w", KIND, "BUFFER", Mark.BUFFER),
        ("w", KIND, "USER_INPUT", None),
        ("val_3", FOLDED, "['layer.weight']", None),  # transposed
        ("neg", FOLDED, "['exp', 'block.decay']", Mark.COMPUTED),
        ("add_4", FOLDED, "['norm.weight', 'val_7']", Mark.COMPUTED),  # 1 + w
        ("index", FOLDED, "['arange', 'add_3', 'table', 'index']", None),  # a table, looked up
        ("unsqueeze", FOLDED, "['index', 'sigmoid', 'linear_2', 'mul']", Mark.COMPUTED),
        ("w", FOLDED, "not a list", None),
        ("w", "other", "PARAMETER", None),
    ],
)
def test_mark_of(name, key, text, mark):
    value = ir.Value(name=name)
    value.metadata_props[key] = text
    assert mark_of(value) is mark
