"""Conditions, loops and sequences against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from onnx_ghn.run.interpreter import Interpreter

IF = """
<ir_version: 10, opset_import: ["" : 18]>
choose (bool flag, float[2] x, float[2] w) => (float[2] y) {
  twice = Add (x, x)
  y = If (flag) <
    then_branch = then () => (float[2] a) { a = Mul (twice, w) },
    else_branch = otherwise () => (float[2] b)
      <float[2] offset = {10.0, 20.0}> { b = Sub (offset, x) }
  >
}
"""
LOOP = """
<ir_version: 10, opset_import: ["" : 18]>
count (int64 n, float[2] x, float[2] w) => (float[2] last, float[steps, 2] all) {
  yes = Constant <value = bool {1}> ()
  last, all = Loop (n, yes, x) <
    body = step (int64 i, bool going, float[2] state)
        => (bool more, float[2] next, float[2] seen) {
      next = Mul (state, w)
      number = Cast <to: int = 1> (i)
      seen = Add (next, number)
      limit = Constant <value = float {100.0}> ()
      total = ReduceSum <keepdims: int = 0> (next)
      more = Less (total, limit)
    }
  >
}
"""
SCAN = """
<ir_version: 10, opset_import: ["" : 18]>
scan (float[2] start, float[5, 2] x, float[2] w) => (float[2] last, float[2, 5] all) {
  last, all = Scan (start, x) <
    num_scan_inputs: int = 1, scan_input_directions: ints = [1], scan_output_axes: ints = [1],
    body = step (float[2] state, float[2] row) => (float[2] next, float[2] seen) {
      scaled = Mul (state, w)
      next = Add (scaled, row)
      seen = Neg (next)
    }
  >
}
"""
SEQUENCE = """
<ir_version: 10, opset_import: ["" : 18]>
collect (float[6, 2] x) => (float[6, 2] y, float[2] z, int64 n, float[6, 2] last) {
  two = Constant <value = int64 {2}> ()
  one = Constant <value = int64 {1}> ()
  parts = SplitToSequence <axis: int = 0> (x, two)
  pair = SequenceConstruct (x, x)
  empty = SequenceEmpty <dtype: int = 1> ()
  second = SequenceAt (parts, one)
  some = SequenceInsert (empty, second)
  more = SequenceInsert (parts, second, one)
  n = SequenceLength (more)
  y = ConcatFromSequence <axis: int = 0> (parts)
  rows = SplitToSequence <axis: int = 0, keepdims: int = 0> (x)
  z = SequenceAt (rows, one)
  last = SequenceAt (pair, one)
}
"""


def compare(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = onnx.parser.parse_model(text)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, feeds)
    got = Interpreter(ir.from_proto(model))({k: torch.from_numpy(v) for k, v in feeds.items()})
    for tensor, array in zip(got, expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-6)


@pytest.mark.parametrize("flag", [True, False])
def test_if(normal, flag):
    compare(IF, {"flag": np.array(flag), "x": normal(2), "w": normal(2)})


@pytest.mark.parametrize("trips", [1, 4, 50])
def test_loop(trips):
    x, w = np.float32([1.0, 2.0]), np.float32([1.5, 1.2])
    compare(LOOP, {"n": np.array(trips), "x": x, "w": w})


def test_scan(normal):
    compare(SCAN, {"start": normal(2), "x": normal(5, 2), "w": normal(2)})


def test_sequences(normal):
    compare(SEQUENCE, {"x": normal(6, 2)})


def test_gradient_through_a_loop():
    interpreter = Interpreter(ir.from_onnx_text(LOOP))
    w = torch.tensor([1.5, 1.2], requires_grad=True)
    x = torch.tensor([1.0, 2.0])
    last, _ = interpreter({"n": torch.tensor(3), "x": x, "w": w})
    (gradient,) = torch.autograd.grad(last.sum(), w)
    torch.testing.assert_close(gradient, 3 * x * w.detach() ** 2)


def test_parameter_of_a_subgraph(normal):
    interpreter = Interpreter(ir.from_onnx_text(IF))
    x, offset = torch.from_numpy(normal(2)), torch.from_numpy(normal(2)).requires_grad_()
    feeds = {"flag": torch.tensor(False), "x": x, "w": x}
    (y,) = interpreter(feeds, {"offset": offset})
    torch.testing.assert_close(y, offset - x)


def test_random_numbers_are_drawn_once():
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    draw () => (float[100, 90] a, float[100, 90] b) {
      a = RandomNormal <shape: ints = [100, 90], mean: float = 2.0, scale: float = 3.0> ()
      b = RandomUniform <shape: ints = [100, 90], low: float = -1.0, high: float = 3.0> ()
    }
    """
    interpreter = Interpreter(ir.from_onnx_text(text))
    a, b = interpreter({})
    assert abs(a.mean() - 2) < 0.15
    assert abs(a.std() - 3) < 0.15
    assert b.min() >= -1
    assert b.max() < 3
    assert abs(b.mean() - 1) < 0.1
    torch.testing.assert_close(interpreter({}), (a, b), rtol=0, atol=0)
