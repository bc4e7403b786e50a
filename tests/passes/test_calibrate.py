"""Calibration: torch's own re-estimation from data, sound statistics from noise."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from onnx_ghn.errors import ModelError
from onnx_ghn.passes.calibrate import Calibrate
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.run.session import open_session

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"

CHAIN = """<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},2] x) => (float[N,2] z)
    <float[2] s = {{1, 1}}, float[2] b = {{0, 0}}, float[2] m1 = {{0, 0}}, float[2] v1 = {{1, 1}},
     float[2] m2 = {{0, 0}}, float[2] v2 = {{1, 1}}, float[2,2] w = {{3, 0, 0, 5}}>
    {{ y = BatchNormalization(x, s, b, m1, v1)  h = MatMul(y, w)
      z = BatchNormalization(h, s, b, m2, v2) }}"""


def chain(batch: str = "N") -> ir.Model:
    return ir.from_onnx_text(CHAIN.format(batch=batch))


def stored(model: ir.Model, name: str) -> npt.NDArray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


class Network(nn.Module):
    """BatchNorm after convolutions, after a linear layer, and one module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 12)
        self.bn3 = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x))).mean((2, 3))
        x = torch.relu(self.bn3(self.linear(x)))
        return self.head(torch.relu(self.bn3(x)))


def export(network: nn.Module, training: bool) -> ir.Model:
    network.train(training)
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.PRESERVE
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.randn(4, 3, 17, 17),),
        buffer,
        dynamo=False,
        training=mode,
        do_constant_folding=False,
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
    )
    return ir.from_proto(onnx.load_from_string(buffer.getvalue()))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("training", [True, False], ids=["training", "identities"])
def test_equal_to_torch(training: bool, tmp_path: Path):
    """With `training=False` the exporter merges equal tensors behind Identity nodes."""
    torch.manual_seed(0)
    network = Network()
    model = export(network, training)
    generator = np.random.default_rng(0)
    batches = [
        (generator.standard_normal((size, 3, 17, 17)) * 2 + 1).astype(np.float32)
        for size in (6, 9, 4)
    ]
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(torch.from_numpy(batch))

    calibrate = Calibrate({"x": batch} for batch in batches)
    assert calibrate(model).modified

    statistics = {name: value for name, value in network.state_dict().items() if "running" in name}
    assert set(calibrate.notes) == set(statistics)
    for name, expected in statistics.items():
        assert stored(model, name) == pytest.approx(expected.numpy(), abs=1e-4)
    assert calibrate.notes["bn1.running_mean"] == "average over 3 batch(es) of data"
    ir.save(model, tmp_path / "calibrated.onnx")
    onnx.checker.check_model(tmp_path / "calibrated.onnx", full_check=True)
    if not training:
        network.eval()
        with torch.no_grad():
            expected = network(torch.from_numpy(batches[0])).numpy()
        session = open_session(tmp_path / "calibrated.onnx")
        [output] = session.run({"x": batches[0]}).values()
        assert output == pytest.approx(expected, abs=1e-4)


class Folding(nn.Module):
    """Convolutions whose BatchNorm the exporter folds into them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_folded_convolutions_equal_torch_with_the_layers_they_held():
    torch.manual_seed(0)
    network = Folding().eval()
    for norm in (network.bn1, network.bn2):
        nn.init.uniform_(norm.running_mean, -2, 2)
        nn.init.uniform_(norm.running_var, 0.2, 5)
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.randn(2, 3, 12, 12),),
        buffer,
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
    )
    model = ir.from_proto(onnx.load_from_string(buffer.getvalue()))
    assert not any(node.op_type == "BatchNormalization" for node in model.graph)
    generator = np.random.default_rng(0)
    batches = [(generator.standard_normal((5, 3, 12, 12)) * 3).astype("f") for _ in range(3)]
    for norm in (network.bn1, network.bn2):
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        network.train()
        for batch in batches:
            network(torch.from_numpy(batch))
        expected = network.eval()(torch.from_numpy(batches[0])).numpy()

    assert not Calibrate({"x": batch} for batch in batches)(model).modified
    calibrate = Calibrate(({"x": batch} for batch in batches), folded=True)
    assert calibrate(model).modified
    assert len(calibrate.notes) == 4
    [found] = open_session(model).run({"x": batches[0]}).values()
    assert found == pytest.approx(expected, abs=1e-4)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph)


def test_noise_gives_a_normalised_network():
    model = chain()
    calibrate = Calibrate(seed=3)
    assert calibrate(model).modified
    assert stored(model, "m1") == pytest.approx([0, 0], abs=0.8)
    assert stored(model, "v1") == pytest.approx([1, 1], abs=0.8)
    # The second layer sees the first one's output, normalised and scaled by 3 and 5.
    assert stored(model, "v2") == pytest.approx(np.array([9, 25]) * 16 / 15, rel=1e-3)
    assert calibrate.notes["m1"] == "average over 1 batch(es) of noise"


def test_same_seed_same_bits_and_a_second_run_changes_nothing():
    first, second, other = chain(), chain(), chain()
    Calibrate(seed=1)(first)
    Calibrate(seed=1)(second)
    Calibrate(seed=2)(other)
    for name in ("m1", "v1", "m2", "v2"):
        assert np.array_equal(stored(first, name), stored(second, name))
    assert not np.array_equal(stored(first, "m1"), stored(other, "m1"))
    assert not Calibrate(seed=1)(first).modified


def test_nothing_but_statistics_changes():
    model = chain()
    nodes = [(node.op_type, node.name) for node in model.graph]
    weights = {name: stored(model, name).copy() for name in ("s", "b", "w")}
    Calibrate()(model)
    assert [(node.op_type, node.name) for node in model.graph] == nodes
    assert [value.name for value in model.graph.outputs] == ["z"]
    for name, before in weights.items():
        assert np.array_equal(stored(model, name), before)


def test_only_the_named_tensors_are_set():
    model = chain()
    calibrate = Calibrate(only={"v2"})
    calibrate(model)
    assert set(calibrate.notes) == {"v2"}
    assert stored(model, "v2")[1] > 20
    for name, start in (("m1", 0), ("v1", 1), ("m2", 0)):
        assert stored(model, name).tolist() == [start, start]
    assert not Calibrate(only=())(model).modified


def test_single_elements_take_the_variance_of_the_means():
    model = chain(batch="1")
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((1, 2)).astype(np.float32) * 4 for _ in range(40)]
    calibrate = Calibrate([{"x": batch} for batch in batches])
    calibrate(model)
    together = np.concatenate(batches)
    assert stored(model, "m1") == pytest.approx(together.mean(0), abs=1e-5)
    assert stored(model, "v1") == pytest.approx(together.var(0, ddof=1), rel=1e-5)
    # The second layer is measured with the first one's statistics in use.
    assert stored(model, "m2") == pytest.approx([0, 0], abs=1e-5)
    assert stored(model, "v2") == pytest.approx([9, 25], rel=1e-4)
    assert "one element a channel" in calibrate.notes["v1"]
    with pytest.raises(ModelError, match=r"'z' has one element.*a list"):
        Calibrate(iter([{"x": batch} for batch in batches]), only={"v2"})(chain(batch="1"))


def test_single_elements_of_noise():
    model = chain(batch="1")
    Calibrate()(model)
    assert stored(model, "v1") == pytest.approx([1, 1], abs=0.9)
    assert stored(model, "v2") == pytest.approx([9, 25], rel=1e-4)


def test_channels_that_are_constant_on_noise_keep_variance_one():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
        <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {1, 1},
         float[2] mask = {1, 0}>
        { h = Mul(x, mask)  y = BatchNormalization(h, s, b, m, v) }"""
    )
    Calibrate()(model)
    assert stored(model, "v")[1] == 1
    Calibrate([{"x": np.eye(2, dtype=np.float32)}])(model)
    assert stored(model, "v")[1] == 0  # as in torch


def test_statistics_that_serve_something_else_are_left():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
        <float[2] s = {1, 1}, float[2] zeros = {0, 0}, float[2] v = {1, 1}>
        { h = BatchNormalization(x, s, zeros, zeros, v)  y = Add(h, zeros) }"""
    )
    calibrate = Calibrate()
    calibrate(model)
    assert stored(model, "zeros").tolist() == [0, 0]
    assert "used elsewhere" in calibrate.notes["zeros"]
    assert "average" in calibrate.notes["v"]


def test_statistics_that_are_not_finite_are_left():
    model = chain()
    calibrate = Calibrate([{"x": np.full((4, 2), np.inf, np.float32)}])
    assert not calibrate(model).modified
    assert "not finite" in calibrate.notes["m1"]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_statistics_keep_their_type(dtype: ir.DataType):
    model = ir.from_onnx_text(CHAIN.format(batch="N").replace("float", dtype.name.lower()))
    for name, value in model.graph.initializers.items():  # the text has no literals of half
        array = stored(chain(), name).astype(dtype.numpy())
        value.const_value = ir.tensor(array, name=name)
    Calibrate()(model)
    assert model.graph.initializers["v2"].dtype is dtype
    assert stored(model, "v2").dtype == dtype.numpy()
    assert stored(model, "v2") == pytest.approx(np.array([9, 25]) * 16 / 15, rel=1e-2)


def test_batches_are_streamed():
    alive: list[int] = []

    def batches() -> Iterator[dict[str, npt.NDArray]]:
        for number in range(5):
            alive.append(number)
            yield {"x": np.eye(2, dtype=np.float32) * (number + 1)}

    model = chain()
    source = batches()
    Calibrate(source)(model)
    assert alive == [0, 1, 2, 3, 4]
    assert stored(model, "m1") == pytest.approx([1.5, 1.5])


def test_no_data_and_wrong_data_are_errors():
    with pytest.raises(ModelError, match="no data"):
        Calibrate([])(chain())
    with pytest.raises(ModelError, match="can't run"):
        Calibrate([{"x": np.ones((2, 7), np.float32)}])(chain())


@pytest.mark.cuda
@pytest.mark.usefixtures("runtime_on_cuda")
def test_cuda_gives_the_same_statistics():
    on_cpu, on_cuda = chain(), chain()
    Calibrate()(on_cpu)
    Calibrate(device="cuda")(on_cuda)
    for name in ("m1", "v1", "m2", "v2"):
        assert stored(on_cuda, name) == pytest.approx(stored(on_cpu, name), rel=1e-3, abs=1e-5)


def test_a_model_without_batch_normalization_is_left():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    calibrate = Calibrate()
    assert not calibrate(model).modified
    assert calibrate.notes == {}


def fill(model: ir.Model, draw: Callable[[str, tuple[int, ...]], npt.NDArray[np.float32]]) -> None:
    """Replace the ConstantOfShape nodes that stand for weights by initializers."""
    for node in list(model.graph):
        if node.op_type != "ConstantOfShape":
            continue
        shape = node.inputs[0]
        assert shape is not None
        assert shape.const_value is not None
        old = node.outputs[0]
        array = draw(str(old.name), tuple(int(size) for size in shape.const_value.numpy()))
        new = ir.val(str(old.name), const_value=ir.tensor(array, name=old.name))
        old.replace_all_uses_with(new)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(new)
    model.ir_version = 4


def test_resnet50_with_a_fixed_batch_of_one():
    model = ir.load(LIGHT)

    def draw(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if name.endswith(("riv_0", "_bn_s_0")):
            return np.ones(shape, np.float32)
        if len(shape) < 2:
            return np.zeros(shape, np.float32)
        return RandomStream(0, name).normal(shape) * np.sqrt(2 / np.prod(shape[1:]), dtype="f")

    fill(model, draw)
    calibrate = Calibrate()
    calibrate(model)
    assert len(calibrate.notes) == 2 * 53
    # The last layers have 7 x 7 elements a channel in each sample: six samples are enough.
    assert set(calibrate.notes.values()) == {"average over 6 batch(es) of noise"}
    softmax = model.graph.outputs[0].producer()
    assert softmax is not None
    logits = softmax.inputs[0]
    assert logits is not None
    model.graph.outputs.append(logits)
    noise = RandomStream(1, "input").normal((1, 3, 224, 224))
    results = open_session(model).run({"gpu_0/data_0": noise})
    assert 0.05 < results[str(logits.name)].std() < 20
