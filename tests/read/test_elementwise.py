"""Vectors in Add, Sub, Mul and Div."""

from __future__ import annotations

import pytest

NETWORK = """g (float[2, 8] in) => (out)
    <float[8, 8] w, float[8, 8] w2, float[8] p, float[8] q, float one = {{1.0}}>
    {{ h = MatMul (in, w)  x = Relu (h)  {body}  z = Relu (y)  out = MatMul (z, w2) }}"""

CASES = [
    ("m = MatMul (x, w) y = Add (p, m)", "bias", True),
    ("m = MatMul (x, w) y = Add (m, p)", "bias", True),
    ("y = Sub (x, p)", "constant", False),
    ("y = Div (x, p)", "constant", False),
    ("m = MatMul (x, w) s = Mul (m, p) y = Add (x, s)", "layer_scale", True),
    ("s = Mul (x, p) y = Add (s, q)", "norm_scale", True),
    ("s = Mul (x, p) e = Exp (s) y = Mul (x, e)", "constant", False),
    ("a = Mul (x, p) b = Mul (h, q) y = Add (a, b)", "constant", False),
    ("a = Mul (x, p) n = Sub (one, p) b = Mul (h, n) y = Add (a, b)", "layer_scale", True),
    ("e = Exp (p) y = Mul (x, e)", "logit_scale", True),
    ("e = Sigmoid (p) y = Mul (x, e)", "other", True),
    ("e = Neg (x) y = Max (e, p)", "constant", False),
]


@pytest.mark.parametrize(("body", "role", "learnable"), CASES)
def test_vectors(verdicts, body, role, learnable):
    found = verdicts(NETWORK.format(body=body))["p"]
    assert (found.role, found.learnable) == (role, learnable), found.reason


def test_pre_and_post_processing_are_kept(verdicts):
    found = verdicts(
        """g (float[2, 3, 4, 4] x) => (y)
        <float[1, 3, 1, 1] mean, float[1, 3, 1, 1] inverse, float[3, 3, 1, 1] w,
         float[1, 3, 1, 1] scale, float[1, 3, 1, 1] offset>
        { c = Sub (x, mean)  n = Mul (c, inverse)  h = Conv (n, w)
          s = Mul (h, scale)  y = Add (s, offset) }"""
    )
    learnable = [name for name, parameter in found.items() if parameter.learnable]
    assert learnable == ["w"]


def test_post_processing_may_be_cut_before_it_leaves(verdicts):
    """The mean of images, added back to what a network for super-resolution makes of them."""
    found = verdicts(
        """g (float[2, 3, 4, 4] x) => (y)
        <float[3, 3, 1, 1] w, float range = {255.0}, float[1, 3, 1, 1] mean,
         int64[1] from = {0}, int64[1] to = {3}, int64[1] axis = {2}>
        { h = Conv (x, w)  r = Relu (h)  d = Div (r, range)  a = Add (d, mean)
          y = Slice (a, from, to, axis) }"""
    )
    assert [name for name, p in found.items() if p.learnable] == ["w"]


def test_a_mean_that_is_subtracted_first_and_added_last_is_kept(verdicts):
    found = verdicts(
        """g (float[2, 3, 4, 4] x) => (y) <float[3, 3, 1, 1] w, float[1, 3, 1, 1] mean>
        { c = Sub (x, mean)  h = Conv (c, w)  y = Add (h, mean) }"""
    )
    assert [name for name, p in found.items() if p.learnable] == ["w"]


def test_affine_map_of_channels_depends_on_the_exporter(verdicts, parse):
    """TensorFlow writes a folded BatchNorm so; PyTorch only a frozen one."""
    text = """g (float[2, 3, 4, 4] x) => (y)
        <float[3, 3, 1, 1] w, float[1, 3, 1, 1] s, float[1, 3, 1, 1] b>
        { h = Conv (x, w)  m = Mul (h, s)  a = Add (m, b)  y = Relu (a) }"""
    model = parse(text)
    assert verdicts(model)["s"].learnable and verdicts(model)["b"].learnable
    model.producer_name = "pytorch"
    assert not verdicts(model)["s"].learnable and not verdicts(model)["b"].learnable


def test_unknown_domains_are_kept(verdicts):
    found = verdicts(
        """<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>
        g (float[2, 8] x) => (y) <float[8, 8] w> { y = my.own.Mix (x, w) }"""
    )["w"]
    assert not found.learnable
    assert "my.own" in found.reason


@pytest.mark.parametrize(("other", "learnable"), [("x", True), ("shift", False)])
def test_the_last_layer_scale_is_told_from_post_processing(verdicts, other, learnable):
    """The sum with the residual ends the model, and so does the shift of a de-normalisation."""
    found = verdicts(
        f"""g (float[2, 8] in) => (y) <float[8, 8] w, float[8, 8] w2, float[8] p, float[8] shift>
        {{ x = MatMul (in, w) r = Relu (x) h = MatMul (r, w2) s = Mul (h, p)
           y = Add (s, {other}) }}"""
    )["p"]
    assert found.learnable is learnable
    if learnable:
        assert found.role == "layer_scale"
