"""A weight is found, and its values fit, through whatever stands between it and its layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_ghn import InitializeOptions
from onnx_ghn.passes.initialize import initialize_model
from onnx_ghn.run.session import open_session

LINEAR = """g (float[64, 32] x) => (float[64, 48] y)
    <{declared}, int64[2] square = {{32, 48}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
     int64[1] end = {{48}}, int64[1] all = {{96}}> {{ {body} }}"""

WAYS = {
    "Identity": ("float[32, 48] w", "v = Identity (w) y = MatMul (x, v)"),
    "Transpose": ("float[48, 32] w", "v = Transpose <perm = [1, 0]> (w) y = MatMul (x, v)"),
    "Reshape": ("float[1536] w", "v = Reshape (w, square) y = MatMul (x, v)"),
    "Squeeze": ("float[1, 32, 48] w", "v = Squeeze (w, zero) y = MatMul (x, v)"),
    "Cast": ("float16[32, 48] w", "v = Cast <to = 1> (w) y = MatMul (x, v)"),
    "Expand": ("float[32, 48] w", "v = Expand (w, square) y = MatMul (x, v)"),
    "Slice": ("float[32, 96] w", "v = Slice (w, end, all, one) y = MatMul (x, v)"),
    "Split": ("float[32, 96] w", "u, v = Split <axis = 1> (w) y = MatMul (x, v)"),
    "Gather": ("float[3, 32, 48] w", "u = Gather (w, one) v = Squeeze (u, zero) y = MatMul (x, v)"),
    "Concat": (
        "float[32, 24] w, float[32, 24] u",
        "v = Concat <axis = 1> (w, u) y = MatMul (x, v)",
    ),
    "weight norm": (
        "float[48, 32] w, float[48, 1] g",
        "n = ReduceL2 <axes = [1], keepdims = 1> (w) d = Div (w, n) v = Mul (d, g)"
        " y = Gemm <transB = 1> (x, v)",
    ),
    "scaled": ("float[32, 48] w, float c = {0.5}", "v = Mul (w, c) y = MatMul (x, v)"),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_found_and_keep_the_signal(verdicts, parse, way):
    declared, body = WAYS[way]
    model = parse(LINEAR.format(declared=declared, body=body))
    found = verdicts(model)["w"]
    assert (found.role, found.learnable) == ("linear", True), found.reason
    assert found.fan_in == 32
    initialize_model(model, InitializeOptions(method="classical"))
    x = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    (y,) = open_session(model).run({"x": x}).values()
    assert 0.4 < y.std() < 2.5


MICROSOFT = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'

FUSED = {
    "FusedConv": (
        "float[2, 3, 8, 8] x",
        "float[4, 3, 3, 3] w, float[4] b",
        'y = com.microsoft.FusedConv <activation = "Relu"> (x, w, b)',
        {"w": "conv", "b": "bias"},
    ),
    "FusedMatMul": (
        "float[2, 8] x",
        "float[4, 8] w",
        "y = com.microsoft.FusedMatMul <transB = 1> (x, w)",
        {"w": "linear"},
    ),
    "SkipLayerNormalization": (
        "float[2, 5, 8] x",
        "float[8] s, float[8] b, float[8] c",
        "y = com.microsoft.SkipLayerNormalization (x, x, s, b, c)",
        {"s": "norm_scale", "b": "norm_shift", "c": "bias"},
    ),
    "EmbedLayerNormalization": (
        "int32[2, 5] x",
        "float[20, 8] w, float[9, 8] p, float[2, 8] t, float[8] s, float[8] b",
        "y, m = com.microsoft.EmbedLayerNormalization (x, x, w, p, t, s, b)",
        {"w": "embedding", "p": "position", "t": "embedding", "s": "norm_scale", "b": "norm_shift"},
    ),
    "Attention": (
        "float[2, 5, 8] x",
        "float[8, 24] w, float[24] b",
        "y = com.microsoft.Attention <num_heads = 2> (x, w, b)",
        {"w": "linear", "b": "bias"},
    ),
    "BiasGelu": (
        "float[2, 8] x",
        "float[8, 8] w, float[8] b",
        "h = MatMul (x, w) y = com.microsoft.BiasGelu (h, b)",
        {"w": "linear", "b": "bias"},
    ),
}


@pytest.mark.parametrize("operator", FUSED)
def test_fused_operators(verdicts, operator):
    data, declared, body, roles = FUSED[operator]
    found = verdicts(f"{MICROSOFT} g ({data}) => (y) <{declared}> {{ {body} }}")
    assert {name: p.role for name, p in found.items() if p.learnable} == roles


QUANTISED = {
    "QLinearConv": """g (uint8[1, 3, 8, 8] x) => (uint8[1, 4, 6, 6] y)
        <float s = {0.02}, uint8 z = {128}, int8[4, 3, 3, 3] w, float[4] ws, int8 wz = {0},
         int32[4] b>
        { y = QLinearConv (x, s, z, w, ws, wz, s, z, b) }""",
    "MatMulInteger": """g (uint8[2, 8] x) => (int32[2, 4] y) <int8[8, 4] w>
        { y = MatMulInteger (x, w) }""",
    "DequantizeLinear": """g (float[2, 8] x) => (float[2, 4] y)
        <int8[8, 4] w, float[4] ws, int8[4] wz, float[4] b>
        { v = DequantizeLinear <axis = 1> (w, ws, wz) m = MatMul (x, v) y = Add (m, b) }""",
}


@pytest.mark.parametrize("form", QUANTISED)
def test_quantised_weights_and_their_scales_are_kept_to_the_byte(parse, form):
    model = parse(QUANTISED[form])
    stored = model.graph.initializers
    before = {name: value.const_value.numpy() for name, value in stored.items()}
    report = initialize_model(model, InitializeOptions(method="classical"))
    changed = {k for k, a in before.items() if not np.array_equal(stored[k].const_value.numpy(), a)}
    assert changed == ({"b"} if form == "DequantizeLinear" else set())
    assert next(outcome for outcome in report.outcomes if outcome.name == "w").reason == "quantised"


def test_opset_6(verdicts):
    """Broadcasting and shapes as attributes, a BatchNormalization of its time."""
    found = verdicts(
        """<ir_version: 3, opset_import: ["" : 6]>
        g (float[2, 3, 8, 8] x) => (y)
        <float[4, 3, 3, 3] w, float[4] c, float[4] s, float[4] b, float[4] m, float[4] v,
         float[144, 5] f, float[5] d> {
            h = Conv <kernel_shape = [3, 3]> (x, w)  a = Add <axis = 1, broadcast = 1> (h, c)
            n = BatchNormalization <is_test = 1> (a, s, b, m, v)  r = Relu (n)
            t = Reshape <shape = [2, 144]> (r)  k = MatMul (t, f)
            y = Add <broadcast = 1> (k, d) }"""
    )
    roles = {name: str(p.role) for name, p in found.items() if p.learnable}
    assert roles == {
        **{"w": "conv", "c": "bias", "s": "norm_scale", "b": "norm_shift"},
        **{"f": "linear", "d": "bias"},
    }


def test_weights_of_a_scan_body_and_what_it_captures(verdicts):
    found = verdicts(
        """g (float[4, 8] h0, float[6, 4, 8] xs) => (float[4, 8] h, float[6, 4, 8] ys)
        <float[8, 8] recurrent> {
            h, ys = Scan <num_scan_inputs = 1, body = step (float[4, 8] s, float[4, 8] x)
                => (float[4, 8] n, float[4, 8] o) <float[8, 8] inner> {
                    a = MatMul (s, recurrent)  b = MatMul (x, inner)
                    c = Add (a, b)  n = Tanh (c)  o = Identity (n) }> (h0, xs) }"""
    )
    assert {name: str(p.role) for name, p in found.items()} == {
        "recurrent": "linear",
        "inner": "linear",
    }
    assert all(p.learnable for p in found.values())


def test_models_of_the_ml_domain_keep_their_attributes(parse):
    """A scaler before a perceptron, as scikit-learn's converter writes it."""
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (float[2, 3] x) => (float[2, 4] y) <float[3, 4] w, float[1, 4] b> {
            s = ai.onnx.ml.Scaler <offset = [0.5, 1.0, 2.0], scale = [2.0, 3.0, 4.0]> (x)
            m = MatMul (s, w)  y = Add (m, b) }"""
    )
    before = onnx.helper.printable_node(ir.to_proto(model.graph[0]))
    report = initialize_model(model, InitializeOptions(method="classical"))
    assert {outcome.name: outcome.role for outcome in report.outcomes if outcome.learnable} == {
        "w": "linear",
        "b": "bias",
    }
    assert onnx.helper.printable_node(ir.to_proto(model.graph[0])) == before
