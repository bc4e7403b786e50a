import dataclasses
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.hypernet import predict as module
from onnx_ghn.hypernet import tiles
from onnx_ghn.hypernet.fit import fit_weight, scale
from onnx_ghn.hypernet.predict import predict, reasons_against
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op, Part, Slot
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.reading import read_model
from onnx_ghn.run.session import open_session


@pytest.fixture
def reading(parity_values):
    """input -> conv -> bn -> conv (tied to a third) -> pos_enc -> conv head -> bias."""
    make = parity_values._parameter
    parameters = [
        make("conv", (6, 3, 3, 3)),
        make("scale", (6,)),
        make("shift", (6,)),
        make("linear", (40, 50)),
        make("position", (1, 5, 50)),
        make("head", (10, 50)),
        make("head_bias", (10,)),
        make("stray", (7,)),
    ]
    ops = [Op.INPUT, Op.CONV, Op.BN, Op.CONV, Op.POS_ENC, Op.CONV, Op.BIAS]
    sizes = [(0,) * 4, (6, 3, 3, 3), (6, 1, 1, 1), (40, 50, 1, 1), (1, 50, 2, 2)]
    sizes += [(10, 50, 1, 1), (10, 1, 1, 1)]
    attributes = np.zeros((7, len(ATTRIBUTES)), np.int64)
    attributes[5:, ATTRIBUTES.index("is_head")] = 1
    position = np.arange(7)
    graph = GhnGraph(
        op=np.array(ops, np.int64),
        shape=np.array(sizes, np.int64),
        attributes=attributes,
        distance=np.maximum(position[None] - position[:, None], 0).astype(np.uint8),
        slots=(
            (),
            (Slot(0, Part.WEIGHT),),
            (Slot(1, Part.SCALE), Slot(2, Part.SHIFT)),
            (Slot(3, Part.WEIGHT),),
            (Slot(4, Part.WEIGHT),),
            (Slot(5, Part.WEIGHT),),
            (Slot(6, Part.SHIFT),),
        ),
        nodes=("",) * 7,
    )
    return SimpleNamespace(parameters=parameters, graph=graph, graph_reason=None)


def with_graph(reading, **changes):
    return SimpleNamespace(
        parameters=reading.parameters,
        graph=dataclasses.replace(reading.graph, **changes),
        graph_reason=None,
    )


def with_shape(reading, index, shape):
    parameters = list(reading.parameters)
    parameters[index] = dataclasses.replace(parameters[index], logical_shape=shape)
    return SimpleNamespace(parameters=parameters, graph=reading.graph, graph_reason=None)


def test_everything_with_a_slot_is_predicted_in_its_shape(reading, untrained):
    prediction = predict(reading, untrained)
    assert prediction.indices == list(range(7))
    for index in prediction.indices:
        tensor = prediction.tensor(index)
        assert tensor.shape == reading.parameters[index].logical_shape
        assert tensor.dtype == np.float32
        assert np.isfinite(tensor).all()
        assert tensor.std() > 0


def test_each_part_comes_from_its_decoder(reading, untrained):
    engine, prediction = untrained.engine, predict(reading, untrained)
    rows = module.features(reading.graph, untrained.info.config.network)
    states = prediction.states

    def of(node):
        return states[[node]], rows[[node]]

    both = engine.decode_vector(*of(2), 6)[0]
    np.testing.assert_array_equal(prediction.tensor(1), both[0])
    np.testing.assert_array_equal(prediction.tensor(2), both[1])
    linear = engine.decode_weight(*of(3), 40, 50, 1, 1)[0]
    np.testing.assert_array_equal(prediction.tensor(3), fit_weight(linear, (40, 50)))
    head = engine.decode_class_weight(*of(5), 50)[0][:, :, None, None]
    np.testing.assert_array_equal(prediction.tensor(5), fit_weight(head, (10, 50)))
    np.testing.assert_array_equal(prediction.tensor(6), engine.decode_class_bias(*of(6))[0])


def test_the_same_call_gives_the_same_bits(reading, untrained):
    first, second = predict(reading, untrained, seed=3), predict(reading, untrained, seed=3)
    for index in first.indices:
        np.testing.assert_array_equal(first.tensor(index), second.tensor(index))


def test_only_drawn_rows_depend_on_the_seed(reading, untrained):
    first, second = predict(reading, untrained, seed=3), predict(reading, untrained, seed=4)
    differ = [i for i in first.indices if not np.array_equal(first.tensor(i), second.tensor(i))]
    assert differ == [4]
    np.testing.assert_array_equal(first.tensor(4)[:, 1:], second.tensor(4)[:, 1:])


def test_large_groups_are_decoded_in_pieces(archives, data, parity_values, monkeypatch):
    archive = archives["ghn3_tiny"]
    reading, _ = parity_values.read_fixture(data / "ghn3_tiny" / "resnet18.npz")
    whole = predict(reading, archive)
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1 << 15)
    pieces = predict(reading, archive)
    for index in whole.indices:
        np.testing.assert_allclose(whole.tensor(index), pieces.tensor(index), atol=1e-6)


def test_only_what_is_asked_for_is_decoded(reading, untrained):
    prediction = predict(reading, untrained, indices=[2, 0])
    assert prediction.indices == [0, 2]
    with pytest.raises(KeyError):
        prediction.tensor(1)


def test_what_cannot_be_predicted_may_not_be_asked_for(reading, untrained):
    with pytest.raises(ValueError, match="vocabulary"):
        predict(reading, untrained, indices=[7])


def test_a_parameter_with_two_slots_takes_the_first(reading, untrained):
    slots = list(reading.graph.slots)
    tied = [*slots[:5], (Slot(3, Part.WEIGHT),), *slots[6:]]
    once, twice = predict(reading, untrained), predict(with_graph(reading, slots=tied), untrained)
    np.testing.assert_array_equal(once.tensor(3), twice.tensor(3))


def test_a_tied_copy_takes_the_value_of_the_first(reading, untrained):
    copy = dataclasses.replace(reading.parameters[3], name="copy", tie="linear")
    parameters = [*reading.parameters, copy]
    tied = SimpleNamespace(parameters=parameters, graph=reading.graph, graph_reason=None)
    assert reasons_against(tied, untrained.info)[8] is None
    prediction = predict(tied, untrained)
    np.testing.assert_array_equal(prediction.tensor(8), prediction.tensor(3))


def test_only_an_aligned_archive_puts_channels_at_their_places(reading, untrained):
    vector = (9, 8, 7, 6, 5, 4)
    found = {
        "scale": (vector, None),
        "shift": (vector, None),
        "linear": (tuple(range(20, 60)), (7,) * 50),
        "head": (tuple(range(1, 11)), tuple(range(5, 55))),
    }
    channels = SimpleNamespace(of=lambda parameter: found.get(parameter.name, (None, None)))
    placed = SimpleNamespace(**vars(reading), channels=channels)
    plain, ignored = predict(reading, untrained), predict(placed, untrained)
    for index in ignored.indices:
        np.testing.assert_array_equal(ignored.tensor(index), plain.tensor(index))
    config = untrained.info.config
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, aligned=True))
    info = dataclasses.replace(untrained.info, config=config)
    aligned = dataclasses.replace(untrained, info=info)
    prediction = predict(placed, aligned)
    engine, c0, c1 = untrained.engine, *config.network.channels
    rows = module.features(reading.graph, config.network)

    def of(node):
        return plain.states[[node]], rows[[node]]

    whole = engine.decode_weight(*of(3), c0, c1, 1, 1)[0, :, :, 0, 0] * np.float32(np.sqrt(2 / 50))
    expected = whole[np.arange(20, 60) % c0][:, [7 % c1] * 50]
    np.testing.assert_allclose(prediction.tensor(3), expected, rtol=1e-5, atol=1e-7)
    vector = engine.decode_vector(*of(2), 10)[0]
    np.testing.assert_allclose(prediction.tensor(1), vector[0, 9:3:-1], rtol=1e-5)
    np.testing.assert_allclose(prediction.tensor(2), vector[1, 9:3:-1], rtol=1e-5)
    classes = engine.decode_class_weight(*of(5), c1)[0] * np.float32(np.sqrt(2 / 50))
    expected = classes[:, np.arange(5, 55) % c1]
    np.testing.assert_allclose(prediction.tensor(5), expected, rtol=1e-5, atol=1e-7)


def test_a_tensor_outside_the_vocabulary_has_a_reason(reading, untrained):
    reasons = reasons_against(reading, untrained.info)
    assert reasons[:7] == [None] * 7
    assert "vocabulary" in reasons[7]


@pytest.mark.parametrize("index", [5, 6])
def test_a_head_of_other_classes_has_a_reason(reading, untrained, index):
    shape = (1000, 50) if index == 5 else (1000,)
    reasons = reasons_against(with_shape(reading, index, shape), untrained.info)
    assert reasons[index] == "the archive predicts heads of 10 classes, this one has 1000"


@pytest.mark.parametrize(
    ("index", "shape", "words"),
    [
        (0, (6, 3, 3, 3, 3, 3), "6 axes"),
        (1, (2, 3), "2 axes"),
        (2, (), "without axes"),
        (3, (0, 50), "without axes or elements"),
        (4, (1, 8, 50), "square grid"),
    ],
)
def test_shapes_that_no_decoder_gives_have_a_reason(reading, untrained, index, shape, words):
    reasons = reasons_against(with_shape(reading, index, shape), untrained.info)
    assert words in reasons[index]
    assert predict(with_shape(reading, index, shape), untrained).indices == [
        k for k in range(7) if k != index
    ]


def test_a_one_dimensional_kernel_is_predicted(reading, untrained):
    changed = with_shape(reading, 0, (6, 3, 5))
    assert predict(changed, untrained).tensor(0).shape == (6, 3, 5)


def test_a_head_without_bias_is_a_head(reading, untrained):
    slots = (*reading.graph.slots[:6], ())
    prediction = predict(with_graph(reading, slots=slots), untrained)
    np.testing.assert_array_equal(prediction.tensor(5), predict(reading, untrained).tensor(5))


def test_no_graph_and_a_large_graph_are_reasons(reading, untrained, monkeypatch):
    none = SimpleNamespace(parameters=reading.parameters, graph=None, graph_reason="has a loop")
    assert set(reasons_against(none, untrained.info)) == {"no graph: has a loop"}
    assert predict(none, untrained).indices == []
    monkeypatch.setattr(module, "MAX_NODES", 6)
    assert set(reasons_against(reading, untrained.info)) == {"graph too large: 7 nodes, at most 6"}


def test_a_scale_that_is_used_as_one_plus_w_is_not_predicted(reading, untrained):
    """A predicted scale is near 1, and would be near 2 there."""
    assert reasons_against(reading, untrained.info)[1] is None
    scale = dataclasses.replace(reading.parameters[1], role=Role.NORM_SCALE, neutral=0.0)
    parameters = [*reading.parameters[:1], scale, *reading.parameters[2:]]
    changed = SimpleNamespace(parameters=parameters, graph=reading.graph, graph_reason=None)
    assert "1 + w" in reasons_against(changed, untrained.info)[1]
    assert 1 not in predict(changed, untrained).indices


def predicted(untrained, text):
    """What is predicted for the weight w of a graph: the parameter, its tile, as it is stored."""
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["" : 17]>' + text)
    for value in model.graph.inputs[1:]:
        value.const_value = ir.tensor(np.zeros(tuple(value.shape), np.float32), name=value.name)
        model.graph.register_initializer(value)
    del model.graph.inputs[1:]
    prediction = predict(read_model(model), untrained)
    (index,) = (i for i in prediction.indices if prediction.reading.parameters[i].name == "w")
    parameter = prediction.reading.parameters[index]
    stored = parameter.layout.to_physical(prediction.tensor(index))
    assert stored.shape == parameter.shape
    return parameter, prediction.tiles[index], stored


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 1)])
def test_a_transposed_kernel_computes_what_the_predicted_convolution_does(
    untrained, groups, stride
):
    """ConvTranspose by the stored kernel, against Conv by the tile over the spread input."""
    half = 40 // groups
    parameter, tile, stored = predicted(
        untrained,
        f"""g (float[1, 40, 5, 5] x, float[40, {half}, 3, 3] w, float[10, 40] f) => (y) {{
            c = ConvTranspose <group = {groups}, strides = [{stride}, {stride}]> (x, w)
            p = GlobalAveragePool (c) q = Flatten (p) y = Gemm <transB = 1> (q, f) }}""",
    )
    x = np.random.default_rng(0).standard_normal((1, 40, 5, 5)).astype(np.float32)
    spread = np.zeros((1, 40, 4 * stride + 5, 4 * stride + 5), np.float32)
    spread[:, :, 2:-2:stride, 2:-2:stride] = x
    kernel = fit_weight(tile, parameter.logical_shape)
    body = f"y = ConvTranspose <group = {groups}, strides = [{stride}, {stride}]> (x, w)"
    shapes = {"x": x.shape, "w": stored.shape}
    transposed = run(body, shapes, {"x": x, "w": np.ascontiguousarray(stored)})
    shapes = {"x": spread.shape, "w": kernel.shape}
    plain = run(f"y = Conv <group = {groups}> (x, w)", shapes, {"x": spread, "w": kernel})
    np.testing.assert_allclose(transposed, plain * stride, rtol=1e-3, atol=1e-5)


def run(body, shapes, feeds):
    inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float y) {{ {body} }}'
    return open_session(ir.from_onnx_text(text)).run(feeds)["y"]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1)])
def test_a_kernel_in_three_dimensions_repeats_its_last_two(untrained, kernel):
    parameter, tile, stored = predicted(
        untrained,
        f"""g (float[1, 3, 4, 8, 8] x, float[40, 3, {kernel[0]}, {kernel[1]}, {kernel[2]}] w,
               float[10, 40] f) => (y) {{
            c = Conv (x, w) p = GlobalAveragePool (c) q = Flatten (p)
            y = Gemm <transB = 1> (q, f) }}""",
    )
    assert tile.shape == (min(40, tile.shape[0]), 3, *kernel[1:])
    for o, i, step in ((0, 0, 0), (39, 2, kernel[0] - 1)):
        expected = tile[o % len(tile), i] * scale(parameter.logical_shape)
        np.testing.assert_allclose(stored[o, i, step], expected, rtol=1e-6)
    assert scale((40, 3, 1, 3, 3)) == scale((40, 3, 3, 3))
