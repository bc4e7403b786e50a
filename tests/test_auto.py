"""Each branch of the rule of `--method auto`, with real archives."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn import InitializeOptions, signal_check
from onnx_ghn.auto import judge
from onnx_ghn.errors import MissingDependencyError
from onnx_ghn.hypernet.archive import Archive, load_archive, load_network
from onnx_ghn.hypernet.engines import TorchEngine
from onnx_ghn.hypernet.harm import HarmTable, Region
from onnx_ghn.measures import QUANTITIES, TYPES, measure
from onnx_ghn.passes import Initialize
from onnx_ghn.read.reading import read_model
from onnx_ghn.report import Status

DEPTH = 6
LAYERS = "".join(
    f"h{k} = Conv <pads = [1, 1, 1, 1]> (r{k}, w{k}) r{k + 1} = Relu (h{k}) " for k in range(DEPTH)
)
WEIGHTS = ", ".join(f"float[16, {16 if k else 3}, 3, 3] w{k}" for k in range(DEPTH))
PLAIN = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 16, 16] x, {WEIGHTS}, float[10, 16] head, float[10] bias) => (float[n, 10] y)
{{
    r0 = Identity (x) {LAYERS}
    pooled = GlobalAveragePool (r{DEPTH}) flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, head, bias)
}}"""
"""A plain network without norms: what the weights do to the signal is seen in the end."""

TABLE = HarmTable(
    measure="accuracy",
    networks=5,
    difference=0.01,
    types=frozenset(TYPES),
    ranges=dict.fromkeys(QUANTITIES, (1, 10**9)),
    reach=2.0,
)


@pytest.fixture
def model():
    return ir.from_onnx_text(PLAIN)


@pytest.fixture(scope="module")
def archive(untrained_file):
    """Makes an archive: `archive(trained=True, harm=TABLE, scale=1.0)`, weights scaled."""
    info = load_archive(untrained_file).info

    def make(*, trained=True, harm=TABLE, scale=1.0):
        network, config = load_network(untrained_file)
        network.weight.outer.weight.data *= scale
        config = dataclasses.replace(config, trained=trained, harm=harm)
        return Archive(dataclasses.replace(info, config=config), TorchEngine(network))

    return make


def initialized(model, archive, **options):
    initialise = Initialize(InitializeOptions(**options), archive=archive)
    initialise(model)
    return initialise.report


def signal_of(model):
    reading = read_model(model)
    everything = range(len(reading.parameters))
    return signal_check.measure_signal(model, reading.parameters, everything, seed=5)


def test_an_untrained_archive_is_not_used(model, archive):
    report = initialized(model, archive(trained=False))
    assert report.decision["method"] == "classical"
    assert "untrained" in report.decision["reason"]
    assert report.count(Status.PREDICTED) == 0


def test_nor_is_a_trained_one_that_was_never_tested(model, archive):
    report = initialized(model, archive(harm=None))
    assert report.decision["method"] == "classical"
    assert "no do-no-harm table" in report.decision["reason"]
    asked = initialized(model, archive(harm=None), method="ghn")
    assert asked.decision["method"] == "ghn"
    assert "check" not in asked.decision


def test_no_archive_and_no_graph_are_reasons(archive):
    assert not judge(None, None).predict
    judgement = judge(archive().info.config, None)
    assert not judgement.predict
    assert "no graph" in judgement.reason


def test_a_region_where_predictions_were_worse(model, archive):
    worst = Region(name="no norm", networks=4, difference=-0.03, lacks=frozenset({"bn", "ln"}))
    other = Region(name="all", networks=9, difference=-0.01, ranges={"depth": (1, None)})
    table = dataclasses.replace(TABLE, worse=(other, worst))
    decision = initialized(model, archive(harm=table)).decision
    assert decision["method"] == "classical"
    assert decision["reason"] == "predictions were worse for no norm: -0.030 over 4 network(s)"
    evidence = decision["evidence"]
    assert evidence["worse"] == ["all", "no norm"]
    assert evidence["network"] == measure(read_model(model)).to_json()
    assert evidence["table"] == table.to_json()


def test_a_model_far_outside_what_was_tested(model, archive):
    table = dataclasses.replace(TABLE, ranges={**TABLE.ranges, "side": (64, 128)})
    decision = initialized(model, archive(harm=table)).decision
    assert decision["method"] == "classical"
    assert "side 16, tested from 64" in decision["reason"]


def test_a_model_like_those_that_were_tested_is_predicted(model, archive):
    report = initialized(model, archive())
    assert report.decision["method"] == "ghn"
    assert report.count(Status.PREDICTED) == DEPTH + 2
    check = report.decision["check"]
    assert check["layers"] == DEPTH + 1
    assert check["limits"] == [signal_check.LOWEST, signal_check.HIGHEST]
    low, high = check["lowest"]["signal"], check["highest"]["signal"]
    assert signal_check.LOWEST < low < high < signal_check.HIGHEST
    assert "rescaled" not in check


def test_what_is_predicted_can_be_trained_equal_channels_are_told_apart(archive):
    by_auto, by_ghn, without = (ir.from_onnx_text(PLAIN) for _ in range(3))
    assert initialized(by_auto, archive()).decision["method"] == "ghn"
    initialized(by_ghn, archive(), method="ghn")
    initialized(without, archive(), noise=0.0)
    for name, value in by_auto.graph.initializers.items():
        predicted = by_ghn.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(
            without.graph.initializers[name].const_value.numpy(), predicted
        )
        difference = np.abs(value.const_value.numpy() - predicted).max()
        # The classifier and its bias stay as predicted.
        assert 0 < difference < 1e-3 if name.startswith("w") else difference == 0, name


def test_a_badly_scaled_prediction_is_rescaled_layer_by_layer(model, archive):
    plain = ir.from_onnx_text(PLAIN)
    initialized(plain, archive(), method="ghn")
    report = initialized(model, archive(scale=1e3))
    assert report.decision["method"] == "ghn"
    assert "rescaled" in report.decision["reason"]
    assert report.decision["check"]["highest"]["signal"] > signal_check.HIGHEST
    assert report.decision["check"]["rescaled"]["highest"]["signal"] < 10
    after = [layer.after for layer in signal_of(model).layers]
    assert all(0.1 < value < 10 for value in after)
    assert not Initialize(InitializeOptions(), archive=archive(scale=1e3))(model).modified


def test_a_prediction_that_gives_no_numbers_is_not_used(model, archive):
    report = initialized(model, archive(scale=1e12))
    assert report.decision["method"] == "classical"
    assert "not finite" in report.decision["reason"]
    assert report.decision["check"]["not_finite"]
    assert report.count(Status.PREDICTED) == 0
    assert signal_of(model).well_scaled
    assert not Initialize(InitializeOptions(), archive=archive(scale=1e12))(model).modified


def test_a_prediction_of_nothing_is_not_used(model, archive):
    report = initialized(model, archive(scale=0.0))
    assert report.decision["method"] == "classical"
    assert report.decision["reason"] == "predicted weights give a signal that is badly scaled"
    assert signal_of(model).well_scaled


def test_an_output_that_is_no_number_is_seen():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 4] x) => (float[n, 4] y) <float[4, 4] w = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 1}> { z = MatMul (x, w) y = Log (z) }"""
    signal = signal_of(ir.from_onnx_text(text))
    assert not signal.finite
    assert signal.to_json()["not_finite"] == ["y"]


def test_a_model_whose_weights_are_made_by_nodes_is_checked(archive):
    made = (
        "shape = Constant <value_ints = [16, 3, 3, 3]> () "
        "w0 = ConstantOfShape <value = float[1] {0}> (shape) r0 ="
    )
    text = PLAIN.replace("float[16, 3, 3, 3] w0, ", "").replace("r0 =", made)
    model = ir.from_onnx_text(text.replace("ir_version: 8", "ir_version: 3"))
    report = initialized(model, archive())
    assert report.decision["check"]["layers"] == DEPTH + 1
    assert model.ir_version == 4


def test_without_onnx_runtime_the_check_is_skipped_and_reported(model, archive, monkeypatch):
    def missing(*_, **__):
        raise MissingDependencyError("running a model needs ONNX Runtime")

    monkeypatch.setattr("onnx_ghn.run.session.open_session", missing)
    report = initialized(model, archive())
    assert report.decision["method"] == "ghn"
    assert "not checked: running a model needs ONNX Runtime" in report.decision["reason"]
    assert report.decision["check"] == {"skipped": "running a model needs ONNX Runtime"}


def test_a_large_model_is_not_checked(model, archive, monkeypatch):
    monkeypatch.setattr(signal_check, "MAX_BYTES", 100)
    report = initialized(model, archive())
    assert report.decision["method"] == "ghn"
    assert "take more than" in report.decision["check"]["skipped"]


def test_a_second_run_changes_nothing(model, archive):
    initialise = Initialize(InitializeOptions(), archive=archive())
    assert initialise(model).modified
    before = {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}
    assert not initialise(model).modified
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])
