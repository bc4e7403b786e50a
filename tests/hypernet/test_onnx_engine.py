import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.archive import SHIPPED, load_archive, write_archive
from onnx_ghn.hypernet.config import CORNER, GATED, GRAPHORMER, ArchiveConfig, NetworkConfig
from onnx_ghn.hypernet.model import Hypernetwork
from onnx_ghn.hypernet.onnx_engine import GRAPHS, graph_file

DATA = Path(__file__).parent / "data"
FIXTURES = sorted(DATA.glob("*/*.npz"))
NETWORKS = [
    NetworkConfig(
        encoder=GRAPHORMER, hidden=16, heads=4, layers=2, channels=(20, 18), side=5, classes=6
    ),
    NetworkConfig(
        encoder=GATED,
        hidden=8,
        channels=(12, 18),
        side=4,
        classes=3,
        window=CORNER,
        final_norm=False,
    ),
]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda n: n.encoder)
def engines(request, tmp_path_factory):
    """The torch and the ONNX Runtime engine of one archive, and its file."""
    torch.manual_seed(0)
    state = {k: v.numpy() for k, v in Hypernetwork(request.param).state_dict().items()}
    file = tmp_path_factory.mktemp("onnx") / "small.pt"
    write_archive(file, ArchiveConfig(name="small", network=request.param, trained=False), state)
    return load_archive(file).engine, load_archive(file, engine="onnxruntime").engine, file


def random_graph(nodes, seed):
    """Features and shortest directed paths of a random graph in topological order."""
    rng = np.random.default_rng(seed)
    edge = np.triu(rng.random((nodes, nodes)) < 0.3, 1)
    distance, reached = edge.astype(np.int64), edge
    for length in range(2, 300):
        reached = (reached.astype(int) @ edge.astype(int)) > 0
        distance[(distance == 0) & reached] = length
    features = np.stack([rng.integers(0, n, nodes) for n in (15, 390, 390, 8, 8)], axis=1)
    return features, distance


@pytest.mark.parametrize("nodes", [1, 2, 17])
def test_states_agree(engines, nodes):
    eager, runtime, _ = engines
    features, distance = random_graph(nodes, seed=nodes)
    expected = eager.encode(features, distance)
    np.testing.assert_allclose(runtime.encode(features, distance), expected, atol=1e-5)


def test_far_distances_and_many_edges_agree(engines):
    eager, runtime, _ = engines
    features, distance = random_graph(130, seed=0)
    distance[0, 1:] = np.arange(1, 130) * 9 % 1200
    distance[:-1, -1] = 1
    expected = eager.encode(features, distance)
    np.testing.assert_allclose(runtime.encode(features, distance), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", list(itertools.product([1, 2, 4, 5, 7], [1, 3, 8])))
@pytest.mark.parametrize("size", [(1, 1), (7, 17), (99, 99)])
def test_weights_agree(engines, size, kernel):
    eager, runtime, _ = engines
    states = np.random.default_rng(0).normal(size=(3, eager_width(eager))).astype(np.float32)
    rows = np.zeros((3, 5), np.int64)
    expected = eager.decode_weight(states, rows, *size, *kernel)
    found = runtime.decode_weight(states, rows, *size, *kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_decoded_block_by_block_agree(tmp_path, monkeypatch, channels):
    network = NETWORKS[0]
    one_channel = 4 * network.channels[1] * 8 * network.hidden
    monkeypatch.setattr("onnx_ghn.hypernet.onnx_graphs.BLOCK_BYTES", channels * one_channel + 1)
    torch.manual_seed(0)
    state = {k: v.numpy() for k, v in Hypernetwork(network).state_dict().items()}
    file = tmp_path / "blocks.pt"
    write_archive(file, ArchiveConfig(name="blocks", network=network, trained=False), state)
    eager = load_archive(file).engine
    runtime = load_archive(file, engine="onnxruntime").engine
    states = np.random.default_rng(0).normal(size=(3, network.hidden)).astype(np.float32)
    rows = np.zeros((3, 5), np.int64)
    for size in itertools.product([1, 3, 4, 5, 19, 20], [1, 7, 18], [1, 3], [2, 7]):
        expected = eager.decode_weight(states, rows, *size)
        np.testing.assert_allclose(
            runtime.decode_weight(states, rows, *size), expected, atol=1e-5, err_msg=str(size)
        )


def eager_width(engine):
    return engine.encode(np.zeros((1, 5), np.int64), np.zeros((1, 1), np.int64)).shape[1]


def test_heads_agree(engines):
    eager, runtime, _ = engines
    states = np.random.default_rng(0).normal(size=(3, eager_width(eager))).astype(np.float32)
    rows = np.zeros((3, 5), np.int64)
    for method, size in (
        ("decode_class_weight", (5,)),
        ("decode_class_weight", (99,)),
        ("decode_vector", (7,)),
        ("decode_vector", (99,)),
        ("decode_class_bias", ()),
    ):
        expected = getattr(eager, method)(states, rows, *size)
        np.testing.assert_allclose(
            getattr(runtime, method)(states, rows, *size), expected, atol=1e-5
        )


def test_the_models_pass_the_checker_and_hold_no_weights(engines):
    _, _, file = engines
    for name in GRAPHS:
        model = graph_file(file, name)
        onnx.checker.check_model(str(model), full_check=True)
        assert model.stat().st_size < 20_000


@pytest.mark.parametrize("file", FIXTURES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_values_agree_with_the_reference(file, archives, parity_values):
    archive = archives[file.parent.name]
    runtime = load_archive(archive.info.path, engine="onnxruntime")
    assert parity_values.compare(file, runtime).agrees


def test_a_prediction_needs_no_torch(light, tmp_path):
    code = """
import sys
sys.modules["torch"] = None  # an import of it fails
from onnx_ghn import InitializeOptions, initialize
options = InitializeOptions(method="ghn", engine="onnxruntime")
_, report = initialize(sys.argv[1], sys.argv[2], options)
print(report.summary()["tensors"]["predicted"])
"""
    paths = [light / "light_squeezenet.onnx", tmp_path / "out.onnx"]
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 40
    onnx.checker.check_model(str(paths[1]))


@pytest.mark.parametrize("suffix", [".safetensors", ".encode.onnx"])
def test_missing_and_changed_files_are_errors(tmp_path, suffix):
    for file in SHIPPED.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    archive = tmp_path / SHIPPED.name
    load_archive(archive, engine="onnxruntime")
    part = archive.with_suffix(suffix)
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(ArchiveError, match="sha256"):
        load_archive(archive, engine="onnxruntime")
    part.unlink()
    with pytest.raises(ArchiveError, match="lacks this file"):
        load_archive(archive, engine="onnxruntime")
