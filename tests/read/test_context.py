"""Gains: which non-linearity stands before a weight."""

from __future__ import annotations

import pytest

NETWORK = """g (float[2, 8] in) => (y)
    <float[8, 8] w, float[8, 8] w2, float[8] s, float[8] b,
     float half = {{0.5}}, float one = {{1.0}},
     float root = {{1.414}}, float k = {{1.702}}>
    {{ x = MatMul (in, w)  {body}  y = MatMul (a, w2) }}"""

CASES = [
    ("a = Identity (x)", 1.0),
    ("a = Relu (x)", 2.0),
    ("a = LeakyRelu (x)", 2.0),
    ("a = Sigmoid (x)", 1.0),
    ("a = Tanh (x)", 1.0),
    ("r = Relu (x) a = LayerNormalization (r, s, b)", 1.0),
    ("g1 = Sigmoid (x) a = Mul (x, g1)", 2.0),
    ("q = Mul (x, k) g1 = Sigmoid (q) a = Mul (x, g1)", 2.0),
    ("d = Div (x, root) e = Erf (d) p = Add (e, one) m = Mul (x, p) a = Mul (m, half)", 2.0),
    ("r = Relu (x) t = MatMul (r, w) u = Sigmoid (t) a = Mul (r, u)", 2.0),  # a gate of other data
]


@pytest.mark.parametrize(("body", "gain"), CASES)
def test_gain(verdicts, body, gain):
    assert verdicts(NETWORK.format(body=body))["w2"].gain == gain
    assert verdicts(NETWORK.format(body=body))["w"].gain in (1.0, gain)
