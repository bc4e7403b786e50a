"""Predicts the weights of one architecture, differentiably.

The same values as `onnx_ghn.hypernet.predict` gives, from the same decoders; here they are
computed in few large operations, planned once for an architecture: each decoder runs once for all
of its nodes, and parameters of equal shape are cut, repeated and scaled together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from onnx_ghn.errors import ModelError
from onnx_ghn.hypernet.config import NetworkConfig
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.fit import TOKEN_STD, drawn_tokens, scale
from onnx_ghn.hypernet.kinds import COLUMNS, POSITION, KindOf, KindsHypernetwork, window
from onnx_ghn.hypernet.predict import sources_of, stream_of, turned_factor
from onnx_ghn.hypernet.tiles import Decoder, Source
from onnx_ghn.read.channels import Places
from onnx_ghn.read.graph import Part
from onnx_ghn.read.layout import Layout
from onnx_ghn.read.parameter import Role

if TYPE_CHECKING:
    from onnx_ghn.read.parameter import Parameter
    from onnx_ghn.read.reading import Reading


@dataclass(frozen=True)
class _Group:
    """Parameters of one shape from one decoder, or one row of the vector decoder.

    Attributes:
        decoder: Number of a weight decoder (its kind), or the name of another one.
        rows: Their rows in the decoder's output; None for all of them, in order.
        shape: Their logical shape.
        cut: What is cut out of a weight's tile, (out, in, kh, kw); () for vectors.
        turned: For transposed convolutions, whose kernels are turned, the tile's factor; else 0.
        places: Of the output and input channels: the first of consecutive ones, or each.
        tokens: Of position tables, the drawn rows [n, tokens, dim] that come first.
    """

    decoder: int | str
    rows: Tensor | None
    shape: tuple[int, ...]
    cut: tuple[int, ...]
    turned: float
    places: tuple[int | Tensor, int | Tensor]
    tokens: Tensor | None
    names: tuple[str, ...]
    layouts: tuple[Layout | None, ...]


_Key = tuple[int | str, bool, tuple[int, ...], tuple[int, ...], float, Places | None, Places | None]
"""Decoder, whether the scale is meant, logical shape, cut, factor of a turned tile, places."""


class PredictionPlan:
    """What to predict for an architecture, and how.

    Attributes:
        features: int64[N, F].
        distance: int64[N, N].
        names: Predicted parameters, in the order of `predict`'s result.
        constants: Learnable parameters that can't be predicted, at their analytic values.
    """

    def __init__(
        self, reading: Reading, network: NetworkConfig, device: str | torch.device = "cpu"
    ) -> None:
        graph = reading.graph
        if graph is None:
            raise ModelError(f"this model has no graph to train on: {reading.graph_reason}")
        table = features(graph, network, COLUMNS)
        self.features = torch.from_numpy(table).to(device)
        self.distance = torch.from_numpy(graph.distance.astype("int64")).to(device)
        kinds = KindOf()(torch.from_numpy(table)).tolist()
        self.kinds = kinds
        self.constants: dict[str, Tensor] = {}
        nodes: dict[int | str, list[int]] = {}
        groups: dict[_Key, list[tuple[Parameter, int]]] = {}
        for parameter, source in zip(reading.parameters, sources_of(reading, network), strict=True):
            if not parameter.learnable:
                continue
            if isinstance(source, str):
                self.constants[parameter.name] = _analytic(parameter).to(device)
                continue
            decoder = _decoder(source, kinds)
            mine = nodes.setdefault(decoder, [])
            if source.node not in mine:
                mine.append(source.node)
            cut = _cut(parameter, source)
            part = source.part is Part.SCALE
            turned = turned_factor(parameter) if parameter.role is Role.CONV_TRANSPOSE else 0.0
            shape, factor = parameter.logical_shape, turned if cut else 0.0
            key = (decoder, part, shape, cut, factor, source.rows, source.columns)
            groups.setdefault(key, []).append((parameter, mine.index(source.node)))
        self.nodes = {decoder: torch.tensor(mine, device=device) for decoder, mine in nodes.items()}
        self._groups: list[tuple[_Group, bool]] = []
        for (decoder, part, shape, cut, turned, rows, columns), members in groups.items():
            chosen = [row for _, row in members]
            every = chosen == list(range(len(nodes[decoder])))
            group = _Group(
                decoder,
                None if every else torch.tensor(chosen, device=device),
                shape,
                cut,
                turned,
                (_run(rows, device), _run(columns, device)),
                _tokens([p for p, _ in members], cut, device) if decoder == POSITION else None,
                tuple(parameter.name for parameter, _ in members),
                tuple(p.layout if p.layout.steps else None for p, _ in members),
            )
            self._groups.append((group, part))

    def predict(self, network: KindsHypernetwork, states: Tensor) -> dict[str, Tensor]:
        """Predict all parameters, in their physical shapes.

        Args:
            network: The hypernetwork.
            states: `network.encode(self.features, self.distance)`.
        """
        x = network.read(states, self.features)
        outputs = {d: _decoded(network, d, x[nodes]) for d, nodes in self.nodes.items()}
        weights = dict(self.constants)
        for group, is_scale in self._groups:
            tile = outputs[group.decoder]
            if group.decoder == "vector":
                tile = tile[:, 0 if is_scale else 1]
            if group.rows is not None:
                tile = tile[group.rows]
            fitted = _fit(tile, group)
            for name, layout, tensor in zip(
                group.names, group.layouts, fitted.unbind(0), strict=True
            ):
                weights[name] = tensor if layout is None else layout.to_physical(tensor)
        return weights


def _decoder(source: Source, kinds: list[int]) -> int | str:
    match source.decoder:
        case Decoder.WEIGHT:
            return kinds[source.node]
        case Decoder.CLASS_WEIGHT:
            return "class_weight"
        case Decoder.VECTOR:
            return "vector"
        case Decoder.CLASS_BIAS:
            return "class_bias"


def _run(places: Places | None, device: str | torch.device) -> int | Tensor:
    """Consecutive places by their first one."""
    if places is None or places == tuple(range(places[0], places[0] + len(places))):
        return 0 if places is None else places[0]
    return torch.tensor(places, device=device)


def _decoded(network: KindsHypernetwork, decoder: int | str, x: Tensor) -> Tensor:
    if isinstance(decoder, int):
        return network.decoders[decoder](x)
    if decoder == "vector":
        return network.squashed(network.vector(x).flatten(2))
    if decoder == "class_weight":
        return network.centred(network.class_weight(x))
    return network.centred(network.shift(network.class_bias(x)))


def _cut(parameter: Parameter, source: Source) -> tuple[int, ...]:
    if source.decoder is Decoder.CLASS_WEIGHT:
        return parameter.logical_shape[0], *source.size, 1, 1
    return source.size if source.decoder is Decoder.WEIGHT else ()


def _fit(tile: Tensor, group: _Group) -> Tensor:
    """Tiles [n, ...] -> parameters [n, *shape], as `onnx_ghn.hypernet.fit` defines them."""
    n, shape = tile.shape[0], group.shape
    if not group.cut:
        return _along(tile, 1, shape[0], group.places[0])
    if group.decoder == POSITION:
        dim, places = shape[-1], math.prod(group.cut[2:])
        grid = window(tile, *group.cut).reshape(n, -1, places).transpose(1, 2)
        grid = grid.repeat(1, 1, -(-dim // grid.shape[2]))[:, :, :dim]
        assert group.tokens is not None
        return torch.cat([group.tokens, grid], dim=1).reshape(n, *shape)
    tile = window(tile, *group.cut) * scale(shape)
    rows, columns = group.places
    tile = _along(_along(tile, 1, shape[0], rows), 2, shape[1], columns)
    if group.turned:
        tile = tile.flip(3, 4) * group.turned
    if len(shape) == 5:
        # Equal at each step of a third kernel axis, as a kernel of (steps * kh, kw).
        tile = tile.repeat(1, 1, 1, shape[2], 1)
    return tile.reshape(n, *shape)


def _along(tile: Tensor, axis: int, count: int, places: int | Tensor) -> Tensor:
    """Make an axis of tiles `count` long, its elements those of their places modulo the axis.

    Repeats whole tiles and cuts where it can: the gradient of an indexed gather is slow.
    """
    size = tile.shape[axis]
    places = places % size
    if isinstance(places, Tensor):
        return tile.index_select(axis, places)
    if places + count > size:
        tile = torch.cat([tile] * -(-(places + count) // size), axis)
    return tile.narrow(axis, places, count)


def _tokens(
    parameters: Sequence[Parameter], cut: tuple[int, ...], device: str | torch.device
) -> Tensor:
    """Rows [n, tokens, dim] of position tables that have no place in the grid, as `predict`'s."""
    shape = parameters[0].logical_shape
    size = math.prod(shape[:-1]) - math.prod(cut[2:]), shape[-1]
    drawn = [drawn_tokens(size, stream_of(0, parameter)) for parameter in parameters]
    return torch.from_numpy(np.stack(drawn)).float().to(device)


def _analytic(parameter: Parameter) -> Tensor:
    """The value of a parameter outside the vocabulary while the rest is predicted."""
    if len(parameter.shape) < 2:
        return torch.full(parameter.shape, parameter.neutral)
    generator = torch.Generator().manual_seed(0)
    return TOKEN_STD * torch.randn(parameter.shape, generator=generator)
