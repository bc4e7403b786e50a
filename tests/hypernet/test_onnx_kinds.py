import dataclasses

import numpy as np
import onnx
import pytest
import torch

from onnx_ghn.architectures.sample import sample
from onnx_ghn.hypernet.archive import load_archive, write_archive
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.kinds import COLUMNS, LARGEST, Buckets, KindsHypernetwork
from onnx_ghn.hypernet.onnx_engine import GRAPHS, graph_file
from onnx_ghn.read.graph import Op
from onnx_ghn.read.reading import read_model
from onnx_ghn.train.export import network_config


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small network of our own design, its weights stored in half precision."""
    torch.manual_seed(0)
    module = KindsHypernetwork(16, 1, 4, 6)
    network = dataclasses.replace(network_config(6), hidden=16, layers=1, heads=4)
    config = ArchiveConfig(name="kinds", network=network, trained=False, columns=COLUMNS)
    for last in (module.encoder.layers[0].attention.out, module.encoder.layers[0].feed_out):
        torch.nn.init.normal_(last.weight, std=0.2)
    halved = {
        key: value.half().numpy() if value.is_floating_point() else value.numpy()
        for key, value in module.state_dict().items()
    }
    path = tmp_path_factory.mktemp("kinds") / "kinds.pt"
    return write_archive(path, config, halved)


@pytest.fixture(scope="module")
def engines(archive):
    return load_archive(archive.path).engine, load_archive(
        archive.path, engine="onnxruntime"
    ).engine


@pytest.fixture(scope="module")
def nodes(engines, archive):
    """Features of two real graphs and a node of each kind, and the first graph's distances."""
    graphs = [read_model(sample("full", number)).graph for number in (0, 1)]
    tables = [features(graph, archive.config.network, COLUMNS) for graph in graphs]
    kinds = [
        (Op.CONV, 32, 32, 3, 3, 1, 1, 1, 0),
        (Op.CONV, 32, 32, 1, 1, 1, 1, 1, 0),
        (Op.CONV, 32, 32, 1, 1, 0, 0, 0, 1),
        (Op.CONV, 32, 32, 7, 7, 1, 2, 1, 0),
        (Op.CONV, 32, 3, 7, 7, 1, 2, 1, 0),
        (Op.SEP_CONV, 32, 1, 3, 3, 32, 1, 1, 0),
        (Op.SEP_CONV, 32, 4, 3, 3, 8, 1, 1, 0),
        (Op.POS_ENC, 1, 64, 8, 8, 0, 0, 0, 0),
        (Op.CONV, 9999, 9999, 99, 99, 1, 9, 9, 0),
    ]
    rows = [[*map(int, kind), 0, 5, 5000] for kind in kinds]
    return np.concatenate([*tables, np.array(rows)]), tables[0], graphs[0].distance


def agree(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_states_agree(engines, nodes):
    eager, runtime = engines
    _, table, distance = nodes
    distance = distance.astype(np.int64)
    agree(runtime.encode(table, distance), eager.encode(table, distance))
    one = (table[:1], np.zeros((1, 1), np.int64))
    agree(runtime.encode(*one), eager.encode(*one))


@pytest.mark.parametrize(
    "size",
    [
        (32, 32, 3, 3),
        (128, 96, 1, 1),
        (8, 3, 7, 7),
        (24, 1, 9, 9),
        (16, 40, 2, 3),
        (1, 64, 8, 8),
        (64, 64, 9, 1),
    ],
)
def test_decoders_agree_on_every_kind(engines, nodes, size):
    eager, runtime = engines
    rows = nodes[0]
    states = np.random.default_rng(0).normal(size=(len(rows), 16)).astype(np.float32)
    agree(runtime.decode_weight(states, rows, *size), eager.decode_weight(states, rows, *size))


def test_heads_and_vectors_agree(engines, nodes):
    eager, runtime = engines
    rows = nodes[0]
    states = np.random.default_rng(0).normal(size=(len(rows), 16)).astype(np.float32)
    for method, size in (
        ("decode_class_weight", (5,)),
        ("decode_class_weight", (99,)),
        ("decode_vector", (7,)),
        ("decode_vector", (99,)),
        ("decode_class_bias", ()),
    ):
        expected = getattr(eager, method)(states, rows, *size)
        agree(getattr(runtime, method)(states, rows, *size), expected)


def test_every_number_falls_into_the_same_bucket():
    """ONNX has no logarithm of base 2; no number may lie so near to an edge that it matters."""
    numbers = torch.arange(max(LARGEST) + 1)[:, None]
    expected = Buckets((max(LARGEST),))(numbers)[:, 0].numpy()
    logarithms = np.log(numbers[:, 0].numpy().astype(np.float32) + 1)
    places = logarithms * np.float32(8 / np.log(2))
    np.testing.assert_array_equal(np.round(places).astype(int), expected)
    assert np.abs(places - np.floor(places) - 0.5).min() > 1e-3


def test_the_models_pass_the_checker_and_hold_no_weights(archive):
    for name in GRAPHS:
        model = graph_file(archive.path, name)
        onnx.checker.check_model(str(model), full_check=True)
        assert model.stat().st_size < 40_000
