"""Ties between tensors that a file stores apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

TEXT = """g (int64[2, 5] ids) => (y) <float[50, 8] table, float[8, 50] head>
    { e = Gather (table, ids)  y = MatMul (e, head) }"""


def test_equal_numbers_tie_a_head_to_its_embedding(verdicts, parse):
    model = parse(TEXT)
    assert verdicts(model)["head"].tie == "head"
    table = model.graph.initializers["table"].const_value.numpy()
    model.graph.initializers["head"].const_value = ir.tensor(np.ascontiguousarray(table.T))
    found = verdicts(model)
    assert found["head"].tie == found["table"].tie == "table"
    assert found["head"].logical_shape == found["table"].logical_shape


def test_equal_placeholders_prove_nothing(verdicts, parse):
    model = parse(TEXT)
    for name, shape in (("table", (50, 8)), ("head", (8, 50))):
        model.graph.initializers[name].const_value = ir.tensor(np.zeros(shape, np.float32))
    assert verdicts(model)["head"].tie == "head"


def test_one_initializer_in_two_layers_is_one_parameter(verdicts):
    found = verdicts(
        """g (float[2, 8] x) => (y) <float[8, 8] w>
        { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, w) }"""
    )
    assert list(found) == ["w"]
    assert len(found["w"].sites) == 2
