"""Classical initialisers: variance kept through every kind of weight, and the rest by role."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn import fallback
from onnx_ghn.errors import ModelError, OptionError
from onnx_ghn.fallback import draw, method_for
from onnx_ghn.read.layout import Layout, Reshape
from onnx_ghn.read.parameter import Holder, Parameter, Role, Site
from onnx_ghn.run.session import open_session


def make(role: Role, logical_shape: tuple[int, ...], **fields: Any) -> Parameter:
    name = fields.pop("name", "weight")
    fields.setdefault("fan_in", math.prod(logical_shape[1:]) if len(logical_shape) > 1 else 1)
    fields.setdefault("layout", Layout())
    fields.setdefault("shape", logical_shape)
    return Parameter(
        name=name,
        value=ir.Value(name=name),
        holder=Holder.INITIALIZER,
        dtype=ir.DataType.FLOAT,
        role=role,
        learnable=True,
        reason="",
        logical_shape=logical_shape,
        tie=fields.pop("tie", name),
        **fields,
    )


def through_onnx(
    text: str, weight: npt.NDArray[np.float32], x: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The output of a one-node model whose weight is its input `w`."""
    session = open_session(ir.from_onnx_text(text))
    return session.run({"x": x, "w": weight})["y"]


def noise(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["classical", "kaiming", "lecun", "xavier"]),
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([1.0, 2.0]),
    st.integers(0, 100),
)
def test_linear_has_its_variance(method: str, out: int, features: int, gain: float, seed: int):
    parameter = make(Role.LINEAR, (out, features), gain=gain)
    weight = draw(parameter, method, seed).astype(np.float64)
    expected = {
        "classical": gain / features,
        "kaiming": gain / features,
        "lecun": 1 / features,
        "xavier": 2 / (features + out),
    }[method]
    # Orthogonal weights have their mean square exactly; others within sampling error.
    slack = 1e-5 if method == "classical" else 6 * math.sqrt(2 / weight.size)
    assert np.mean(weight**2) == pytest.approx(expected, rel=slack)


@pytest.mark.parametrize(("out", "features"), [(64, 64), (10, 300), (300, 10), (128, 512)])
def test_linear_keeps_the_mean_square_through_relu(out: int, features: int):
    x = np.maximum(noise(4000, features), 0)
    weight = draw(make(Role.LINEAR, (out, features), gain=2.0))
    assert np.mean((x @ weight.T) ** 2) == pytest.approx(2 * np.mean(x**2), rel=0.15)


CONVOLUTIONS = {
    "2d": ("pads=[1,1,1,1]", (32, 16, 3, 3), 1, (8, 16, 20, 20)),
    "grouped": ("group=4", (32, 8, 3, 3), 4, (8, 32, 20, 20)),
    "depthwise": ("group=64", (64, 1, 5, 5), 64, (8, 64, 20, 20)),
    "1d": ("strides=[2]", (24, 12, 7), 1, (8, 12, 200)),
    "3d": ("dilations=[2,2,2]", (16, 8, 3, 3, 3), 1, (4, 8, 12, 12, 12)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolution_keeps_the_variance(kind: str):
    attributes, shape, groups, x_shape = CONVOLUTIONS[kind]
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float{list(x_shape)} x, float{list(shape)} w) => (float y)
        {{ y = Conv<{attributes}>(x, w) }}"""
    parameter = make(Role.CONV, shape, groups=groups)
    y = through_onnx(text, draw(parameter), noise(*x_shape))
    interior = y[:, :, *(slice(1, -1) for _ in x_shape[2:])]  # borders see fewer inputs
    assert interior.var() == pytest.approx(1.0, rel=0.15)
    if shape[0] // groups <= math.prod(shape[1:]):
        norms = np.linalg.norm(draw(parameter).reshape(shape[0], -1), axis=1)
        assert norms == pytest.approx(np.ones(shape[0]), abs=1e-5)


def test_transposed_convolution_counts_only_the_inputs_that_meet_an_output():
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4,32,16,16] x, float[32,16,4,4] w) => (float y)
        { y = ConvTranspose<strides=[2,2]>(x, w) }"""
    # Of 4 x 4 kernel positions, 2 x 2 reach any one output at stride 2.
    parameter = make(Role.CONV_TRANSPOSE, (16, 32, 4, 4), fan_in=32 * 2 * 2)
    y = through_onnx(text, draw(parameter).swapaxes(0, 1).copy(), noise(4, 32, 16, 16))
    assert y[:, :, 4:-4, 4:-4].var() == pytest.approx(1.0, rel=0.15)


def test_packed_projections_are_orthogonal_each():
    weight = draw(make(Role.LINEAR, (3 * 48, 48), blocks=3))
    for block in weight.reshape(3, 48, 48):
        assert block @ block.T == pytest.approx(np.eye(48), abs=1e-5)


def test_recurrent_weights_are_orthogonal_gate_by_gate():
    parameter = make(Role.RECURRENT_HIDDEN, (2, 4 * 40, 40), blocks=8, fan_in=40)
    for gate in draw(parameter).reshape(8, 40, 40):
        assert gate @ gate.T == pytest.approx(np.eye(40), abs=1e-5)


def test_depth_scale_shrinks_the_last_projection():
    plain = draw(make(Role.LINEAR, (32, 32)))
    scaled = draw(make(Role.LINEAR, (32, 32), depth_scale=0.25))
    assert scaled == pytest.approx(plain * 0.25, rel=1e-5)


def lstm_bias(directions: int, hidden: int, **fields: Any) -> Parameter:
    shape = (directions, 8 * hidden)
    node = ir.node("LSTM", [None] * 4, attributes={"hidden_size": hidden})
    flat = (directions * 8 * hidden,)
    return make(
        Role.RECURRENT_BIAS,
        flat,
        shape=shape,
        layout=Layout((Reshape(flat, shape),)),
        sites=(Site(node, 3),),
        **fields,
    )


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm_opens_its_forget_gate(directions: int):
    """In ONNX Runtime: the cell keeps sigmoid(1) of its state, all other gates at sigmoid(0)."""
    hidden = 3
    parameter = lstm_bias(directions, hidden)
    assert method_for(parameter)[0] == "forget-bias"
    bias = parameter.layout.to_physical(draw(parameter))
    direction = "forward" if directions == 1 else "bidirectional"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,2] x, float[{directions},12,2] W, float[{directions},12,3] R,
           float[{directions},24] b, float[{directions},1,3] h, float[{directions},1,3] c)
        => (float y)
        {{ p, q, y = LSTM<hidden_size=3, direction="{direction}">(x, W, R, b, , h, c) }}"""
    zeros = {"W": (12, 2), "R": (12, 3), "h": (1, 3)}
    feeds = {name: np.zeros((directions, *shape), np.float32) for name, shape in zeros.items()}
    feeds |= {"x": noise(1, 1, 2), "b": bias, "c": np.full((directions, 1, 3), 2, np.float32)}
    y = open_session(ir.from_onnx_text(text)).run(feeds)["y"]
    assert y == pytest.approx(np.full(y.shape, 2 / (1 + math.exp(-1))), abs=1e-6)


def test_gru_bias_and_assembled_lstm_bias_are_zero():
    node = ir.node("GRU", [None] * 4, attributes={"hidden_size": 4})
    gru = make(Role.RECURRENT_BIAS, (1, 24), sites=(Site(node, 3),))
    half = make(
        Role.RECURRENT_BIAS,
        (1, 16),
        sites=(Site(ir.node("LSTM", [None] * 4, attributes={"hidden_size": 4}), 3),),
    )
    for parameter in (gru, half):
        assert method_for(parameter)[0] == "constant"
        assert not draw(parameter).any()


@pytest.mark.parametrize(
    "role", [Role.EMBEDDING, Role.POSITION, Role.TOKEN, Role.RELATIVE_POSITION]
)
def test_tables_are_truncated_normal(role: Role):
    values = draw(make(role, (500, 100)))
    assert method_for(make(role, (500, 100)))[0] == "normal"
    assert values.std() == pytest.approx(0.02, rel=0.02)
    assert np.abs(values).max() < 0.05


@pytest.mark.parametrize(
    ("after", "std"),
    [
        ("n = LayerNormalization(e, s)  y = MatMul(n, w)", 0.02),
        ("q = Mul(e, e) m = ReduceMean(q) r = Sqrt(m) n = Div(e, r)  y = MatMul(n, w)", 0.02),
        ("a = Add(e, s)  y = MatMul(a, w)", 1.0),
        ("m = ReduceMean<axes=[1]>(e)  y = MatMul(m, w)", 1.0),  # a bag of words
        ("h = MatMul(e, w)  y = LayerNormalization(h, s)", 1.0),
        ("n = LayerNormalization(e, s)  t = Transpose(table)  y = MatMul(n, t)", 0.02),
    ],
)
def test_embeddings_have_unit_variance_where_no_norm_follows(after: str, std: float):
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,T] x, float[90,50] table, float[50] s, float[50,50] w) => (float y)
        {{ e = Gather(table, x)  {after} }}"""
    )
    sites = [Site(node, 0) for node in model.graph if node.op_type == "Gather"]
    parameter = make(Role.EMBEDDING, (90, 50), sites=tuple(sites))
    assert draw(parameter).std() == pytest.approx(std, rel=0.05)
    assert ("no norm follows" in method_for(parameter)[1]) == (std == 1.0)


def test_embedding_that_is_the_head_too_is_small():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,T] x, float[9,9] table) => (float y)
        { e = Gather(table, x)  y = MatMul(e, table) }"""
    )
    gather, product = model.graph
    parameter = make(Role.EMBEDDING, (9, 9), sites=(Site(gather, 0), Site(product, 1)))
    assert draw(parameter).std() < 0.03


@pytest.mark.parametrize(
    ("role", "neutral", "expected"),
    [
        (Role.NORM_SCALE, 1.0, 1.0),
        (Role.NORM_SCALE, 0.0, 0.0),
        (Role.NORM_SHIFT, 0.0, 0.0),
        (Role.BIAS, 0.0, 0.0),
        (Role.LAYER_SCALE, 0.0, 0.1),
        (Role.PRELU_SLOPE, 0.0, 0.25),
        (Role.LOGIT_SCALE, 0.0, 1.0),
        (Role.RUNNING_MEAN, 0.0, 0.0),
        (Role.RUNNING_VARIANCE, 0.0, 1.0),
    ],
)
def test_vectors_start_at_the_constant_of_their_role(role: Role, neutral: float, expected: float):
    parameter = make(role, (7,), neutral=neutral)
    assert method_for(parameter)[0] == "constant"
    assert draw(parameter) == pytest.approx(np.full(7, expected))


def test_logit_scale_behind_exp_is_a_logarithm():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float s, float top) => (float y)
        { c = Min(s, top) e = Exp(c) y = Mul(x, e) }"""
    )
    nodes = list(model.graph)
    for site in (Site(nodes[0], 0), Site(nodes[1], 0), Site(nodes[2], 1)):
        assert float(draw(make(Role.LOGIT_SCALE, (), sites=(site,)))) == pytest.approx(
            2.659, abs=1e-3
        )
    assert float(draw(make(Role.LOGIT_SCALE, (), sites=(Site(nodes[2], 0),)))) == 1.0


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("h = Mul(f, s)  y = Add(x, h)", 0.1),  # the end of a residual branch
        ("h = Mul(s, f)  t = Transpose(h)  y = Add(t, x)", 0.1),
        ("h = Mul(f, s)  y = Add(h, b)", 1.0),  # an affine layer without norm
        ("h = Mul(f, s)  i = Identity(b)  y = Add(h, i)", 1.0),
        ("y = Mul(f, s)", 1.0),
    ],
)
def test_scales_are_small_only_at_the_end_of_a_branch(after: str, expected: float):
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,N] z, float[N] s, float[N] b) => (float y)
        {{ x = Relu(z)  f = Relu(x)  {after} }}"""
    )
    site = next(
        Site(node, index)
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None and value.name == "s"
    )
    assert draw(make(Role.LAYER_SCALE, (5,), sites=(site,)))[0] == pytest.approx(expected)


def test_unknown_role_is_near_neutral_but_not_constant():
    values = draw(make(Role.OTHER, (50,), neutral=1.0))
    assert 0.9 < values.min() < values.max() < 1.1
    assert values.std() > 0


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(Role)),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from(["classical", *fallback.MATRIX_METHODS]),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_every_shape_gives_finite_values(
    role: Role, shape: tuple[int, ...], method: str, groups: int, fan_in: int
):
    parameter = make(role, shape, groups=groups, fan_in=fan_in)
    if role in (Role.CONSTANT, Role.QUANTIZED):
        with pytest.raises(ModelError, match="weight"):
            draw(parameter, method)
        return
    values = draw(parameter, method)
    assert values.shape == shape
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.array_equal(values, draw(parameter, method_for(parameter, method)[0]))


def test_draws_depend_on_seed_and_tie_alone():
    shape = (48, 48)
    first = draw(make(Role.LINEAR, shape, name="a"), seed=1)
    assert np.array_equal(first, draw(make(Role.LINEAR, shape, name="b", tie="a"), seed=1))
    assert not np.array_equal(first, draw(make(Role.LINEAR, shape, name="b"), seed=1))
    assert not np.array_equal(first, draw(make(Role.LINEAR, shape, name="a"), seed=2))


def test_large_matrices_are_normal_and_memory_stays_flat(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fallback, "LARGE", 1 << 20)
    parameter = make(Role.LINEAR, (2048, 2048), gain=2.0)
    name, reason = method_for(parameter)
    assert name == "kaiming"
    assert "more than 1,048,576 elements" in reason
    draw(parameter)  # the table of quantiles is made once
    tracemalloc.start()
    values = draw(parameter)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes + 4e6
    assert values.var() == pytest.approx(2 / 2048, rel=0.01)


def test_unknown_method_is_refused():
    with pytest.raises(OptionError, match=r"'magic'.*orthogonal"):
        method_for(make(Role.LINEAR, (2, 2)), "magic")


def test_reasons_say_what_was_reckoned_with():
    assert method_for(make(Role.CONV, (8, 4, 3, 3), gain=2.0)) == (
        "orthogonal",
        "conv; gain 2, fan-in 36",
    )
    assert method_for(make(Role.LAYER_SCALE, (8,)))[1] == "layer_scale; 0.1"
