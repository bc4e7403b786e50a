import numpy as np
import onnx_ir as ir
import pytest
import torch

from onnx_ghn.architectures.sample import sample
from onnx_ghn.hypernet.archive import load_archive
from onnx_ghn.hypernet.model import build_network
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.read.reading import read_model
from onnx_ghn.train.export import archive_config, export_archive, network_config
from onnx_ghn.train.prediction import PredictionPlan

NETWORKS = [("full", k) for k in range(10)]
NETWORKS += [("dense", 7001), ("dense", 7003), ("broad", 3), ("broad", 8), ("wide", 1)]
"""Concatenations whose places go past a tile's end; a shuffle and a fire module in "broad"."""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(network_config(10)).eval()


@pytest.fixture(scope="module")
def archive(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "test.pt"
    config = archive_config("test", 10, 32, ((0.5,) * 3, (0.2,) * 3), "", {})
    export_archive(path, config, network, {})
    return load_archive(path)


@pytest.mark.parametrize(("space", "seed"), NETWORKS)
def test_training_predicts_what_the_exported_archive_predicts(network, archive, space, seed):
    compare(network, archive, sample(space, seed))


@pytest.mark.parametrize(
    "graph",
    [
        """g (float[1,3,4,9,9] x, float[8,3,2,5,3] a, float[8,3,3,3,3] t, float[6,6,3] b) => (y)
        <int64[3] flat = {1, 6, -1}> {
            p = Conv<strides=[1,2,2]>(x, a)
            q = ConvTranspose<strides=[2,2,2], group=2>(p, t)
            r = Reshape(q, flat)
            y = Conv(r, b)
        }""",
        """g (float[1,3,8,8] x, float[16,3,4,4] w, float[1,1,16] token, float[1,5,16] table,
              float[10,16] h) => (y)
        <int64[3] flat = {1, 16, -1}> {
            p = Conv<strides=[4,4]>(x, w)
            q = Reshape(p, flat)
            r = Transpose<perm=[0,2,1]>(q)
            s = Concat<axis=1>(token, r)
            t = Add(s, table)
            u = ReduceMean<axes=[1], keepdims=0>(t)
            y = Gemm<transB=1>(u, h)
        }""",
    ],
    ids=["other dimensions, transposed", "class token"],
)
def test_training_predicts_other_peoples_layers_as_the_archive_does(network, archive, graph):
    text = f'<ir_version: 8, opset_import: ["" : 17]> {graph}'
    compare(network, archive, ir.from_onnx_text(text))


def compare(network, archive, model):
    """All that the archive predicts, it predicts in training too; and nothing else."""
    reading = read_model(model)
    plan = PredictionPlan(reading, network_config(10))
    with torch.no_grad():
        states = network.encode(plan.features, plan.distance)
        mine = plan.predict(network, states)
    prediction = predict(reading, archive)
    assert prediction.indices
    for index in prediction.indices:
        parameter = reading.parameters[index]
        expected = parameter.layout.to_physical(prediction.tensor(index))
        assert mine[parameter.name].shape == expected.shape == parameter.shape
        np.testing.assert_allclose(mine[parameter.name].numpy(), expected, rtol=1e-4, atol=1e-5)
    learnable = {p.name for p in reading.parameters if p.learnable}
    assert set(mine) == learnable
    predicted = {reading.parameters[index].name for index in prediction.indices}
    assert set(plan.constants) == learnable - predicted


def test_every_prediction_has_a_gradient(network):
    plan = PredictionPlan(read_model(sample("full", 3)), network_config(10))
    weights = plan.predict(network, network.encode(plan.features, plan.distance))
    network.zero_grad()
    torch.stack(
        [w.square().sum() for n, w in weights.items() if n not in plan.constants]
    ).sum().backward()
    assert network.embedding.weight.grad.abs().sum() > 0
    assert network.vector.templates.weight.grad.abs().sum() > 0
