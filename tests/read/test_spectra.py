"""Fourier bases and filterbanks."""

from __future__ import annotations


def test_spectrogram(verdicts):
    found = verdicts(
        """g (float[2, 1, 400] x) => (y)
        <float[34, 1, 32] dft, float[17, 8] mel, float[8, 8, 3] w, float eps = {1e-6},
         int64[2] parts = {17, 17}>
        { s = Conv <strides = [16]> (x, dft)  r, i = Split <axis = 1> (s, parts)
          p = Mul (r, r)  q = Mul (i, i)  e = Add (p, q)  t = Transpose <perm = [0, 2, 1]> (e)
          m = MatMul (t, mel)  f = Add (m, eps)  l = Log (f)
          u = Transpose <perm = [0, 2, 1]> (l)  y = Conv (u, w) }"""
    )
    assert [name for name, parameter in found.items() if parameter.learnable] == ["w"]
