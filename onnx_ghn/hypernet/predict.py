"""What a hypernetwork predicts for a model: which parameters, and a tensor for each.

Imports no torch: what is said of an archive here needs its description only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.hypernet.archive import Archive, ArchiveInfo
from onnx_ghn.hypernet.config import NetworkConfig
from onnx_ghn.hypernet.engines import Floats
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.fit import fit_positions, fit_vector, fit_weight
from onnx_ghn.hypernet.tiles import Decoder, Source, decode_tiles
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.read.channels import Places
from onnx_ghn.read.graph import ATTRIBUTES, Op, Part, Slot
from onnx_ghn.read.layout import Transpose
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.reading import MAX_NODES, Reading

MAX_TOKENS = 2
"""Rows of a position table outside its grid: a class token, and perhaps a distillation token."""
IS_HEAD = ATTRIBUTES.index("is_head")


def reasons_against(reading: Reading, info: ArchiveInfo) -> list[str | None]:
    """For each parameter of a model, why the archive can't predict it; None where it can."""
    found = sources_of(reading, info.config.network)
    return [source if isinstance(source, str) else None for source in found]


class Prediction:
    """Predicted tensors of one model; tiles are decoded, tensors are made when asked for.

    Attributes:
        reading: What was predicted for.
        sources: Where the tile of each predicted parameter comes from, by its index.
        tiles: Those tiles: [o, i, kh, kw] for a weight, [m] for a vector.
        states: float32[N, H], the encoder's state of each node.
        seed: Seed of what is drawn.
    """

    def __init__(
        self,
        reading: Reading,
        sources: dict[int, Source],
        tiles: dict[int, Floats],
        states: Floats,
        seed: int,
    ) -> None:
        self.reading = reading
        self.sources = sources
        self.tiles = tiles
        self.states = states
        self.seed = seed

    @property
    def indices(self) -> list[int]:
        """The parameters that were predicted, ascending."""
        return sorted(self.sources)

    def is_weight(self, index: int) -> bool:
        """Whether it is a kernel or a matrix: no vector, and no position table."""
        source, graph = self.sources[index], self.reading.graph
        return (
            source.part is Part.WEIGHT and graph is not None and graph.op[source.node] != Op.POS_ENC
        )

    def tensor(
        self, index: int, dtype: npt.DTypeLike = np.float32, *, period: bool = False
    ) -> npt.NDArray[Any]:
        """The predicted value of `Reading.parameters[index]`, in its logical shape.

        Args:
            index: The parameter.
            dtype: Type of the result.
            period: Make the first rows only, which the others repeat, if they do; of a weight.
        """
        parameter = self.reading.parameters[index]
        source, tile, shape = self.sources[index], self.tiles[index], parameter.logical_shape
        if source.part is not Part.WEIGHT:
            return fit_vector(tile.astype(dtype, copy=False), shape, source.rows)
        if self.is_weight(index):
            if period and source.rows is None:
                shape = (min(len(tile), shape[0]), *shape[1:])
            if parameter.role is Role.CONV_TRANSPOSE:
                tile = _turned(tile, parameter)
            transposed = parameter.layout.steps == (Transpose((1, 0)),)
            rows, columns = source.rows, source.columns
            return fit_weight(
                tile, shape, transposed=transposed, dtype=dtype, rows=rows, columns=columns
            )
        table = fit_positions(tile, shape, stream_of(self.seed, parameter))
        return table.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class PredictedWeight:
    """Draws a predicted weight, or the rows that repeat in it (`drawing.Repeats`)."""

    prediction: Prediction
    index: int

    def __call__(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All of it, in its logical shape."""
        return self.prediction.tensor(self.index, dtype)

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The rows that repeat along the first axis, contiguous."""
        return np.ascontiguousarray(self.prediction.tensor(self.index, dtype, period=True))


def predict(
    reading: Reading, archive: Archive, *, indices: Iterable[int] | None = None, seed: int = 0
) -> Prediction:
    """Predict parameters of a model.

    Nodes that want tiles of one size are decoded together. Tied parameters share a node, hence
    a value.

    Args:
        reading: What the reader found; its graph must exist.
        archive: The hypernetwork.
        indices: Which parameters; all that can be predicted where None.
        seed: Seed of the drawn rows of position tables.

    Raises:
        ValueError: A parameter in `indices` can't be predicted, see `reasons_against`.
    """
    config = archive.info.config
    found = sources_of(reading, config.network)
    wanted = range(len(found)) if indices is None else sorted(indices)
    sources: dict[int, Source] = {}
    for index in wanted:
        source = found[index]
        if isinstance(source, Source):
            sources[index] = source
        elif indices is not None:
            raise ValueError(f"parameter {index} can't be predicted: {source}")
    graph = reading.graph
    if graph is None:
        return Prediction(reading, {}, {}, np.zeros((0, config.network.hidden), np.float32), seed)
    rows = features(graph, config.network, config.columns)
    states = archive.engine.encode(rows, graph.distance.astype(np.int64))
    tiles = decode_tiles(archive.engine, sources, states, rows, config.network)
    return Prediction(reading, sources, tiles, states, seed)


def sources_of(reading: Reading, network: NetworkConfig) -> list[Source | str]:
    """For each parameter of a model where its tile comes from, or why there is none."""
    graph = reading.graph
    if graph is None:
        return [f"no graph: {reading.graph_reason}"] * len(reading.parameters)
    if len(graph) > MAX_NODES:
        reason = f"graph too large: {len(graph)} nodes, at most {MAX_NODES}"
        return [reason] * len(reading.parameters)
    places: dict[int, tuple[int, Slot]] = {}
    for node, slots in enumerate(graph.slots):
        for slot in slots:
            places.setdefault(slot.parameter, (node, slot))
    # A copy of a tied parameter has no slot of its own: it takes what the first one takes.
    of_tie = {reading.parameters[index].value_key: place for index, place in places.items()}
    for index, parameter in enumerate(reading.parameters):
        if index not in places and parameter.value_key in of_tie:
            places[index] = of_tie[parameter.value_key]
    found: list[Source | str] = []
    for index, parameter in enumerate(reading.parameters):
        if index in places:
            found.append(_source(parameter, reading, *places[index], network))
        else:
            found.append("no node of the hypernetwork's vocabulary holds it")
    return found


def _source(
    parameter: Parameter, reading: Reading, node: int, slot: Slot, network: NetworkConfig
) -> Source | str:
    """Where a parameter's tile comes from, or why its node can't give it."""
    graph, shape, part = reading.graph, parameter.logical_shape, slot.part
    assert graph is not None
    c0, c1 = network.channels
    rows = columns = None
    if network.aligned:
        rows, columns = reading.channels.of(reading.parameters[slot.parameter])
    head = bool(graph.attributes[node, IS_HEAD])
    if 0 in shape or not shape:
        return "a tensor without axes or elements"
    if parameter.role is Role.NORM_SCALE and parameter.neutral == 0:
        return "a norm's scale that is used as 1 + w isn't in the hypernetwork's vocabulary"
    if head and shape[0] != network.classes:
        return f"the archive predicts heads of {network.classes} classes, this one has {shape[0]}"
    if part is not Part.WEIGHT:
        if len(shape) > 1:
            return f"a vector of {len(shape)} axes isn't in the hypernetwork's vocabulary"
        if head and graph.op[node] == Op.BIAS:
            return Source(node, part, Decoder.CLASS_BIAS, ())
        return Source(node, part, Decoder.VECTOR, (_reach(rows, shape[0], max(c0, c1)),), rows)
    if graph.op[node] == Op.POS_ENC:
        side, dim = int(graph.shape[node, 2]), shape[-1]
        if not 0 <= math.prod(shape[:-1]) - side * side <= MAX_TOKENS:
            return f"a position table of {math.prod(shape[:-1])} rows isn't a square grid"
        return Source(node, part, Decoder.WEIGHT, (1, min(dim, c1), side, side))
    if not 2 <= len(shape) <= 5:
        return f"a weight of {len(shape)} axes isn't in the hypernetwork's vocabulary"
    kh, kw = shape[3:] if len(shape) == 5 else (*shape[2:], 1, 1)[:2]
    ins = _reach(columns, shape[1], c1)
    if head and kh * kw == 1:
        return Source(node, part, Decoder.CLASS_WEIGHT, (ins,), None, columns)
    size = (_reach(rows, shape[0], c0), ins, kh, kw)
    return Source(node, part, Decoder.WEIGHT, size, rows, columns)


def _reach(places: Places | None, count: int, most: int) -> int:
    """How much of a tile's axis is needed for `count` channels at their places."""
    return min(most, count if places is None else max(places) + 1)


def _turned(tile: Floats, parameter: Parameter) -> Floats:
    """The tile of a convolution for the transposed one that computes the same.

    A transposed convolution turns its kernel by 180 degrees, and of the products in its kernel
    those that meet the zeros between strided inputs don't count.
    """
    return tile[:, :, ::-1, ::-1] * np.float32(turned_factor(parameter))


def turned_factor(parameter: Parameter) -> float:
    """Factor of a transposed convolution's weights: fewer products count than a kernel has."""
    return math.sqrt(math.prod(parameter.logical_shape[1:]) / parameter.fan_in)


def stream_of(seed: int, parameter: Parameter) -> RandomStream:
    """Where the drawn rows of a position table come from; the same for tied tables."""
    return RandomStream(seed, parameter.tie_group)
