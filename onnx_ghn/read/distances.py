"""Virtual edges: shortest directed paths between nodes of the GHN graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CUTOFF = 50
"""Longest path that counts as a virtual edge (Knyazev et al., 2021)."""

_FAR = np.iinfo(np.int32).max // 2


def shortest_paths(
    predecessors: Sequence[Sequence[int]], cutoff: int = CUTOFF
) -> npt.NDArray[np.uint8]:
    """Lengths of the shortest directed paths of a graph in topological order.

    One sweep over the nodes: a shortest path to a node ends with an edge from one of its
    predecessors, whose own column is already final.

    Args:
        predecessors: For each node the indices of its predecessors, all smaller than its own.
        cutoff: Longer paths do not count.

    Returns:
        uint8[N, N]: entry [i, j] is the length of the path from i to j, 0 where there is none of
        at most `cutoff` steps, and on the diagonal.
    """
    count = len(predecessors)
    # Row j holds the distances to j, so that the sweep works on contiguous memory.
    incoming = np.full((count, count), _FAR, np.int32)
    for node, sources in enumerate(predecessors):
        if sources:
            incoming[node] = incoming[list(sources)].min(axis=0) + 1
        incoming[node, node] = 0
    distance = incoming.T
    return np.where(distance <= cutoff, distance, 0).astype(np.uint8)
