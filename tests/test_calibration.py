"""Calibration from labelled data through the public functions, against torch."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import onnx_ghn
from onnx_ghn.batches import make_batches
from onnx_ghn.errors import ModelError, OutputError
from onnx_ghn.options import InitializeOptions, RunOptions
from onnx_ghn.report import Status

OPTIONS = RunOptions(batch_size=100, mean=(0.3,), std=(0.35,))


def reestimated(network, batches) -> dict[str, np.ndarray]:
    """Running statistics as torch makes them of the same batches with momentum=None."""
    network = copy.deepcopy(network).train()
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        for feeds in batches:
            network(torch.tensor(feeds["x"]))
    return {name: value.numpy() for name, value in network.state_dict().items()}


def stored(model: ir.Model) -> dict[str, np.ndarray]:
    return {
        name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()
    }


@pytest.mark.parametrize("training", [True, False])
def test_statistics_equal_torch_and_weights_stay(trained, export, digits, training):
    model = export(trained, training=training)
    expected = reestimated(trained, make_batches(digits / "train.npz", model, OPTIONS))
    before = stored(model)
    _, report = onnx_ghn.calibrate(model, data=digits / "train.npz", options=OPTIONS)
    after = stored(model)
    names = [name for name in expected if "running" in name]
    assert len(names) == 4
    for name in names:
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-4, atol=1e-4)
        assert not np.allclose(after[name], before.get(name, 0), rtol=1e-2, atol=1e-2)
    for name, value in before.items():
        if name not in names:
            np.testing.assert_array_equal(after[name], value)
    assert report.count(Status.CALIBRATED) == 4
    assert report.summary()["tensors"]["kept"] == len(report.outcomes) - 4
    assert not report.warnings
    assert "15 batch(es) of data" in next(o.reason for o in report.outcomes if o.name == names[0])


def test_evaluation_normalises_as_calibration_did(trained, export, digits):
    model = export(trained)
    onnx_ghn.calibrate(model, data=digits / "train.npz", options=OPTIONS)
    network = copy.deepcopy(trained)
    statistics = reestimated(trained, make_batches(digits / "train.npz", model, OPTIONS))
    network.load_state_dict({name: torch.tensor(value) for name, value in statistics.items()})
    result = onnx_ghn.evaluate(model, digits / "test.npz")
    assert result.input["mean"] == [0.3] and result.input["std"] == [0.35]
    with np.load(digits / "test.npz") as data:
        x = (torch.tensor(data["x"]).permute(0, 3, 1, 2).float() / 255 - 0.3) / 0.35
        loss = nn.functional.cross_entropy(network(x), torch.tensor(data["y"]))
    assert result.loss == pytest.approx(loss.item(), rel=1e-4)


def test_noise_is_told(trained, export):
    model = export(trained)
    before = stored(model)
    _, report = onnx_ghn.calibrate(model, seed=1)
    assert any("noise" in warning for warning in report.warnings)
    assert {o.method for o in report.outcomes if o.status is Status.CALIBRATED} == {"noise"}
    assert not np.allclose(stored(model)["1.running_mean"], before["1.running_mean"], atol=1e-3)


def test_a_file_is_written_beside_and_the_input_stays(trained, export, digits, tmp_path):
    path = tmp_path / "net.onnx"
    ir.save(export(trained), path)
    content = path.read_bytes()
    model, report = onnx_ghn.calibrate(path, data=digits / "train.npz")
    assert path.read_bytes() == content and report.model == str(path)
    written = ir.load(tmp_path / "net.calibrated.onnx")
    onnx.checker.check_model(tmp_path / "net.calibrated.onnx", full_check=True)
    for name, value in stored(model).items():
        np.testing.assert_array_equal(written.graph.initializers[name].const_value.numpy(), value)
    with pytest.raises(OutputError, match="--force"):
        onnx_ghn.calibrate(path, data=digits / "train.npz")


def test_a_tensor_without_a_value_is_named(trained, export, digits):
    proto = ir.to_proto(export(trained))
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    weight.ClearField("raw_data")
    with pytest.raises(ModelError, match=f"'{weight.name}' has no value.*init"):
        onnx_ghn.calibrate(ir.from_proto(proto), data=digits / "train.npz")


def test_nothing_to_calibrate_is_told(digits):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,1,8,8] x) => (y)
        { y = Flatten(x) }"""
    _, report = onnx_ghn.calibrate(ir.from_onnx_text(text), data=digits / "train.npz")
    assert report.warnings == ["nothing to calibrate: the model has no BatchNormalization"]


def test_init_calibrates_in_the_same_run(trained, export, digits):
    """The statistics are those that `calibrate` finds for the new weights."""
    model = export(trained, training=True)
    options = InitializeOptions(method="kaiming", seed=5)
    _, report = onnx_ghn.initialize(model, options=options, data=digits / "train.npz", run=OPTIONS)
    assert report.count(Status.CALIBRATED) == 4 and not report.warnings
    assert model.metadata_props["onnx_ghn.calibrated"] == "4"
    assert model.metadata_props["onnx_ghn_input.mean"] == "0.3"
    separate = export(trained, training=True)
    onnx_ghn.initialize(separate, options=options)
    onnx_ghn.calibrate(separate, data=digits / "train.npz", options=OPTIONS, seed=5)
    expected = stored(separate)
    for name, value in stored(model).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_folded_layers_are_normalised_only_where_all_weights_are_new(trained, export, digits):
    network = copy.deepcopy(trained)
    conv = stored(export(network, folded=True))
    assert not any("running" in name for name in conv)
    options = InitializeOptions(method="kaiming")
    fresh = export(network, folded=True)
    onnx_ghn.initialize(fresh, options=options)
    model = export(network, folded=True)
    _, report = onnx_ghn.initialize(model, options=options, data=digits / "train.npz", run=OPTIONS)
    kernels = [name for name, value in stored(model).items() if value.ndim == 4]
    assert len(kernels) == 2
    ratios = [stored(model)[name] / stored(fresh)[name] for name in kernels]
    for ratio in ratios:  # one positive factor a channel
        factor = ratio.mean((1, 2, 3), keepdims=True)
        assert (factor > 0).all() and factor.std() > 0.05
        np.testing.assert_allclose(ratio, np.broadcast_to(factor, ratio.shape), rtol=1e-3)
    notes = {outcome.name: outcome.reason for outcome in report.outcomes}
    assert all("scaled to mean 0" in notes[name] for name in kernels)

    partly = export(network, folded=True)
    chosen = InitializeOptions(method="kaiming", exclude=(kernels[0],))
    onnx_ghn.initialize(partly, options=chosen, data=digits / "train.npz", run=OPTIONS)
    np.testing.assert_array_equal(stored(partly)[kernels[0]], conv[kernels[0]])


def test_weights_that_are_inputs_are_not_data(trained, export, digits):
    """As torch writes them without initializers: init fills them, and eval does so in memory."""
    proto = ir.to_proto(export(trained))
    for tensor in list(proto.graph.initializer):
        if "running" not in tensor.name and len(tensor.dims) > 1:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(value)
            proto.graph.initializer.remove(tensor)
    model = ir.from_proto(proto)
    assert onnx_ghn.evaluate(model, digits / "test.npz").initialized == 3
    _, report = onnx_ghn.initialize(model, data=digits / "train.npz")
    assert report.count(Status.CALIBRATED) == 4
