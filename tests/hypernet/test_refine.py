import numpy as np
import pytest
import torch

from onnx_ghn.errors import OptionError
from onnx_ghn.hypernet.fit import fit_weight
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.hypernet.refine import (
    NOISE,
    RefinedPrediction,
    Refinement,
    correlation_spread,
    orthogonalise,
)


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


@pytest.mark.parametrize("noise", [-1.0, float("nan"), float("inf")])
def test_impossible_noise_is_an_error(noise):
    with pytest.raises(OptionError, match="noise"):
        Refinement(noise=noise)
