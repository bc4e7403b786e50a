"""Values of parameters, and how they are written."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn import drawing
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.initialize import Initialize

NETWORK = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[n, 3, 8, 8] x, float[150, 3, 3, 3] stem, float[130, 150, 3, 3] kernel,
         float16[200, 130] half, float[10, 200] head) => (float[n, 10] y)
    {
      a = Conv <pads = [1, 1, 1, 1]> (x, stem)
      b = Relu (a)
      c = Conv (b, kernel)
      d = GlobalAveragePool (c)
      e = Flatten (d)
      e16 = Cast <to = 10> (e)
      f16 = Gemm <transB = 1> (e16, half)
      f = Cast <to = 1> (f16)
      g = Relu (f)
      y = Gemm <transB = 1> (g, head)
    }
"""


@pytest.mark.parametrize(("half", "code"), [("float16", 10), ("bfloat16", 16)])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_rows_that_repeat_are_written_as_the_whole_is(
    monkeypatch: pytest.MonkeyPatch, noise: float, half: str, code: int
):
    monkeypatch.setattr(drawing, "LARGE", 0)
    text = NETWORK.replace("float16", half).replace("to = 10", f"to = {code}")
    model = ir.from_onnx_text(text)
    Initialize(InitializeOptions(method="ghn", noise=noise))(model)
    repeating = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        file = io.BytesIO()
        tensor.tofile(file)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(
            np.frombuffer(file.getvalue(), tensor.dtype.numpy()), tensor.numpy().ravel()
        )
        repeating += isinstance(tensor, drawing._Repeating)
    assert repeating == (0 if noise else 4)
