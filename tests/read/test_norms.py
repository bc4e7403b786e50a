"""Norms: native, decomposed, standing for another, without affine parameters, over weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

DECOMPOSED = {
    "layer norm": """
        m = ReduceMean <axes = [-1]> (x)
        c = Sub (x, m)
        q = Pow (c, two)
        v = ReduceMean <axes = [-1]> (q)
        e = Add (v, eps)
        d = Sqrt (e)
        n = Div (c, d)
        s = Mul (n, scale)
        y = Add (s, shift)""",
    "layer norm, scale first": """
        m = ReduceMean <axes = [-1]> (x)
        c = Sub (x, m)
        q = Mul (c, c)
        v = ReduceMean <axes = [-1]> (q)
        e = Add (v, eps)
        d = Sqrt (e)
        r = Reciprocal (d)
        g = Mul (r, scale)
        p = Mul (x, g)
        k = Mul (m, g)
        b = Sub (shift, k)
        y = Add (p, b)""",
    "affine after a norm without": """
        n = LayerNormalization (x, ones)
        s = Mul (n, scale)
        y = Add (shift, s)""",
}


@pytest.mark.parametrize("form", DECOMPOSED)
def test_decomposed(verdicts, form):
    found = verdicts(
        f"""g (float[2, 5, 8] x) => (y)
        <float two = {{2.0}}, float eps = {{1e-5}}, float[8] scale, float[8] shift,
         float[8] ones = {{1, 1, 1, 1, 1, 1, 1, 1}}> {{ {DECOMPOSED[form]} }}"""
    )
    assert found["scale"].role == "norm_scale"
    assert found["scale"].neutral == 1.0
    assert found["shift"].role == "norm_shift"
    assert found["scale"].learnable and found["shift"].learnable
    assert not found["eps"].learnable
    assert not found["ones"].learnable


def test_rms_norm(verdicts):
    found = verdicts(
        """g (float[2, 5, 8] x) => (y)
        <float two = {2.0}, float eps = {1e-5}, float[8] w, float[8] b>
        { q = Pow (x, two)  v = ReduceMean <axes = [-1]> (q)  e = Add (v, eps)  d = Sqrt (e)
          r = Div (x, d)  y = Mul (w, r) }"""
    )
    assert (found["w"].role, found["w"].learnable) == ("norm_scale", True)
    assert not found["b"].learnable  # used by nothing


def test_statistics_are_never_learnable(verdicts):
    found = verdicts(
        """g (float[1, 4, 8, 8] x) => (y) <float[4] s, float[4] b, float[4] m, float[4] v>
        { y = BatchNormalization (x, s, b, m, v) }"""
    )
    assert {n: (p.role, p.learnable) for n, p in found.items()} == {
        "s": ("norm_scale", True),
        "b": ("norm_shift", True),
        "m": ("running_mean", False),
        "v": ("running_variance", False),
    }


def test_a_shift_that_is_also_a_running_mean_is_kept(verdicts):
    found = verdicts(
        """g (float[1, 4, 8, 8] x) => (y) <float[4] s, float[4] zeros, float[4] v>
        { y = BatchNormalization (x, s, zeros, zeros, v) }"""
    )["zeros"]
    assert (found.role, found.learnable) == ("running_mean", False)


def test_group_norm_as_instance_norm(verdicts):
    found = verdicts(
        """g (float[1, 8, 6, 6] x) => (y)
        <int64[3] split = {0, 4, -1}, int64[4] whole = {1, 8, 6, 6},
         float[4] ones, float[4] zeros, float[8, 1, 1] w, float[8, 1, 1] b>
        { r = Reshape (x, split)  i = InstanceNormalization (r, ones, zeros)
          n = Reshape (i, whole)  s = Mul (n, w)  y = Add (s, b) }"""
    )
    assert not found["ones"].learnable and not found["zeros"].learnable
    assert (found["w"].role, found["b"].role) == ("norm_scale", "norm_shift")


def standardised(turned):
    """A convolution whose kernel is standardised by BatchNormalization, as PyTorch folds it."""
    copy, axis = ("float[1, 27, 4] c", 1) if turned else ("float[1, 4, 27] c", 2)
    flat = "f0 = Reshape (f, four)"
    return f"""g (float[1, 3, 8, 8] x) => (y)
        <float[1, 4, 27] k, {copy}, float[4] gain, float[4] zeros, int64[1] four = {{4}},
         int64[4] whole = {{4, 3, 3, 3}}>
        {{ m = ReduceMean <axes = [0, {axis}]> (c)  f = Identity (m)  {flat}
           y = Identity (f0)
           a = ReduceMean <axes = [0, {axis}], keepdims = 0> (c)
           d = ReduceMean <axes = [0, {axis}], keepdims = 0> (c)
           n = BatchNormalization (k, gain, zeros, a, d)
           w = Reshape (n, whole)
           z = Conv (x, w) }}"""


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        ("h = Identity (x)", 1.0),
        ("h = Relu (x)", (1 - 1 / np.pi) / 2),
        # the network makes up for its ReLU by itself
        ("r = Relu (x) h = Mul (r, root)", 1 - 1 / np.pi),
        ("s = Sigmoid (x) h = Mul (x, s)", 0.313),
    ],
)
def test_the_gain_of_a_standardised_kernel_makes_up_for_the_activation(
    verdicts, activation, variance
):
    """Such a kernel's elements sum to 0: of its input only the variance counts."""
    text = standardised(turned=True).replace("Conv (x, w)", "Conv (h, w)")
    text = text.replace("float[4] zeros,", "float[4] zeros, float root = {1.4142135},")
    found = verdicts(text.replace("{ m =", f"{{ {activation}  m ="))
    assert found["gain"].neutral == pytest.approx((27 * variance) ** -0.5, rel=1e-3)


@pytest.mark.parametrize("turned", [True, False])
def test_weight_standardisation(verdicts, turned):
    found = verdicts(standardised(turned))
    assert found["k"].role == "conv"
    assert found["k"].logical_shape == (4, 3, 3, 3)
    assert found["gain"].learnable
    assert found["gain"].neutral == pytest.approx(27**-0.5)
    assert not found["zeros"].learnable
    kernel, copy = found["k"], found["c"]
    assert copy.learnable and copy.tie == kernel.tie
    logical = np.arange(4 * 27).reshape(4, 3, 3, 3)
    expected = kernel.layout.to_physical(logical)
    expected = expected.transpose(0, 2, 1) if turned else expected
    np.testing.assert_array_equal(copy.layout.to_physical(logical), expected)


def test_a_fixed_kernel_is_kept_and_a_random_one_is_not(verdicts, parse):
    text = (
        """g (float[1, 4, 8, 8] x) => (y) <float[4, 1, 3, 3] w> { y = Conv <group = 4> (x, w) }"""
    )
    assert verdicts(text)["w"].learnable
    model = parse(text)
    blur = np.tile(np.outer([1, 2, 1], [1, 2, 1]) / 16, (4, 1, 1, 1)).astype(np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(blur)
    found = verdicts(model)["w"]
    assert not found.learnable
    assert "blur" in found.reason
    constant = np.full((4, 1, 3, 3), 0.02, np.float32)  # a filled placeholder is no filter
    model.graph.initializers["w"].const_value = ir.tensor(constant)
    assert verdicts(model)["w"].learnable


def test_ones_of_a_fresh_norm_are_learnable(verdicts, parse):
    model = parse(
        """g (float[2, 8] x) => (y) <float[8] s, float[8] b>
        { y = LayerNormalization (x, s, b) }"""
    )
    model.graph.initializers["s"].const_value = ir.tensor(np.ones(8, np.float32))
    model.graph.initializers["b"].const_value = ir.tensor(np.zeros(8, np.float32))
    found = verdicts(model)
    assert found["s"].learnable and found["b"].learnable


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_a_filled_scale_is_told_by_the_affine_map_after_it(verdicts, parse, value):
    """Not by its ones, which a skeleton lacks and which a fresh norm has, too."""
    text = """g (float[2, 8] x) => (y) <float[8] s, float[8] scale, float[8] shift>
        {{ n = LayerNormalization (x, s) {rest} }}"""
    own, after = "y = Relu (n)", "m = Mul (n, scale) y = Add (m, shift)"
    for rest, learnable in ((own, True), (after, False)):
        model = parse(text.format(rest=rest))
        model.graph.initializers["s"].const_value = ir.tensor(np.full(8, value, np.float32))
        found = verdicts(model)
        assert found["s"].learnable is learnable
        if rest is after:
            assert (found["scale"].role, found["shift"].role) == ("norm_scale", "norm_shift")
