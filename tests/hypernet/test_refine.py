import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_ghn.architectures.sample import sample
from onnx_ghn.errors import MissingDependencyError, OptionError
from onnx_ghn.hypernet.archive import Archive, ArchiveInfo
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.engines import TorchEngine
from onnx_ghn.hypernet.fit import fit_weight
from onnx_ghn.hypernet.kinds import COLUMNS, KindsHypernetwork
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.hypernet.refine import (
    RefinedPrediction,
    Refinement,
    correlation_spread,
    orthogonalise,
)
from onnx_ghn.options import NOISE
from onnx_ghn.read.reading import read_model
from onnx_ghn.train.export import network_config


def published_spread(weight):
    """The definition: standard deviation of all entries of the correlation matrix."""
    matrix = torch.from_numpy(weight).double().reshape(weight.shape[0], -1)
    matrix = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
    return float(torch.corrcoef(matrix).std())


@pytest.mark.parametrize(
    ("tile", "shape"),
    [
        ((4, 3, 1, 1), (4, 3)),
        ((4, 3, 1, 1), (10, 7)),
        ((4, 3, 1, 1), (5, 40)),
        ((4, 3, 3, 3), (10, 7, 3, 3)),
        ((8, 1, 3, 3), (20, 1, 3, 3)),
        ((4, 3, 1, 1), (11, 11)),
    ],
)
def test_the_spread_from_a_tile_is_that_of_the_whole_weight(tile, shape):
    values = np.random.default_rng(0).normal(size=tile).astype(np.float32)
    expected = published_spread(fit_weight(values, shape))
    assert correlation_spread(values, shape) == pytest.approx(expected, abs=1e-5)


def test_weights_without_variation_have_no_spread():
    assert correlation_spread(np.ones((4, 1, 1, 1), np.float32), (4, 1)) == 0
    assert correlation_spread(np.ones((1, 1, 1, 1), np.float32), (1, 1)) == 0


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 3, 3, 3), (30, 2, 3, 3)])
def test_orthogonal_factors(shape):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    result = orthogonalise(weight)
    assert result.shape == shape
    matrix = result.reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)
    np.testing.assert_allclose(orthogonalise(result), result, atol=1e-5)


@pytest.fixture
def prediction(archives, data, parity_values):
    reading, _ = parity_values.read_fixture(data / "ghn3_tiny" / "resnet18.npz")
    return predict(reading, archives["ghn3_tiny"], seed=1)


def test_noise_parts_equal_channels_and_spares_head_and_biases(prediction):
    refined = RefinedPrediction(prediction, Refinement(noise=NOISE))
    parameters = prediction.reading.parameters
    for index in prediction.indices:
        before, after = prediction.tensor(index), refined.tensor(index)
        name = parameters[index].name
        if name.startswith("fc."):
            np.testing.assert_array_equal(before, after)
            continue
        difference = after - before
        assert 0 < np.abs(difference).max() < 7 * NOISE, name
    index = [p.name for p in parameters].index("layer1.0.conv1.weight")
    before, after = prediction.tensor(index), refined.tensor(index)
    np.testing.assert_array_equal(before[0], before[16])
    assert not np.array_equal(after[0], after[16])
    deviation = NOISE * correlation_spread(prediction.tiles[index], before.shape)
    assert (after - before).std() == pytest.approx(deviation, rel=0.05)


def test_refinement_is_reproducible(prediction):
    settings = Refinement(noise=NOISE, orthogonal=True)
    first, second = (RefinedPrediction(prediction, settings) for _ in range(2))
    for index in prediction.indices[:6]:
        np.testing.assert_array_equal(first.tensor(index), second.tensor(index))


def test_orthogonality_is_for_weights_only(prediction):
    refined = RefinedPrediction(prediction, Refinement(orthogonal=True))
    parameters = prediction.reading.parameters
    for index in prediction.indices[:6]:
        value, shape = refined.tensor(index), parameters[index].logical_shape
        if len(shape) == 1:
            np.testing.assert_array_equal(value, prediction.tensor(index))
        else:
            matrix = value.reshape(shape[0], -1)
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(shape[0]), atol=1e-4)


@pytest.fixture(scope="module")
def tiled():
    """A prediction of our own design for a network with more channels than a tile has."""
    torch.manual_seed(0)
    config = ArchiveConfig(name="kinds", network=network_config(10), trained=False, columns=COLUMNS)
    network = KindsHypernetwork(config.network.hidden, 1, 8, 10)
    archive = Archive(ArchiveInfo(Path("kinds.pt"), config, ""), TorchEngine(network))
    return predict(read_model(sample("full", 6)), archive)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_equal_channels_of_our_own_design_are_parted(tiled, orthogonal):
    refined = RefinedPrediction(tiled, Refinement(noise=NOISE, orthogonal=orthogonal))
    parted = 0
    for index in tiled.indices:
        before, after = tiled.tensor(index), refined.tensor(index)
        if before.ndim > 1 and distinct(before) < len(before):
            parted += 1
            assert distinct(after) == len(after)
            assert np.isfinite(after).all()
    assert parted > 5


def distinct(weight):
    return len(np.unique(weight.reshape(len(weight), -1), axis=0))


def test_orthogonality_without_torch_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="--orthogonal"):
        orthogonalise(np.eye(2, dtype=np.float32))


@pytest.mark.parametrize("noise", [-1.0, float("nan"), float("inf")])
def test_impossible_noise_is_an_error(noise):
    with pytest.raises(OptionError, match="noise"):
        Refinement(noise=noise)
