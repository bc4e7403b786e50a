"""Whether a candidate lies within what an archive was trained and tested on."""

from __future__ import annotations

import numpy as np

from onnx_ghn.architectures.spaces import SPACES
from onnx_ghn.hypernet.config import KINDS, ArchiveConfig
from onnx_ghn.hypernet.features import channel_table, features, side_table
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.reading import Reading

_LAYERS = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})
_SIZES = ("out channels", "in channels", "kernel rows", "kernel columns")


def beyond_reach(reading: Reading, config: ArchiveConfig) -> list[str]:
    """In which ways a model lies outside the archive's range; empty where it does not.

    Args:
        reading: What the reader found.
        config: The archive's own description: the sizes that it tells apart, and the spaces on
            which it was tested.
    """
    return [*_of_sizes(reading, config), *_of_spaces(reading, config)]


def _of_sizes(reading: Reading, config: ArchiveConfig) -> list[str]:
    graph = reading.graph
    if graph is None:
        return [f"no graph: {reading.graph_reason}"]
    network = config.network
    if network.encoder == KINDS:
        from onnx_ghn.hypernet.kinds import LARGEST

        names, most = config.columns, np.array(LARGEST)
        sizes = features(graph, network, config.columns)
    else:
        channels, side = channel_table(network.classes)[-1], side_table(network.side)[-1]
        names, most = _SIZES, np.array([channels, channels, side, side])
        sizes = graph.shape
    largest = sizes.max(axis=0)
    return [
        f"{name.replace('_', ' ')} {largest[index]:,}, the archive knows up to {most[index]:,}"
        for index, name in enumerate(names)
        if largest[index] > most[index]
    ]


def _of_spaces(reading: Reading, config: ArchiveConfig) -> list[str]:
    names = [str(row.get("space")) for row in config.held_out]
    spaces = [SPACES[name] for name in names if name in SPACES]
    if not spaces:
        return []
    learnable = [parameter for parameter in reading.parameters if parameter.learnable]
    counts = {
        "layers": (sum(p.role in _LAYERS for p in learnable), [s.layers for s in spaces]),
        "parameters": (
            sum(int(np.prod(p.shape, dtype=np.int64)) for p in learnable),
            [s.parameters for s in spaces],
        ),
    }
    ways = []
    for name, (count, ranges) in counts.items():
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        if not low <= count <= high:
            ways.append(f"{count:,} {name}, the archive was tested on {low:,} to {high:,}")
    return ways
