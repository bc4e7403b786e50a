"""Gains: which non-linearity stands before a weight."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from onnx_ghn.read.gains import SECOND_MOMENT_GAIN

NETWORK = """g (float[2, 8] in) => (y)
    <float[8, 8] w, float[8, 8] w2, float[8] s, float[8] b,
     float half = {{0.5}}, float one = {{1.0}},
     float root = {{1.414}}, float k = {{1.702}}>
    {{ x = MatMul (in, w)  {body}  y = MatMul (a, w2) }}"""

CASES = [
    ("a = Identity (x)", 1.0),
    ("a = Relu (x)", 2.0),
    ("r = Relu (x) a = Identity (r)", 2.0),
    ("a = LeakyRelu (x)", 2.0),
    ("a = Sigmoid (x)", 3.41),
    ("a = Tanh (x)", 2.54),
    ("r = Relu (x) a = LayerNormalization (r, s, b)", 1.0),
    ("g1 = Sigmoid (x) a = Mul (x, g1)", 2.81),
    ("q = Mul (x, k) g1 = Sigmoid (q) a = Mul (x, g1)", 2.81),
    ("d = Div (x, root) e = Erf (d) p = Add (e, one) m = Mul (x, p) a = Mul (m, half)", 2.35),
    ("r = Relu (x) t = MatMul (r, w) a = Add (x, t)", 0.5),  # a sum of two signals
    ("a = Mul (x, half)", 4.0),
    ("h = Mul (x, half) g1 = Sigmoid (h) a = Mul (h, g1)", 4 * 2.81),  # SiLU of half the signal
    ("t = MatMul (x, w) l = Mul (t, s) a = Add (x, l)", 1 / 1.01),  # a branch that starts small
    ("r = Relu (x) t = MatMul (r, w) u = Sigmoid (t) a = Mul (r, u)", 2.0 * 3.41),  # a gate
]


@pytest.mark.parametrize(("body", "gain"), CASES)
def test_gain(verdicts, body, gain):
    found = verdicts(NETWORK.format(body=body))
    assert found["w2"].gain == pytest.approx(gain)


@pytest.mark.parametrize("operator", ["Relu", "Elu", "Selu", "Tanh", "Sigmoid", "Softplus"])
def test_gains_are_inverse_second_moments(operator):
    """Measured with ONNX Runtime on a million normal numbers."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x) => (float[N] y) {{ y = {operator} (x) }}"""
    )
    session = ort.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    assert 1 / np.mean(np.square(y, dtype=np.float64)) == pytest.approx(
        SECOND_MOMENT_GAIN[operator], rel=0.01
    )


def test_a_rectified_stream_of_sums_grows_as_it_does(verdicts):
    """Eight residual blocks without norms, against a simulation."""
    blocks = "".join(
        f"c{k} = MatMul (r{k}, w) s{k} = Add (r{k}, c{k}) r{k + 1} = Relu (s{k})" for k in range(8)
    )
    found = verdicts(
        f"""g (float[2, 8] in) => (y) <float[8, 8] w, float[8, 8] w2>
        {{ x = MatMul (in, w) r0 = Relu (x) {blocks} y = MatMul (r8, w2) }}"""
    )
    generator = np.random.default_rng(0)
    stream = np.maximum(generator.standard_normal(200_000), 0)
    # A deep network's branches are scaled down by the root of their number.
    for _ in range(8):
        stream = np.maximum(stream + 8**-0.5 * generator.standard_normal(200_000), 0)
    assert 1 / found["w2"].gain == pytest.approx(np.mean(np.square(stream)), rel=0.15)


def test_what_padding_adds_carries_no_signal(verdicts):
    """On a map of 4 x 4, a kernel of 5 x 5 meets 4.9 zeros in 10 products."""
    found = verdicts(
        """g (float[2, 8, 4, 4] in) => (y)
        <float[8, 1, 5, 5] w, float[8, 8, 1, 1] w2, float[8, 8, 3, 3] w3, float[8, 8, 1, 1] w4>
        { x = Conv <group = 8, pads = [2, 2, 2, 2]> (in, w)  h = Conv (x, w2)
          z = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (h, w3)  y = Conv (z, w4) }"""
    )
    assert found["w2"].gain == pytest.approx(1 / 0.7**2)
    assert found["w4"].gain == pytest.approx(1 / (5 / 6) ** 2)  # that of h isn't declared


def test_gate_behind_means_of_maps_lets_about_a_half_through(verdicts):
    found = verdicts(
        """g (float[2, 8, 6, 6] in) => (y)
        <float[8, 8, 1, 1] w, float[4, 8, 1, 1] a, float[8, 4, 1, 1] b, float[8, 8, 1, 1] w2>
        { x = Conv (in, w)  p = GlobalAveragePool (x)  q = Conv (p, a)  r = Relu (q)
          s = Conv (r, b)  g1 = Sigmoid (s)  e = Mul (x, g1)  y = Conv (e, w2) }"""
    )
    assert 0.25 < 1 / found["w2"].gain < 1 / SECOND_MOMENT_GAIN["Sigmoid"]


def test_average_pool_keeps_the_mean_and_part_of_the_variance(verdicts):
    found = verdicts(
        """g (float[2, 8, 6, 6] in) => (y) <float[8, 8, 1, 1] w, float[8, 8, 1, 1] w2>
        { x = Conv (in, w)  r = Relu (x)  p = AveragePool <kernel_shape = [2, 2]> (r)
          y = Conv (p, w2) }"""
    )
    mean = 1 / np.sqrt(2 * np.pi)
    assert 1 / found["w2"].gain == pytest.approx(mean**2 + (0.5 - mean**2) / 2)
