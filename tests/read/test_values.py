"""From a graph to values: what the reader finds and the initialiser draws keeps the signal."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_ghn import InitializeOptions
from onnx_ghn.fallback import draw
from onnx_ghn.passes import Initialize
from onnx_ghn.run.session import open_session

KEEPING = {
    "grouped": ("[4, 32, 18, 18]", "w[32,8,3,3]", "y = Conv<group=4>(x, w)"),
    "depthwise": ("[4, 64, 18, 18]", "w[64,1,5,5]", "y = Conv<group=64>(x, w)"),
    "1d": ("[4, 32, 200]", "w[32,32,7]", "y = Conv(x, w)"),
    "3d": ("[2, 16, 12, 12, 12]", "w[16,16,3,3,3]", "y = Conv(x, w)"),
    # cropped to what every kernel position reaches
    "transposed": (
        "[2, 32, 16, 16]",
        "w[32,16,4,4]",
        "y = ConvTranspose<strides=[2,2], pads=[4,4,4,4]>(x, w)",
    ),
    "transposed, grouped": (
        "[2, 32, 16, 16]",
        "w[32,8,4,4]",
        "y = ConvTranspose<strides=[2,2], pads=[4,4,4,4], group=2>(x, w)",
    ),
    "einsum": ("[64, 24]", "w[24,4,16]", 'y = Einsum<equation="bd,dhk->bhk">(x, w)'),
    "einsum over two axes": (
        "[64, 4, 16]",
        "w[4,16,24]",
        'y = Einsum<equation="bhk,hkd->bd">(x, w)',
    ),
    "left operand": ("[32, 64]", "w[48,32]", "y = MatMul(w, x)"),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_weights_keep_the_variance(verdicts, parse, kind):
    shape, weight, body = KEEPING[kind]
    model = parse(f"g (float{shape} x) => (float y) <float{weight[1:]} w> {{ {body} }}")
    y = _run_initialised(verdicts, model)
    assert y.var() == pytest.approx(1.0, rel=0.15)


def test_gru_keeps_its_gates_apart(verdicts, parse):
    """Each gate of the input weights is orthogonal by itself, the bias is zero."""
    found = verdicts(
        parse(
            """g (float[5,1,16] x) => (float y)
            <float[1,48,16] w, float[1,48,16] r, float[1,96] b>
            { y = GRU<hidden_size=16>(x, w, r, b) }"""
        )
    )
    for name in ("w", "r"):
        for gate in draw(found[name]).reshape(3, 16, 16):
            assert gate @ gate.T == pytest.approx(np.eye(16) * np.mean(gate**2) * 16, abs=1e-5)
    assert not draw(found["b"]).any()


def test_lstm_forgets_late(verdicts):
    found = verdicts(
        """g (float[5,1,4] x) => (float y)
        <float[1,12,4] w, float[1,12,3] r, float[1,24] b>
        { y = LSTM<hidden_size=3>(x, w, r, b) }"""
    )
    bias = draw(found["b"]).reshape(2, 4, 3)
    assert bias[0, 2] == pytest.approx(np.ones(3))
    assert bias.sum() == pytest.approx(3)


@pytest.mark.parametrize(("scale", "expected"), [("s", 1.0), ("t", 0.0)])
def test_rms_norm_starts_at_one_or_at_zero_for_one_plus_w(verdicts, scale, expected):
    found = verdicts(
        f"""g (float[2,8] x) => (float y)
        <float[8] s, float[8,8] w, float one = {{1.0}}, float two = {{2.0}}, float e = {{1e-6}}>
        {{ q = Pow(x, two) m = ReduceMean<axes=[-1]>(q) v = Add(m, e) r = Sqrt(v) n = Div(x, r)
           t = Add(s, one) h = Mul(n, {scale}) y = MatMul(h, w) }}"""
    )
    assert draw(found["s"]) == pytest.approx(np.full(8, expected))


@pytest.mark.parametrize("training_mode", [0, 1])
def test_bytes_of_running_statistics_are_no_evidence(verdicts, parse, training_mode):
    """A model and its skeleton get the same gain behind a BatchNormalization."""
    outputs = "n, m2, v2" if training_mode else "n"
    text = f"""g (float[4, 8] in) => (y)
        <float[8,8] w, float[8,8] w2, float[8] s, float[8] b, float[8] m, float[8] v>
        {{ x = MatMul(in, w) t = Add(x, in)
           {outputs} = BatchNormalization<training_mode={training_mode}>(t, s, b, m, v)
           y = MatMul(n, w2) }}"""
    filled, empty = parse(text), parse(text)
    for name in ("m", "v"):
        empty.graph.initializers[name].const_value = None
    gains = {verdicts(model)["w2"].gain for model in (filled, empty)}
    assert gains == {1.0 if training_mode else 0.5}


def _run_initialised(verdicts, model: ir.Model) -> np.ndarray:
    """The output on unit noise, with the weights that the initialiser draws."""
    for name, parameter in verdicts(model).items():
        stored = parameter.layout.to_physical(draw(parameter)).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(stored))
    (x,) = model.graph.inputs
    noise = np.random.default_rng(0).standard_normal([int(n) for n in x.shape])
    return open_session(model).run({"x": noise.astype(np.float32)})["y"]


def test_folded_batch_normalisation_keeps_the_signal(tmp_path):
    """ONNX Runtime's own optimiser folds BatchNorm, statistics and all, into the convolutions.

    Where the norms were, nothing holds the scale of a stream of sums but the weights.
    """
    generator = np.random.default_rng(0)
    blocks, tensors = 12, {}
    for k in range(2 * blocks + 1):
        tensors[f"w{k}"] = generator.standard_normal((16, 3 if k == 0 else 16, 3, 3))
        for name in ("s", "b", "m"):
            tensors[f"{name}{k}"] = 3 * generator.standard_normal(16)
        tensors[f"v{k}"] = 4 * generator.random(16) + 0.5
    layer = "c{0} = Conv <pads = [1, 1, 1, 1]> ({1}, w{0}) "
    layer += "n{0} = BatchNormalization (c{0}, s{0}, b{0}, m{0}, v{0}) "
    body = layer.format(0, "x") + "r0 = Relu (n0) "
    for k in range(blocks):
        body += layer.format(2 * k + 1, f"r{k}") + f"i{k} = Relu (n{2 * k + 1}) "
        body += layer.format(2 * k + 2, f"i{k}") + f"a{k} = Add (n{2 * k + 2}, r{k}) "
        body += f"r{k + 1} = Relu (a{k}) "
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        f"net (float[2, 3, 24, 24] x) => (float[2, 16, 24, 24] r{blocks}) {{ {body} }}"
    )
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in tensors.items()
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    ort.InferenceSession(proto.SerializeToString(), options)
    model = ir.load(tmp_path / "folded.onnx")
    assert {node.op_type for node in model.graph} & {"Conv", "BatchNormalization"} == {"Conv"}
    Initialize(InitializeOptions(method="classical"))(model)
    x = generator.standard_normal((2, 3, 24, 24)).astype(np.float32)
    (stream,) = open_session(model).run({"x": x}).values()
    assert 0.2 < np.sqrt(np.mean(np.square(stream))) < 5.0
