"""Tables: learned ones are found, and what looks like them is kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

ATTENTION = """g (float[2, 4, 9, 8] q, float[2, 4, 8, 9] k) => (y) <{declared}>
    {{ s = MatMul (q, k)  a = Add (s, t)  y = Softmax <axis = -1> (a) }}"""


def test_embedding_and_tied_head(verdicts):
    found = verdicts(
        """g (int64[2, 5] ids) => (y) <float[50, 8] table>
        { e = Gather (table, ids)  t = Transpose <perm = [1, 0]> (table)  y = MatMul (e, t) }"""
    )["table"]
    assert (found.role, found.logical_shape) == ("embedding", (50, 8))
    assert [(site.node.op_type, site.index) for site in found.sites] == [
        ("Gather", 0),
        ("MatMul", 1),
    ]


@pytest.mark.parametrize(
    ("shape", "learnable"),
    [
        ("1, 4, 9, 9", True),  # a bias for each head
        ("4, 9, 9", True),
        ("1, 1, 9, 9", False),  # a mask, the same for all heads
        ("2, 1, 9, 9", False),
        ("2, 4, 9, 9", False),  # other from window to window
        ("4, 1, 9", False),  # slopes
    ],
)
def test_biases_and_masks_of_attention(verdicts, shape, learnable):
    found = verdicts(ATTENTION.format(declared=f"float[{shape}] t"))["t"]
    assert found.learnable is learnable
    if learnable:
        assert found.role == "relative_position"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.where(np.tri(9) > 0, 0.5, -1e9)[None, None].repeat(4, 1), "masked"),
        (
            -np.abs(np.subtract.outer(range(9), range(9)))[None, None]
            * [[[[0.5]], [[0.25]], [[0.1]], [[0.05]]]],
            "slope|pattern",
        ),
    ],
)
def test_values_turn_a_learnable_bias_into_a_kept_one(verdicts, parse, table, reason):
    model = parse(ATTENTION.format(declared="float[1, 4, 9, 9] t"))
    model.graph.initializers["t"].const_value = ir.tensor(table.astype(np.float32))
    found = verdicts(model)["t"]
    assert not found.learnable
    assert any(word in found.reason for word in reason.split("|"))


def test_relative_position_table_through_gather(verdicts):
    found = verdicts(
        """g (float[2, 4, 3, 8] q, float[2, 4, 8, 3] k) => (y)
        <float[5, 4] table, int64[3, 3] index = {0, 1, 2, 1, 2, 3, 2, 3, 4}>
        { r = Gather (table, index)  t = Transpose <perm = [2, 0, 1]> (r)
          s = MatMul (q, k)  a = Add (s, t)  y = Softmax <axis = -1> (a) }"""
    )["table"]
    assert (found.role, found.learnable) == ("relative_position", True)


def test_position_table_and_class_token(verdicts):
    found = verdicts(
        """g (float[2, 9, 8] x) => (y)
        <float[1, 1, 8] token, float[1, 10, 8] table, int64[3] shape = {2, 1, 8}>
        { t = Expand (token, shape)  c = Concat <axis = 1> (t, x)  y = Add (c, table) }"""
    )
    assert (found["token"].role, found["token"].learnable) == ("token", True)
    assert (found["table"].role, found["table"].logical_shape) == ("position", (10, 8))


def test_sinusoids_and_grids_are_kept(verdicts, parse):
    model = parse("g (float[2, 10, 8] x) => (y) <float[1, 10, 8] t> { y = Add (x, t) }")
    assert verdicts(model)["t"].learnable
    angle = np.arange(10)[:, None] / 100.0 ** (np.arange(4) / 4)
    waves = np.concatenate([np.sin(angle), np.cos(angle)], 1)[None].astype(np.float32)
    model.graph.initializers["t"].const_value = ir.tensor(waves)
    assert "sinusoids" in verdicts(model)["t"].reason
    grid = np.arange(80, dtype=np.float32).reshape(1, 10, 8)
    model.graph.initializers["t"].const_value = ir.tensor(grid)
    assert "grid" in verdicts(model)["t"].reason


def test_rotary_tables_are_kept(verdicts):
    found = verdicts(
        """g (float[2, 4, 9, 8] x) => (y)
        <float[9, 8] cos, float[9, 8] sin, int64[2] parts = {4, 4}>
        { a, b = Split <axis = -1> (x, parts)  n = Neg (b)  r = Concat <axis = -1> (n, a)
          p = Mul (x, cos)  q = Mul (r, sin)  y = Add (p, q) }"""
    )
    assert not found["cos"].learnable and not found["sin"].learnable


def test_frequencies_are_kept(verdicts):
    found = verdicts(
        """g (float[2, 1] t) => (y) <float[6] f, float[3, 6] b>
        { a = Mul (t, f)  s = Sin (a)  c = Cos (a)  y = Concat <axis = 1> (s, c) }"""
    )
    assert not found["f"].learnable


def test_fourier_features_are_kept(verdicts):
    found = verdicts(
        """g (float[2, 3] x) => (y) <float[3, 6] b>
        { a = MatMul (x, b)  s = Sin (a)  c = Cos (a)  y = Concat <axis = 1> (s, c) }"""
    )
    assert not found["b"].learnable


def test_sine_activations_are_no_frequencies(verdicts):
    found = verdicts(
        """g (float[2, 3] x) => (y) <float[3, 6] a, float[6] b, float[6, 6] c, float w = {30.0}>
        { m = MatMul (x, a)  n = Add (m, b)  o = Mul (n, w)  s = Sin (o)  y = MatMul (s, c) }"""
    )
    assert found["a"].learnable and found["b"].learnable and found["c"].learnable


def test_frequencies_times_positions(verdicts):
    found = verdicts(
        """g (float[1, 1, 9] t) => (y) <float[1, 4, 1] f>
        { a = MatMul (f, t)  s = Sin (a)  c = Cos (a)  y = Concat <axis = 1> (s, c) }"""
    )
    assert not found["f"].learnable


def test_mask_token(verdicts):
    found = verdicts(
        "g (float[2, 9, 8] x, bool[2, 9, 1] m) => (y) <float[1, 1, 8] t> { y = Where (m, x, t) }"
    )
    assert (found["t"].role, found["t"].learnable) == ("token", True)


def test_a_table_after_a_batch_norm_is_no_shift_of_it(verdicts):
    found = verdicts(
        """g (float[1, 3, 16, 16] x) => (y)
        <float[8, 3, 4, 4] w, float[8] s, float[8] b, float[8] m, float[8] v,
         float[1, 8, 4, 4] table>
        { c = Conv <strides = [4, 4]> (x, w) n = BatchNormalization (c, s, b, m, v)
          y = Add (n, table) }"""
    )["table"]
    assert (found.role, found.learnable, found.logical_shape) == ("position", True, (16, 8))


def test_mask_of_learned_queries_is_kept(verdicts):
    """A Perceiver's queries come from a table: scores are scores all the same."""
    found = verdicts(
        """g (float[2, 9, 8] x) => (y)
        <float[4, 8] latents, float[8] s, float[8] b, float[8, 8] wq, float[8, 8] wk,
         float[1, 4, 9] mask> {
            l = LayerNormalization (latents, s, b)  q = MatMul (l, wq)
            k = MatMul (x, wk)  kt = Transpose <perm = [0, 2, 1]> (k)
            d = MatMul (q, kt)  a = Add (d, mask)  p = Softmax <axis = -1> (a)
            y = MatMul (p, k) }"""
    )
    assert not found["mask"].learnable
    assert (found["latents"].role, found["latents"].learnable) == ("token", True)


def test_mask_after_a_norm_is_no_scale_of_it(verdicts):
    found = verdicts(
        """g (float[1, 9, 8] x) => (y)
        <float[8] s, float[8] b, float[1, 9, 1] mask, float[8, 8] w> {
            n = LayerNormalization (x, s, b)  m = Mul (n, mask)  y = MatMul (m, w) }"""
    )
    assert [name for name, p in found.items() if p.learnable] == ["s", "b", "w"]


def test_noise_after_a_demodulated_layer_is_kept(verdicts):
    """StyleGAN adds one map to all channels after it has divided them by a norm."""
    found = verdicts(
        """g (float[2, 8, 4, 4] x) => (y)
        <float[8, 8, 1, 1] w, float[8, 8, 1, 1] v, float[1, 1, 4, 4] noise> {
            c = Conv (x, w)  q = Mul (x, x)  e = ReduceMean <axes = [2, 3]> (q)
            r = Sqrt (e)  i = Reciprocal (r)  d = Mul (c, i)  a = Add (d, noise)
            y = Conv (a, v) }"""
    )
    assert not found["noise"].learnable
