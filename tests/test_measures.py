import onnx_ir as ir

from onnx_ghn.measures import Measures, measure
from onnx_ghn.read.reading import read_model

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 32, 32] x, float[16, 3, 3, 3] a, float[16, 1, 3, 3] b, float[16, 4, 3, 3] c,
     float[10, 16] head, float[10] bias) => (float[n, 10] y)
{
    p = Conv <pads = [1, 1, 1, 1]> (x, a)
    q = Conv <group = 16, pads = [1, 1, 1, 1]> (p, b)
    r = Conv <group = 4, pads = [1, 1, 1, 1]> (q, c)
    s = Add (p, r)
    pooled = GlobalAveragePool (s)
    flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, head, bias)
}
"""


def test_types_and_sizes():
    found = measure(read_model(ir.from_onnx_text(NETWORK)))
    types = {"input", "conv", "sep_conv", "depthwise", "grouped", "sum", "glob_avg", "bias"}
    parameters = 16 * 27 + 16 * 9 + 16 * 36 + 10 * 16 + 10
    assert found == Measures(frozenset(types), parameters, depth=7, width=16, side=32)
    assert found.to_json()["types"] == sorted(types)


def test_the_side_of_pictures_with_channels_last_and_of_unknown_ones():
    last = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 64, 64, 3] x, float[8, 3, 3, 3] w) => (float[n, 8, 64, 64] y) {
        t = Transpose <perm = [0, 3, 1, 2]> (x)
        y = Conv <pads = [1, 1, 1, 1]> (t, w)
    }"""
    assert measure(read_model(ir.from_onnx_text(last))).side == 64
    dynamic = NETWORK.replace("32, 32] x", "h, w] x")
    assert measure(read_model(ir.from_onnx_text(dynamic))).side == 0


def test_a_tied_weight_counts_once():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 8] x, float[8, 8] w) => (float[n, 8] y) {
        h = Gemm <transB = 1> (x, w)
        y = Gemm <transB = 1> (h, w)
    }"""
    assert measure(read_model(ir.from_onnx_text(text))).parameters == 64
