"""Copies: independent of the model, with its tensors, whatever the order of its nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.model_copy import copy_model
from onnx_ghn.run.session import open_session

TEXT = """<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "test">
    g (float[N,2] x, bool c) => (float[N,2] y) <float[2] w = {2, 3}>
    { h = local.twice(x)  k = Mul(h, w)
      y = If(c) <then_branch = t () => (float[N,2] p) { p = Relu(k) },
                 else_branch = e () => (float[N,2] q) { q = Identity(k) }> }
    <domain: "local", opset_import: ["" : 17]> twice (a) => (o) { o = Add(a, a) }"""


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_copy_computes_the_same_and_shares_tensors(order: tuple[int, ...]):
    model = ir.from_onnx_text(TEXT)
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend([nodes[index] for index in order])
    uses = {value: len(value.uses()) for node in nodes for value in node.outputs}
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    copy = copy_model(model)

    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert {value: len(value.uses()) for node in nodes for value in node.outputs} == uses
    assert not set(copy.graph.all_nodes()) & set(model.graph.all_nodes())
    assert copy.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    assert copy.producer_name == "test"
    assert [node.op_type for node in copy.graph] == ["twice", "Mul", "If"]
    x = np.array([[1, -1]], np.float32)
    y = open_session(copy).run({"x": x, "c": np.array(True)})["y"]
    assert y.tolist() == [[4, 0]]
