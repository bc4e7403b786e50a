"""Kinds, origins and uses of values, through bodies and functions."""

from __future__ import annotations

import pytest

from onnx_ghn.errors import ModelError
from onnx_ghn.read.dataflow import Kind, trace
from onnx_ghn.read.verdict import judge


def value_of(model, name):
    for graph in model.graphs():
        for node in graph:
            for output in node.outputs:
                if output.name == name:
                    return output
        for value in (*graph.inputs, *graph.initializers.values()):
            if value.name == name:
                return value
    raise KeyError(name)


def test_constants_parameters_and_data(parse):
    model = parse(
        """
        g (float[2, 3] x) => (float[2, 4] y)
        <float[4, 3] w, float e = {1.0}, int64[1] axis = {0}>
        {
            t = Transpose <perm = [1, 0]> (w)
            s = Shape (x)
            c = Gather (s, axis)
            m = MatMul (x, t)
            y = Add (m, e)
        }"""
    )
    flow = trace(model)
    kinds = {n: flow.kind(value_of(model, n)) for n in ("x", "w", "t", "e", "s", "c", "m", "y")}
    assert kinds == {
        "x": Kind.DATA,
        "w": Kind.PARAM,
        "t": Kind.PARAM,
        "e": Kind.CONST,  # one number outside a weight slot
        "s": Kind.CONST,  # of data, but not data
        "c": Kind.CONST,
        "m": Kind.DATA,
        "y": Kind.DATA,
    }
    (origin,) = flow.origins(value_of(model, "t"))
    assert origin.root.name == "w"
    assert [node.op_type for node in origin.path] == ["Transpose"]
    assert flow.shape(value_of(model, "t")) == (3, 4)


def test_loop_passes_weights_in_and_keeps_states_data(parse):
    model = parse(
        """
        g (float[2, 3] x, int64 n, bool c) => (float[2, 3] y)
        <float[3, 3] w>
        {
            y, out_w = Loop (n, c, x, w) <body = b (int64 i, bool ci, float[2, 3] h, float[3, 3] v)
                => (bool co, float[2, 3] k, float[3, 3] vo) {
                co = Identity (ci)
                k = MatMul (h, v)
                vo = Identity (v)
            }>
        }"""
    )
    flow = trace(model)
    assert flow.kind(value_of(model, "h")) is Kind.DATA
    assert flow.kind(value_of(model, "v")) is Kind.PARAM
    root = value_of(model, "w")
    (use,) = [site for site in flow.uses(root) if site.node.op_type == "MatMul"]
    assert use.index == 1
    assert flow.resolve(value_of(model, "v")) is root


def test_functions_are_inlined_in_a_clone_only(parse):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2, 3] x) => (float[2, 4] y) <float[3, 4] w> { y = f.dense (x, w) }
        <domain: "f", opset_import: ["" : 17]> dense (a, b) => (r) { r = MatMul (a, b) }"""
    )
    flow = trace(model)
    assert [node.op_type for node in model.graph] == ["dense"]
    assert [node.op_type for node in flow.nodes] == ["MatMul"]
    (root,) = flow.roots
    assert root is not model.graph.initializers["w"]
    assert flow.original(root) is model.graph.initializers["w"]


def test_functions_that_call_each_other_in_a_circle_are_an_error(parse):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2] x) => (float[2] y) { y = f.a (x) }
        <domain: "f", opset_import: ["f" : 1]> a (p) => (q) { q = f.b (p) }
        <domain: "f", opset_import: ["f" : 1]> b (p) => (q) { q = f.a (p) }"""
    )
    with pytest.raises(ModelError, match="local functions"):
        trace(model)


def test_constant_of_shape_is_a_root_only_in_a_weight_slot(parse):
    model = parse(
        """
        g (float[1, 3, 8, 8] x) => (y)
        <int64[4] ws = {4, 3, 1, 1}, int64[1] bs = {4}>
        {
            w = ConstantOfShape (ws)
            z = ConstantOfShape (bs)
            c = Conv (x, w)
            y = Concat <axis = 0> (z, z)
        }"""
    )
    flow = trace(model)
    assert [root.name for root in flow.roots] == ["w"]
    assert flow.shape(flow.roots[0]) == (4, 3, 1, 1)


def test_identity_of_a_vector_is_a_parameter_of_its_own(parse):
    model = parse(
        """
        g (float[1, 4, 8, 8] x) => (y)
        <float[4] a, float[4] b, float[4, 4, 1, 1] w>
        {
            s = Identity (a)
            v = Identity (w)
            h = BatchNormalization (x, s, b, a, a)
            y = Conv (h, v)
        }"""
    )
    names = [root.name for root in trace(model).roots]
    assert "s" in names  # exporters merge equal vectors by an Identity
    assert "v" not in names  # a matrix behind an Identity is tied


def test_signal_of_a_table(parse):
    """An MLP over a stored table: its hidden values play the part of data."""
    model = parse(
        """
        g (float[9, 5] x) => (y) <float[9, 2] table, float[2, 5] w, float[5] b>
        { m = MatMul (table, w)  r = Add (m, b)  y = Add (x, r) }"""
    )
    flow = trace(model)
    hidden = value_of(model, "m")
    assert flow.kind(hidden) is Kind.PARAM
    assert flow.is_signal(hidden)
    assert not flow.is_signal(value_of(model, "w"))


def test_nodes_out_of_order(parse):
    """The half-precision converter appends the Cast of an input to the end of the file."""
    model = parse(
        """g (float[2, 8] x, bool c) => (y) <float[8, 8] w, float[8, 8] v, float[8] b> {
            h = MatMul (r, w)
            y = If (c) <
                then_branch = p () => (float[2, 8] o) { o = MatMul (a, v) },
                else_branch = q () => (float[2, 8] o) { o = Identity (a) }>
            a = Add (h, b)
            r = Cast <to = 1> (x) }"""
    )
    flow = trace(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "If", "Add", "Cast"]
    assert [node.op_type for node in flow.nodes if node.graph is model.graph] == [
        *("Cast", "MatMul", "Add", "If")
    ]
    assert all(flow.is_data(node.outputs[0]) for node in model.graph)
    assert {p.name: str(p.role) for p in judge(model, flow) if p.learnable} == {
        **{"w": "linear", "v": "linear", "b": "bias"}
    }
