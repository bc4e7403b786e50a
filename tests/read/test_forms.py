"""Logical shapes: what the layouts put into the file must compute what a torch module would."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.verdict import judge

CASES = {
    "matmul": ("float[5, 6] x", "float[6, 4] w", "y = MatMul (x, w)"),
    "gemm": ("float[5, 6] x", "float[6, 4] w", "y = Gemm (x, w)"),
    "gemm_transposed": ("float[5, 6] x", "float[4, 6] w", "y = Gemm <transB = 1> (x, w)"),
    "through_transpose": (
        "float[5, 6] x",
        "float[4, 6] w",
        "t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t)",
    ),
    "einsum": ("float[5, 6] x", "float[2, 6, 2] w", 'y = Einsum <equation = "bi,ois->bos"> (x, w)'),
}


@pytest.mark.parametrize("case", CASES)
def test_linear_layers_compute_x_times_logical_transposed(parse, case):
    data, weight, body = CASES[case]
    model = parse(f"g ({data}) => (y) <{weight}> {{ {body} }}")
    (parameter,) = judge(model, trace(model))
    assert parameter.role == "linear"
    assert parameter.logical_shape == (4, 6)
    assert parameter.fan_in == 6
    generator = np.random.default_rng(0)
    logical = generator.standard_normal((4, 6)).astype(np.float32)
    x = generator.standard_normal((5, 6)).astype(np.float32)
    result = run(model, parameter, logical, x)
    np.testing.assert_allclose(result.reshape(5, 4), x @ logical.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 2)])
def test_transposed_convolution(parse, groups, stride):
    inputs, outputs, kernel = 4, 6, 3
    model = parse(
        f"""g (float[1, {inputs}, 7] x) => (y) <float[{inputs}, {outputs // groups}, {kernel}] w>
        {{ y = ConvTranspose <group = {groups}, strides = [{stride}]> (x, w) }}"""
    )
    (parameter,) = judge(model, trace(model))
    assert parameter.role == "conv_transpose"
    assert parameter.logical_shape == (outputs, inputs // groups, kernel)
    assert parameter.groups == groups
    assert parameter.fan_in == max(1, inputs // groups * kernel // stride)
    generator = np.random.default_rng(1)
    logical = generator.standard_normal(parameter.logical_shape).astype(np.float32)
    x = generator.standard_normal((1, inputs, 7)).astype(np.float32)
    # (out, in / groups, k) to torch's (in, out / groups, k), group by group
    blocks = logical.reshape(groups, outputs // groups, inputs // groups, kernel)
    theirs = blocks.transpose(0, 2, 1, 3).reshape(inputs, outputs // groups, kernel)
    expected = F.conv_transpose1d(
        torch.from_numpy(x), torch.from_numpy(theirs.copy()), stride=stride, groups=groups
    )
    result = run(model, parameter, logical, x)
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_left_operand(parse):
    model = parse("""g (float[2, 6, 3] x) => (y) <float[4, 6] w> { y = MatMul (w, x) }""")
    (parameter,) = judge(model, trace(model))
    assert (parameter.role, parameter.logical_shape, parameter.fan_in) == ("linear", (4, 6), 6)


def test_batched_matrices_are_blocks(parse):
    model = parse("""g (float[3, 5, 6] x) => (y) <float[3, 6, 4] w> { y = MatMul (x, w) }""")
    (parameter,) = judge(model, trace(model))
    assert parameter.logical_shape == (12, 6)
    assert (parameter.blocks, parameter.fan_in) == (3, 6)
    logical = np.arange(72).reshape(12, 6)
    physical = parameter.layout.to_physical(logical)
    np.testing.assert_array_equal(physical[1], logical[4:8].T)


def test_recurrent_gates(parse):
    model = parse(
        """g (float[7, 1, 6] x) => (y)
        <float[2, 20, 6] w, float[2, 20, 5] r, float[2, 40] b>
        { y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r, b) }"""
    )
    w, r, b = judge(model, trace(model))
    assert [p.role for p in (w, r, b)] == ["recurrent_input", "recurrent_hidden", "recurrent_bias"]
    assert (w.logical_shape, w.fan_in, w.blocks) == ((40, 6), 6, 8)
    assert (r.logical_shape, r.fan_in, r.blocks) == ((40, 5), 5, 8)
    assert (b.logical_shape, b.blocks) == ((80,), 16)


def run(model, parameter, logical, x):
    physical = np.ascontiguousarray(parameter.layout.to_physical(logical))
    assert physical.shape == parameter.shape
    parameter.value.const_value = ir.tensor(physical, name=parameter.name)
    model.graph.outputs[0].dtype = ir.DataType.FLOAT
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": x})[0]
