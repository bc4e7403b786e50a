"""The whole judgement: order, holders, bodies, functions, precedence between uses."""

from __future__ import annotations

import onnx_ir as ir

from onnx_ghn.read.parameter import Holder


def test_order_and_holders(verdicts, light):
    found = verdicts(ir.load(light / "light_resnet50.onnx"))
    kernels = [p for p in found.values() if p.role == "conv"]
    assert len(kernels) == 53
    assert {p.holder for p in kernels} == {Holder.CONSTANT_OF_SHAPE}
    assert not any(p.has_value for p in kernels)
    assert kernels[0].logical_shape == (64, 3, 7, 7)
    assert kernels[0].fan_in == 147
    positions = [p.sites[0].node.outputs[0].name for p in kernels]
    order = [n.outputs[0].name for n in ir.load(light / "light_resnet50.onnx").graph]
    assert positions == sorted(positions, key=order.index)
    unused = [p for p in found.values() if not p.sites]
    assert list(found.values())[-len(unused) :] == unused


def test_caffe_scale_after_batch_norm(verdicts, light):
    found = verdicts(ir.load(light / "light_densenet121.onnx"))
    assert all(p.learnable for p in found.values() if p.role in ("norm_scale", "norm_shift"))
    assert sum(p.role == "norm_scale" for p in found.values()) > 120


def test_branches_capture_weights_and_hold_their_own(verdicts):
    found = verdicts(
        """g (float[2, 4] x, bool c) => (y) <float[4, 4] outer>
        { y = If (c) <
            then_branch = a () => (float[2, 4] p) <float[4, 4] inner> { p = MatMul (x, inner) },
            else_branch = b () => (float[2, 4] q) { q = MatMul (x, outer) }> }"""
    )
    assert found["outer"].learnable and found["inner"].learnable
    assert found["inner"].value.graph is not found["outer"].value.graph


def test_weights_through_functions_but_not_inside(verdicts, parse):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[2, 2] x) => (y) <float[2, 2] w> { h = f.layer (x, w)  y = f.layer (h, w) }
        <domain: "f", opset_import: ["" : 17]> layer (a, b) => (r) {
            m = MatMul (a, b)
            k = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
            r = MatMul (m, k)
        }"""
    )
    found = verdicts(model)
    assert found["w"].learnable
    assert found["w"].value is model.graph.initializers["w"]
    assert len(found["w"].sites) == 2
    assert [name for name, p in found.items() if p.learnable] == ["w"]
    assert [node.op_type for node in model.graph] == ["layer", "layer"]


def test_constant_nodes_are_weights_in_slots(verdicts):
    found = verdicts(
        """g (float[2, 2] x) => (y) {
            k = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
            y = MatMul (x, k) }"""
    )["k"]
    assert (found.holder, found.learnable, found.role) == (Holder.CONSTANT, True, "linear")


def test_identity_undoes_merging(verdicts):
    found = verdicts(
        """g (float[1, 4, 8, 8] x) => (y) <float[4] a, float[4] b, float[4] m>
        { s = Identity (a)  r = Relu (x)
          h = BatchNormalization (r, s, b, m, a)  y = Relu (h) }"""
    )
    assert (found["s"].holder, found["s"].source) == (Holder.IDENTITY, "a")
    assert (found["s"].role, found["s"].learnable) == ("norm_scale", True)
    assert (found["a"].role, found["a"].learnable) == ("running_variance", False)


def test_a_slot_outranks_other_uses(verdicts):
    """A normalised kernel is divided by its own norm, yet it is a kernel."""
    found = verdicts(
        """g (float[2, 8] x) => (y) <float[4, 8] v, float[4, 1] gain>
        { n = ReduceL2 <axes = [1]> (v)  u = Div (v, n)  w = Mul (u, gain)
          y = Gemm <transB = 1> (x, w) }"""
    )
    assert (found["v"].role, found["v"].logical_shape) == ("linear", (4, 8))
    assert (found["gain"].role, found["gain"].neutral) == ("norm_scale", 1.0)


def test_quantised_weights_are_kept(verdicts):
    found = verdicts(
        """g (float[2, 8] x) => (y) <int8[8, 4] w, float[4] scale, float[8, 4] f, float[4] b>
        { d = DequantizeLinear <axis = 1> (w, scale)  m = MatMul (x, d)  y = Add (m, b) }"""
    )
    assert (found["w"].role, found["w"].learnable) == ("quantized", False)
    assert not found["scale"].learnable
    assert "quantisation scale" in found["scale"].reason
    assert found["b"].learnable


def test_names_do_not_matter(verdicts, parse):
    text = """g (float[1, 3, 8, 8] {x}) => ({y})
        <float[4, 3, 3, 3] {w}, float[4] {b}, float[1, 4, 1, 1] {s}>
        {{ {h} = Conv ({x}, {w}, {b})  {r} = Relu ({h})
           {m} = Mul ({r}, {s})  {y} = Add ({r}, {m}) }}"""
    plain = verdicts(text.format(x="x", y="y", w="w", b="b", s="s", h="h", r="r", m="m"))
    odd = verdicts(
        text.format(x="mask", y="bias", w="running_mean", b="cos", s="conv", h="n1", r="n2", m="n3")
    )
    facts = [
        [(p.role, p.learnable, p.logical_shape) for p in found.values()] for found in (plain, odd)
    ]
    assert facts[0] == facts[1]


def test_constant_nodes_outside_slots_are_kept_where_weights_are_initializers(verdicts):
    """An initial state, a mask, the mean of images: exporters store no parameter so."""
    found = verdicts(
        """g (float[2, 4] x) => (y) <float[4, 4] w, float[4, 4] v, float[4] s> {
            m = MatMul (x, w)  f = Sigmoid (m)
            state = Constant <value = float[1, 4] {0, 0, 0, 0}> ()
            c = Mul (f, state)  t = Tanh (m)  a = Add (c, t)  b = Mul (a, s)
            y = MatMul (b, v) }"""
    )
    assert not found["state"].learnable and "Constant node" in found["state"].reason
    assert found["s"].learnable


def test_bias_of_one_output_whose_weight_is_normalised_in_the_graph(verdicts):
    found = verdicts(
        """g (float[2, 8] x) => (y) <float[1, 8] w, float[8, 1] v, float[1] u, float[1] b> {
            p = MatMul (w, v)  q = Mul (p, u)  n = Div (w, q)  y = Gemm <transB = 1> (x, n, b) }"""
    )
    assert (found["b"].role, found["b"].learnable) == ("bias", True)
    assert found["w"].learnable


def test_projection_of_sinusoids_by_einsum(verdicts):
    """Transformer-XL's relative positions: computed waves, a learned projection."""
    found = verdicts(
        """g (float[2, 5, 4, 8] q) => (y) <float[9, 16] angles, float[32, 4, 8] r> {
            s = Sin (angles)  c = Cos (angles)  t = Concat <axis = -1> (s, c)
            k = Einsum <equation = "ih,hnd->ind"> (t, r)
            y = Einsum <equation = "bind,jnd->bnij"> (q, k) }"""
    )
    assert (found["r"].role, found["r"].learnable) == ("linear", True)
    assert (found["r"].logical_shape, found["r"].fan_in) == ((32, 32), 32)
    assert not found["angles"].learnable


def test_ones_that_repeat_a_vector_are_no_weight(verdicts):
    """scikit-learn's kernels multiply two tensors that the graph fills."""
    found = verdicts(
        """g (float[n, 3] x) => (y) <int64[2] sizes = {1, 4}, int64[1] one = {1},
         int64[1] axis = {0}> {
            s = Shape (x)  n = Slice (s, axis, one)  c = Concat <axis = 0> (n, one)
            a = ConstantOfShape (c)  b = ConstantOfShape (sizes)  y = MatMul (a, b) }"""
    )
    assert not any(parameter.learnable for parameter in found.values())
