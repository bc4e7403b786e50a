"""Feature columns that are plain numbers of a node: what our own design reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph

IntArray = npt.NDArray[np.int64]


def _shape(axis: int) -> Callable[[GhnGraph], IntArray]:
    return lambda graph: graph.shape[:, axis]


def _attribute(name: str) -> Callable[[GhnGraph], IntArray]:
    return lambda graph: graph.attributes[:, ATTRIBUTES.index(name)]


def depth(graph: GhnGraph) -> IntArray:
    """Edges on the longest path from the input to each node."""
    return _longest(graph.distance == 1)


def rest(graph: GhnGraph) -> IntArray:
    """Edges on the longest path from each node to an end of the network."""
    return _longest((graph.distance == 1).T[::-1, ::-1])[::-1]


def _longest(edge: npt.NDArray[np.bool_]) -> IntArray:
    """Longest path to each node, where edge[i, j] implies i < j."""
    longest = np.zeros(len(edge), np.int64)
    for node in range(1, len(edge)):
        before = np.flatnonzero(edge[:node, node])
        if len(before):
            longest[node] = longest[before].max() + 1
    return longest


COLUMNS: dict[str, Callable[[GhnGraph], IntArray]] = {
    "primitive": lambda graph: graph.op,
    "out": _shape(0),
    "in_per_group": _shape(1),
    "height": _shape(2),
    "width": _shape(3),
    "groups": _attribute("groups"),
    "stride": _attribute("stride"),
    "dilation": _attribute("dilation"),
    "is_linear": _attribute("is_linear"),
    "is_head": _attribute("is_head"),
    "depth": depth,
    "rest": rest,
}
"""By name, a function of the graph that gives int64[N]."""
