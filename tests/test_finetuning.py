"""Fine-tuning against torch on real digits, and what it must leave alone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import onnx_ghn
from onnx_ghn import FinetuneOptions, InitializeOptions, RunOptions
from onnx_ghn.checkpoint_file import CheckpointError
from onnx_ghn.data import DataError, load_data
from onnx_ghn.errors import ModelError, OptionError, OutputError
from onnx_ghn.finetuning.feed import Feed
from onnx_ghn.finetuning.weights import Weights

STEPS = 100


@pytest.fixture
def fresh(trained):
    """The network of the digits, its weights drawn anew."""
    torch.manual_seed(1)
    network = copy.deepcopy(trained)
    for layer in network:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return network.eval()


def in_torch(network, data, options, run, seed=0):
    """The same training in plain torch, on the same batches; losses of all steps."""
    from onnx_ghn.batches import make_batches

    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Relu(x) }"
    )
    feed = Feed(make_batches(data, model, run, seed=seed), seed=seed)
    network = network.train()
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=options.weight_decay),
        "adamw": lambda p: torch.optim.AdamW(p, weight_decay=options.weight_decay),
    }
    optimizer = kinds[options.optimizer](network.parameters())
    losses = []
    for step in range(options.steps):
        x, y = feed.batch(step)
        optimizer.param_groups[0]["lr"] = options.rate_at(step, options.steps)
        loss = nn.functional.cross_entropy(
            network(torch.tensor(x)), torch.tensor(y), label_smoothing=options.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "options",
    [
        FinetuneOptions(steps=STEPS, learning_rate=0.1, hold_out=0.0),
        FinetuneOptions(
            steps=STEPS, optimizer="adamw", schedule="constant", warmup=0.0, label_smoothing=0.1,
            hold_out=0.0,
        ),
    ],
    ids=["sgd", "adamw"],
)  # fmt: skip
@pytest.mark.parametrize("training", [False, True], ids=["eval export", "training export"])
def test_equal_to_torch(fresh, digits, export, options, training):
    model = export(fresh, training=training)
    run = RunOptions(batch_size=64)
    result = onnx_ghn.finetune(model, digits / "train.npz", options=options, run=run)
    expected = in_torch(fresh, digits / "train.npz", options, run)
    np.testing.assert_allclose(result.losses, expected, atol=1e-3)
    assert expected[-1] < expected[0] - 0.2
    state = fresh.state_dict()
    stored = model.graph.initializers
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            found = stored[name].const_value.numpy()
            np.testing.assert_allclose(found, tensor.numpy(), atol=2e-3, err_msg=name)


def test_file_keeps_its_form_and_validation_is_that_of_eval(fresh, digits, export, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    ir.save(export(fresh, training=False), path)
    options = FinetuneOptions(steps=40, learning_rate=0.1, validate_at=(7, 20))
    result = onnx_ghn.finetune(path, digits / "train.npz", out, options, val=digits / "test.npz")
    assert list(result.accuracy) == [0, 7, 20, 40]
    tested = onnx_ghn.evaluate(out, digits / "test.npz")
    assert result.validation(40).top1 == tested.top1
    assert result.validation(40).loss == pytest.approx(tested.loss, abs=1e-5)
    before, after = onnx.load(path), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)

    def nodes(model):
        return [(n.op_type, n.name, list(n.input), list(n.output)) for n in model.graph.node
                if n.op_type != "Identity"]  # fmt: skip

    assert nodes(before) == nodes(after)
    names = [tensor.name for tensor in before.graph.initializer]
    assert [tensor.name for tensor in after.graph.initializer][: len(names)] == names
    kept = {t.name: (t.data_type, list(t.dims)) for t in before.graph.initializer}
    assert (
        kept.items()
        <= {t.name: (t.data_type, list(t.dims)) for t in after.graph.initializer}.items()
    )
    records = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [r["loss"] for r in records if r["event"] == "train"] == result.losses
    assert [r["step"] for r in records if r["event"] == "validation"] == [0, 7, 20, 40]
    assert ElementTree.parse(result.picture).getroot().tag.endswith("svg")


def test_frozen_tensors_and_statistics_stay(trained, digits, export):
    model = export(trained)
    before = {name: v.const_value.numpy().copy() for name, v in model.graph.initializers.items()}
    options = FinetuneOptions(steps=5, only=("8.*",))
    result = onnx_ghn.finetune(model, digits / "train.npz", options=options)
    assert result.trained == ("8.weight", "8.bias") and not result.statistics
    for name, array in before.items():
        same = np.array_equal(model.graph.initializers[name].const_value.numpy(), array)
        assert same == (not name.startswith("8.")), name
    # A frozen layer normalises by what is stored: its gradient step is that of eval mode.
    again = onnx_ghn.finetune(
        export(trained), digits / "train.npz", options=FinetuneOptions(steps=1, freeze=("1.*",))
    )
    assert again.statistics == ("4.running_mean", "4.running_var")
    with pytest.raises(OptionError, match=r"'nothing\.\*' matches no"):
        onnx_ghn.finetune(
            export(trained), digits / "train.npz", options=FinetuneOptions(freeze=("nothing.*",))
        )
    with pytest.raises(OptionError, match="every learnable tensor is frozen"):
        onnx_ghn.finetune(
            export(trained), digits / "train.npz", options=FinetuneOptions(freeze=("*",))
        )


def test_merged_statistics_are_parted():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2] ones = {1, 1}, float[2] zeros = {0, 0}, float[2,2,1,1] w = {1, 2, 3, 4}>
        { c = Conv(x, w)
          a = BatchNormalization(c, ones, zeros, zeros, ones)
          y = BatchNormalization(a, ones, zeros, zeros, ones) }"""
    model = ir.from_onnx_text(text)
    weights = Weights(model, FinetuneOptions())
    assert "w" in {trained.name for trained in weights.trained}
    assert list(weights.statistics) == ["a/running_mean", "a/running_variance"]
    _, first, second = model.graph
    assert [value.name for value in first.inputs[1:3]] == ["ones", "zeros"]
    assert first.inputs[3] is second.inputs[3] and first.inputs[3].name == "a/running_mean"
    assert len(weights.changes) == 2


def test_a_tie_between_copies_holds(digits):
    """What an Identity shares is one parameter if a weight, two if a vector."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4] b = {0,0,0,0}>
        { v = Identity(w)  c = Identity(b)  h = Gemm(x, w, b)  r = Relu(h)  y = Gemm(r, v, c) }"""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 4)]
    onnx_ghn.finetune(model, data, options=FinetuneOptions(steps=8, learning_rate=0.1))
    stored = model.graph.initializers
    assert list(stored) == ["w", "b", "c"]
    assert not np.array_equal(stored["b"].const_value.numpy(), stored["c"].const_value.numpy())
    assert not np.array_equal(stored["w"].const_value.numpy(), np.eye(4))


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_precision_is_stored_as_it_was(dtype):
    name = dtype.name.lower()
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y)
        <{name}[4,3] w = {{1,0,0, 0,1,0, 0,0,1, 1,1,1}}>
        {{ v = Cast<to = 1>(w)  y = MatMul(x, v) }}"""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 3)]
    result = onnx_ghn.finetune(model, data, options=FinetuneOptions(steps=20, hold_out=0.0))
    assert result.trained == ("w",) and result.losses[-1] < result.losses[0]
    assert model.graph.initializers["w"].const_value.dtype is dtype


def test_missing_values_are_initialised_first(trained, digits, export):
    proto = ir.to_proto(export(trained))
    next(t for t in proto.graph.initializer if t.name == "3.weight").ClearField("raw_data")
    model = ir.from_proto(proto)
    result = onnx_ghn.finetune(model, digits / "train.npz", options=FinetuneOptions(steps=3))
    assert result.initialized == 1 and "3.weight" in result.warnings[0]
    assert model.graph.initializers["3.weight"].const_value.numpy().std() > 0
    assert not [key for key in model.metadata_props if key.startswith("onnx_ghn.")]


WIDE = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x, float[128, 3, 3, 3] w, float[10, 128] head, float[10] bias)
    => (float[n, 10] y)
{
    h = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (h) pooled = GlobalAveragePool (r)
    flat = Flatten (pooled) y = Gemm <transB = 1> (flat, head, bias)
}"""


@pytest.mark.parametrize(("noise", "equal"), [(None, False), (0.0, True)])
def test_predicted_channels_that_are_equal_are_told_apart(noise, equal):
    """A tile of 64 channels is repeated, so that channel 64 would be trained as channel 0 is."""
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(20, 3, 8, 8)).astype(np.float32), np.arange(20) % 10)]
    model = ir.from_onnx_text(WIDE)
    onnx_ghn.finetune(
        model,
        data,
        options=FinetuneOptions(steps=1, learning_rate=1e-9, hold_out=0.0),
        initialize=InitializeOptions(method="ghn", noise=noise),
    )
    weight = model.graph.initializers["w"].const_value.numpy()
    assert np.ptp(weight, axis=0).min() > 1e-3
    assert (np.abs(weight[:64] - weight[64:]).max() < 1e-9) == equal


def test_resumed_run_is_the_uninterrupted_one(fresh, digits, export, tmp_path):
    options = {"learning_rate": 0.1, "schedule": "constant", "crop": 1, "flip": True}
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    ir.save(export(fresh), path)
    part = FinetuneOptions(steps=12, warmup=0.0, **options)
    full = FinetuneOptions(steps=30, warmup=0.0, **options)
    whole = onnx_ghn.finetune(export(fresh), digits / "train.npz", options=full)
    onnx_ghn.finetune(path, digits / "train.npz", out, part)
    with pytest.raises(OutputError, match="--force"):
        onnx_ghn.finetune(path, digits / "train.npz", out, full)
    resumed = onnx_ghn.finetune(path, digits / "train.npz", out, full, resume=True)
    assert resumed.losses == whole.losses
    for name, value in whole.model.graph.initializers.items():
        found = resumed.model.graph.initializers[name].const_value.numpy()
        assert np.array_equal(found, value.const_value.numpy()), name
    with pytest.raises(CheckpointError, match="another batch size"):
        onnx_ghn.finetune(
            path, digits / "train.npz", out, full, resume=True, run=RunOptions(batch_size=32)
        )


def test_early_stop_keeps_the_best(trained, digits, export):
    options = FinetuneOptions(
        steps=500, learning_rate=2.0, schedule="constant", warmup=0.0, validate_every=2, patience=2
    )
    model = export(trained)
    result = onnx_ghn.finetune(
        model, digits / "train.npz", options=options, val=digits / "test.npz"
    )
    assert result.stopped_early and result.steps < 500
    best = max(result.validations, key=lambda v: (v.top1, -v.loss))
    assert result.written == best.step
    assert onnx_ghn.evaluate(model, digits / "test.npz").top1 == best.top1


def test_probabilities_train_as_logits_do(fresh, digits, export):
    options = FinetuneOptions(steps=10, learning_rate=0.1, hold_out=0.0)
    logits, probabilities = (
        onnx_ghn.finetune(export(network), digits / "train.npz", options=options)
        for network in (fresh, nn.Sequential(*fresh, nn.Softmax(1)).eval())
    )
    np.testing.assert_allclose(probabilities.losses, logits.losses, atol=1e-4)


def test_bfloat16_learns_the_same(fresh, digits, export):
    full, mixed = (
        onnx_ghn.finetune(
            export(fresh),
            digits / "train.npz",
            options=FinetuneOptions(steps=40, learning_rate=0.1, precision=precision),
        )
        for precision in ("float32", "bfloat16")
    )
    assert mixed.losses != full.losses
    assert mixed.losses[-1] == pytest.approx(full.losses[-1], abs=0.1)


def test_what_can_not_be_trained_is_refused(trained, digits, export, tmp_path):
    train = digits / "train.npz"
    few = [(np.zeros((30, 1, 8, 8), np.float32), np.arange(30))]
    with pytest.raises(DataError, match="30 classes, and the model tells 10"):
        onnx_ghn.finetune(export(trained), few, options=FinetuneOptions(steps=1))
    hot = FinetuneOptions(steps=50, learning_rate=1e9)
    with pytest.raises(ModelError, match="lower --lr"):
        onnx_ghn.finetune(export(trained), train, options=hot)
    with pytest.raises(ModelError, match=r"net.onnx: .*larger --batch-size"):
        path = tmp_path / "net.onnx"
        norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
        ir.save(export(norm, batch=1), path)
        onnx_ghn.finetune(path, train, options=FinetuneOptions(steps=1))
    nothing = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {y = Relu(x)}'
    )
    with pytest.raises(ModelError, match="nothing to train"):
        onnx_ghn.finetune(nothing, [(np.zeros((9, 4), np.float32), np.zeros(9, int))])
    with pytest.raises(OptionError, match="not both"):
        FinetuneOptions(steps=1, epochs=1)
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="finds no device"):
            onnx_ghn.finetune(export(trained), train, run=RunOptions(device="cuda"))


def test_weights_without_a_part_in_the_scores_are_refused():
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[n, 2] x) => (float[n, 2] scores, float[n, 2] other)
        <float[2, 2] w = {1, 2, 3, 4}> { scores = Relu (x)  other = MatMul (x, w) }"""
    )
    data = [(np.eye(2, dtype=np.float32), np.arange(2))]
    with pytest.raises(ModelError, match="do not depend on any tensor that is trained"):
        onnx_ghn.finetune(model, data, options=FinetuneOptions(steps=1))


def test_augmentation_moves_pixels_by_the_seed_alone(digits, trained, export):
    from onnx_ghn.batches import make_batches

    batches = make_batches(digits / "train.npz", export(trained), RunOptions(batch_size=16))
    plain, moved, again = (
        Feed(batches, seed=3, crop=crop, flip=flip).batch(5)
        for crop, flip in ((0, False), (2, True), (2, True))
    )
    assert np.array_equal(moved[0], again[0]) and not np.array_equal(moved[0], plain[0])
    assert np.array_equal(plain[1], moved[1])
    halves = [Feed(batches, seed=3, crop=2, flip=True, rank=r, world=2).batch(5) for r in (0, 1)]
    assert np.array_equal(np.concatenate([x for x, _ in halves]), moved[0])
    seen = np.concatenate([Feed(batches, seed=3).batch(step)[1] for step in range(89)])
    assert len(seen) == 89 * 16 and len(load_data(digits / "train.npz")) // 16 == 89


def test_two_processes_train_as_one(digits, tmp_path):
    """Without BatchNormalization, whose statistics each process takes by itself."""
    path = tmp_path / "net.onnx"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    torch.onnx.export(
        network, (torch.zeros(2, 1, 8, 8),), path, dynamo=False, input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
    )  # fmt: skip
    arguments = ["finetune", path, "--data", digits / "train.npz", "--steps", "30", "--lr", "0.1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", []), ("two", launcher)):
        command = [sys.executable, *start, "-m", "onnx_ghn", *arguments, "-o", f"{name}.onnx"]
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (losses_of(tmp_path / f"{name}.finetune/log.jsonl") for name in ("one", "two"))
    assert len(one) == 30
    np.testing.assert_allclose(one, two, atol=1e-4)


def losses_of(path: Path) -> list[float]:
    records = map(json.loads, path.read_text().splitlines())
    return [record["loss"] for record in records if record["event"] == "train"]


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_learns_the_same(fresh, digits, export, precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = FinetuneOptions(steps=60, learning_rate=0.1, precision=precision)
    cpu, cuda = (
        onnx_ghn.finetune(
            export(fresh), digits / "train.npz", options=options, run=RunOptions(device=device)
        )
        for device in ("cpu", "cuda")
    )
    assert cuda.device.startswith("cuda")
    assert np.mean(cuda.losses[-10:]) == pytest.approx(np.mean(cpu.losses[-10:]), abs=0.1)


def test_validation_of_other_classes_says_which(trained, export, tmp_path, monkeypatch):
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("ONNX_GHN_CACHE", str(tmp_path / "cache"))
    for folder, last in (("train", "truck"), ("val", "lorry")):
        for name in (*"abcdefghi", last):
            (tmp_path / folder / name).mkdir(parents=True)
            pillow.new("L", (8, 8)).save(tmp_path / folder / name / "1.png")
    with pytest.raises(DataError, match=r"lacks 'truck' and has 'lorry'$"):
        onnx_ghn.finetune(export(trained), tmp_path / "train", val=tmp_path / "val")
