"""Evaluation against torch on real digits, and scores that could mislead."""

from __future__ import annotations

import copy
import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import onnx_ghn
from onnx_ghn.data import load_data
from onnx_ghn.errors import MissingDependencyError, ModelError, OptionError
from onnx_ghn.evaluation import wilson
from onnx_ghn.options import InitializeOptions, RunOptions


def tensors(path) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_data(path)
    x = torch.tensor(data.x).permute(0, 3, 1, 2).float() / 255
    return x, torch.tensor(data.y)


@pytest.mark.parametrize("batch", [None, 7])
def test_equal_to_torch(trained, digits, batch, export):
    result = onnx_ghn.evaluate(export(trained, batch=batch), digits / "test.npz")
    x, y = tensors(digits / "test.npz")
    with torch.no_grad():
        scores = trained(x)
    hits = [(scores.topk(k).indices == y[:, None]).any(1).float().mean().item() for k in (1, 5)]
    losses = nn.functional.cross_entropy(scores, y, reduction="none")
    assert hits[0] > 0.5
    assert (result.top1, result.top5) == pytest.approx(hits, abs=1e-6)
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert result.n == 360 and result.classes == 10
    assert result.top1_interval[0] < result.top1 < result.top1_interval[1]
    margin = 1.96 * losses.std().item() / math.sqrt(360)
    assert result.loss_interval[1] - result.loss == pytest.approx(margin, rel=1e-3)
    assert result.provider == "CPUExecutionProvider"
    assert result.images_per_second > 0
    assert result.initialized == 0


def test_batch_statistics_equal_torch_in_train_mode(trained, digits, export):
    model = export(trained)
    options = RunOptions(batch_size=100)
    plain = onnx_ghn.evaluate(model, digits / "test.npz", options)
    result = onnx_ghn.evaluate(model, digits / "test.npz", options, batch_statistics=True)
    assert result.batch_statistics and not result.warnings
    from onnx_ghn.batches import make_batches

    network = copy.deepcopy(trained).train()
    losses = []
    with torch.no_grad():
        for feeds, y in make_batches(digits / "test.npz", model, options).labelled():
            scores = network(torch.tensor(feeds["x"]))
            losses.append(nn.functional.cross_entropy(scores, torch.tensor(y), reduction="none"))
    assert result.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
    assert result.loss != pytest.approx(plain.loss, rel=1e-3)


def test_statistics_of_single_examples_are_told(trained, digits, export):
    result = onnx_ghn.evaluate(
        export(trained, batch=1), digits / "test.npz", RunOptions(limit=5), batch_statistics=True
    )
    assert len(result.warnings) == 1 and "batches of 1" in result.warnings[0]


def test_training_mode_is_told(trained, digits, export):
    warnings = onnx_ghn.evaluate(export(trained, training=True), digits / "test.npz").warnings
    assert len(warnings) == 1 and "2 BatchNormalization nodes" in warnings[0]


def test_dropout_in_training_mode_is_told():
    model = scorer("t = Constant<value = bool {1}>() y = Dropout(x, , t)")
    for batch_statistics in (False, True):
        warnings = onnx_ghn.evaluate(
            model, scores_of([1, 2, 3]), batch_statistics=batch_statistics
        ).warnings
        assert any("1 Dropout nodes" in warning for warning in warnings)
    assert not onnx_ghn.evaluate(scorer("y = Dropout(x)"), scores_of([1, 2, 3])).warnings


def scorer(body: str, declared: str = "float[N,3] x") -> ir.Model:
    """A model that is its scores: x goes in."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({declared}) => (y) {{ {body} }}'
    return ir.from_onnx_text(text)


def scores_of(*rows) -> list:
    return [(np.array(rows, np.float32), np.zeros(len(rows), np.int64) + len(rows[0]) - 1)]


def test_probabilities_are_seen_and_the_loss_is_theirs():
    data = scores_of([1, 2, 3], [3, 2, 1])
    logits = onnx_ghn.evaluate(scorer("y = Identity(x)"), data)
    softmax = onnx_ghn.evaluate(scorer("p = Softmax(x) y = Identity(p)"), data)
    assert (logits.scores, softmax.scores) == ("logits", "probabilities")
    assert softmax.loss == pytest.approx(logits.loss, rel=1e-5)
    assert logits.loss == pytest.approx((0.407606 + 2.407606) / 2, rel=1e-5)
    assert logits.top1 == softmax.top1 == 0.5


def test_equal_scores_are_no_hits():
    result = onnx_ghn.evaluate(scorer("y = Identity(x)"), scores_of([0, 0, 0], [0, 0, 0]))
    assert result.top1 == 0.0 and result.top5 == 1.0
    assert result.loss == pytest.approx(math.log(3))


def test_scores_that_are_not_finite_are_wrong_and_counted():
    data = scores_of([0, 0, np.nan], [0, 1, np.inf], [0, 1, 2])
    result = onnx_ghn.evaluate(scorer("y = Identity(x)"), data)
    assert result.top1 == pytest.approx(1 / 3)
    assert (result.not_finite, result.loss, result.loss_interval) == (2, None, None)


def test_scores_with_places_of_one():
    data = [(np.zeros((4, 3, 1, 1), np.float32), np.arange(3).repeat(2)[:4])]
    model = scorer("y = GlobalAveragePool(x)", "float[N,3,1,1] x")
    assert onnx_ghn.evaluate(model, data).classes == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (scorer("y = ReduceMean<axes=[0], keepdims=1>(x)"), r"'y' has the shape \(1, 3\) for 2"),
        (scorer("y = ReduceMean<axes=[1], keepdims=1>(x)"), "two classes or more"),
    ],
)
def test_what_is_no_scores_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        onnx_ghn.evaluate(model, scores_of([1, 2, 3], [1, 2, 3]))


def test_classes_must_be_those_of_the_model():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(onnx_ghn.DataError, match="4 classes, and the model tells 3"):
        onnx_ghn.evaluate(scorer("y = Identity(x)"), [(x, np.arange(4))])
    assert onnx_ghn.evaluate(scorer("y = Identity(x)"), [(x, np.arange(4) % 2)]).classes == 3


def test_named_classes_must_be_complete(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        image.new("RGB", (4, 4)).save(tmp_path / "data" / name / "0.png")
    model = scorer("p = GlobalAveragePool(x) y = Flatten(p)", "float[N,3,4,4] x")
    with pytest.raises(onnx_ghn.DataError, match="2 named classes, and the model tells 3"):
        onnx_ghn.evaluate(model, tmp_path / "data")


def test_missing_weights_and_only_those_are_initialised(trained, digits, export):
    model = export(trained)
    name = next(name for name, value in model.graph.initializers.items() if value.shape.rank() == 2)
    proto = ir.to_proto(model)
    next(t for t in proto.graph.initializer if t.name == name).ClearField("raw_data")
    model = ir.from_proto(proto)
    method = InitializeOptions(method="kaiming", seed=3)
    result = onnx_ghn.evaluate(model, digits / "test.npz", initialize=method)
    assert result.initialized == 1
    assert len(result.warnings) == 1 and name in result.warnings[0]
    again = onnx_ghn.evaluate(model, digits / "test.npz", initialize=method)
    assert again.loss == result.loss  # the model itself was left without


def test_cuda_that_is_not_there_is_an_error(digits):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    data = scores_of([1, 2, 3])
    with pytest.raises(MissingDependencyError, match="no CUDA"):
        onnx_ghn.evaluate(scorer("y = Identity(x)"), data, RunOptions(device="cuda"))
    with pytest.raises(OptionError, match="'tpu'"):
        RunOptions(device="tpu")


@pytest.mark.cuda
@pytest.mark.usefixtures("runtime_on_cuda")
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_cuda_gives_the_same_numbers(trained, digits, batch_statistics, export):
    cpu, cuda = (
        onnx_ghn.evaluate(
            export(trained),
            digits / "test.npz",
            RunOptions(device=device),
            batch_statistics=batch_statistics,
        )
        for device in ("cpu", "cuda")
    )
    assert cuda.provider == "CUDAExecutionProvider"
    assert cuda.loss == pytest.approx(cpu.loss, rel=1e-4)
    assert cuda.top1 == pytest.approx(cpu.top1, abs=0.003)  # one image of 360


def test_wilson_against_published_values():
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
