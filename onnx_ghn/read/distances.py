"""Virtual edges: shortest directed paths between nodes of the GHN graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CUTOFF = 50
"""Longest path that counts as a virtual edge (Knyazev et al., 2021)."""


def shortest_paths(
    predecessors: Sequence[Sequence[int]], cutoff: int = CUTOFF
) -> npt.NDArray[np.uint8]:
    """Lengths of the shortest directed paths of a graph in topological order.

    One sweep over the nodes: a shortest path to a node ends with an edge from one of its
    predecessors, whose own distances are already final.

    Args:
        predecessors: For each node the indices of its predecessors, all smaller than its own.
        cutoff: Longer paths do not count; at most 254.

    Returns:
        uint8[N, N]: entry [i, j] is the length of the path from i to j, 0 where there is none of
        at most `cutoff` steps, and on the diagonal.
    """
    count, far = len(predecessors), cutoff + 1
    # Row j holds the distances to j, so that the sweep works on contiguous memory.
    incoming = np.full((count, count), far, np.uint8)
    for node, sources in enumerate(predecessors):
        if sources:
            nearest = incoming[sources[0]]
            for source in sources[1:]:
                nearest = np.minimum(nearest, incoming[source])
            np.minimum(nearest, cutoff, out=incoming[node])
            incoming[node] += 1
        incoming[node, node] = 0
    incoming[incoming == far] = 0
    return np.ascontiguousarray(incoming.T)
