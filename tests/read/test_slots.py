"""The table of weight slots."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from onnx_ghn.read import slots
from onnx_ghn.read.parameter import Role


def node(op, domain="", count=8):
    return ir.Node(domain, op, [ir.Value(str(k)) for k in range(count)])


@pytest.mark.parametrize(
    ("op", "domain", "index", "role"),
    [
        ("Conv", "", 1, Role.CONV),
        ("Conv", "ai.onnx", 2, Role.BIAS),
        ("Gemm", "", 1, Role.LINEAR),
        ("BatchNormalization", "", 4, Role.RUNNING_VARIANCE),
        ("SkipLayerNormalization", "com.microsoft", 2, Role.NORM_SCALE),
        ("LSTM", "", 2, Role.RECURRENT_HIDDEN),
    ],
)
def test_find(op, domain, index, role):
    slot = slots.find(node(op, domain), index)
    assert slot is not None
    assert slot.role is role


def test_a_slot_needs_its_domain():
    assert slots.find(node("Attention"), 1) is None
    assert slots.find(node("Attention", "com.microsoft"), 1) is not None
    assert slots.find(node("Conv", "my.domain"), 1) is None


def test_every_standard_slot_is_an_input_of_its_operator():
    for slot in slots.SLOTS:
        if slot.domain == "" and onnx.defs.has(slot.op):
            schema = onnx.defs.get_schema(slot.op)
            assert slot.index < len(schema.inputs), slot
