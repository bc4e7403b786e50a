"""A topological order that depends on the structure of a graph alone, never on names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def canonical_order(
    labels: Sequence[tuple[int, ...]], predecessors: Sequence[Sequence[int]]
) -> list[int]:
    """Nodes by depth, then by a hash of everything before and after them.

    Depth is the longest path from a root, hence the order is topological. The hash of a node
    covers its label and, recursively, those of all its ancestors and descendants, so that only
    interchangeable nodes tie; they keep the order in which they stand.

    Args:
        labels: What a node is (primitive, shape, attributes).
        predecessors: For each node those before it, all of smaller index.

    Returns:
        The indices of the nodes in their new order.
    """
    count = len(labels)
    successors: list[list[int]] = [[] for _ in range(count)]
    depth = [0] * count
    before: list[bytes] = [b""] * count
    for node, sources in enumerate(predecessors):
        for source in sources:
            successors[source].append(node)
            depth[node] = max(depth[node], depth[source] + 1)
        before[node] = _digest(labels[node], sorted(before[source] for source in sources))
    after: list[bytes] = [b""] * count
    for node in reversed(range(count)):
        after[node] = _digest(labels[node], sorted(after[target] for target in successors[node]))
    return sorted(range(count), key=lambda node: (depth[node], before[node], after[node], node))


def _digest(label: tuple[int, ...], neighbours: list[bytes]) -> bytes:
    return hashlib.blake2b(repr(label).encode() + b"".join(neighbours), digest_size=8).digest()
