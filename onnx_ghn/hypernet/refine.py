"""Changes to predicted weights before fine-tuning: noise between equal channels, orthogonality.

Tiling makes channels equal, and equal channels get equal gradients. The remedies are those of
"Pretraining a Neural Network before Knowing Its Architecture" (Knyazev, 2022): noise in proportion
to how the weight's rows correlate, and the orthogonal factor of the weight in its place. The
classifier and everything after it stay as predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import MissingDependencyError, OptionError
from onnx_ghn.hypernet.engines import Floats, compute_threads
from onnx_ghn.hypernet.predict import IS_HEAD, Prediction
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.read.graph import Op, Part


@dataclass(frozen=True)
class Refinement:
    """What is done to predicted tensors.

    Attributes:
        noise: Standard deviation of the noise, in those of the weight's correlations; 0 for none.
        orthogonal: Whether weights are replaced by their orthogonal factors.
    """

    noise: float = 0.0
    orthogonal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise OptionError(f"the noise must be a number from 0 up, got {self.noise}")


class RefinedPrediction:
    """A prediction whose tensors are refined when asked for."""

    def __init__(self, prediction: Prediction, refinement: Refinement) -> None:
        """Wrap `prediction`.

        Args:
            prediction: What was predicted.
            refinement: What is done to it. Weights get noise, then orthogonality; scales and
                shifts of a norm get noise in the measure of the weight before them.
        """
        self._prediction = prediction
        self._refinement = refinement
        self._spreads: dict[int, float] = {}
        self._weight_of: dict[int, int] = {}
        graph = prediction.reading.graph
        if graph is None:
            return
        for index, source in prediction.sources.items():
            if source.part is Part.WEIGHT and graph.op[source.node] != Op.POS_ENC:
                self._weight_of.setdefault(source.node, index)
        heads = np.flatnonzero(graph.attributes[:, IS_HEAD])
        self._last = int(heads[0]) if len(heads) else max(self._weight_of, default=0)

    def tensor(self, index: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """The refined value of `Reading.parameters[index]`, in its logical shape."""
        source, graph = self._prediction.sources[index], self._prediction.reading.graph
        assert graph is not None
        is_weight = self._weight_of.get(source.node) == index
        if source.node >= self._last or not (is_weight or graph.op[source.node] in (Op.BN, Op.LN)):
            return self._prediction.tensor(index, dtype)
        value = self._prediction.tensor(index)
        parameter = self._prediction.reading.parameters[index]
        if self._refinement.noise:
            stream = RandomStream(self._prediction.seed, f"{parameter.tie_group}\0noise")
            deviation = self._refinement.noise * self._spread(source.node)
            value = add_noise(value, deviation, stream)
        if self._refinement.orthogonal and is_weight:
            value = orthogonalise(value)
        return value.astype(dtype, copy=False)

    def _spread(self, node: int) -> float:
        """Spread of the weight of a node, or of the nearest one before it; 0 without one."""
        graph = self._prediction.reading.graph
        assert graph is not None
        while node not in self._weight_of:
            before = np.flatnonzero(graph.distance[:, node] == 1)
            if not len(before):
                return 0.0
            node = int(before[-1])
        if node not in self._spreads:
            index = self._weight_of[node]
            shape = self._prediction.reading.parameters[index].logical_shape
            self._spreads[node] = correlation_spread(self._prediction.tiles[index], shape)
        return self._spreads[node]


def correlation_spread(tile: Floats, shape: tuple[int, ...]) -> float:
    """Standard deviation of the correlations between the rows of a weight.

    The weight counts as a matrix with at least as many rows as columns, of (out) x (in * kernel)
    or transposed. Computed from the tile and how often each of its channels occurs: a matrix of
    all pairs of rows would be large. Rounded, so that it doesn't depend on the order of sums.

    Args:
        tile: [o', i', kh, kw].
        shape: (out, in per group, *kernel) of the weight that repeats it.
    """
    tile = tile[: shape[0], : shape[1]]
    positions = tile[0, 0].size
    rows = tile.reshape(tile.shape[0], -1).astype(np.float64)
    row_counts = np.bincount(np.arange(shape[0]) % tile.shape[0]).astype(np.float64)
    in_counts = np.bincount(np.arange(shape[1]) % tile.shape[1]).astype(np.float64)
    column_counts = np.repeat(in_counts, positions)
    if row_counts.sum() < column_counts.sum():
        rows, row_counts, column_counts = rows.T, column_counts, row_counts
    rows = rows - (rows @ column_counts / column_counts.sum())[:, None]
    rows = rows * np.sqrt(column_counts)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-12)
    pairs = row_counts.sum() ** 2
    mean = np.square(row_counts @ rows).sum() / pairs
    mean_square = np.square((rows.T * row_counts) @ rows).sum() / pairs
    if pairs == 1:
        return 0.0
    variance = max(0.0, mean_square - mean**2) * pairs / (pairs - 1)
    return round(math.sqrt(variance), 6)


def add_noise(value: Floats, deviation: float, stream: RandomStream) -> Floats:
    """A tensor with normal noise added to it."""
    noise: Floats = stream.normal(value.shape)
    return value + np.float32(deviation) * noise


def orthogonalise(weight: Floats) -> Floats:
    """The orthogonal factor of a weight, which counts as a matrix of (out) x (in * kernel).

    Its rows, or its columns where there are fewer of them, become orthonormal; the triangular
    factor has a positive diagonal, so that a weight which is orthogonal already stays.

    Raises:
        MissingDependencyError: torch is not installed: numpy's factors depend on the number of
            cores in their last bits.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "orthogonal weights need torch: pip install torch, or leave --orthogonal out"
        ) from error

    matrix = torch.from_numpy(np.ascontiguousarray(weight)).reshape(weight.shape[0], -1)
    wide = matrix.shape[0] < matrix.shape[1]
    with compute_threads(1), torch.inference_mode():
        factor, triangle = torch.linalg.qr(matrix.T if wide else matrix)
        factor = factor * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        return (factor.T if wide else factor).reshape(weight.shape).contiguous().numpy()
