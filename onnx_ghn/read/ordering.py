"""A topological order that depends on the structure of a graph alone, never on names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

Label = tuple[int | str, ...]


def canonical_order(
    labels: Sequence[Label], predecessors: Sequence[Sequence[int]]
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
    depth = [0] * len(labels)
    for node, sources in enumerate(predecessors):
        depth[node] = max((depth[source] + 1 for source in sources), default=0)
    keys = structural_keys(labels, predecessors)
    return sorted(range(len(labels)), key=lambda node: (depth[node], keys[node], node))


def structural_keys(
    labels: Sequence[Label], predecessors: Sequence[Sequence[int]]
) -> list[tuple[bytes, bytes]]:
    """For each node a hash of all that is before it, and of all that is after it.

    Args:
        labels: What a node is; anything with a faithful `repr`.
        predecessors: For each node those before it, all of smaller index.
    """
    successors: list[list[int]] = [[] for _ in labels]
    before: list[bytes] = [b""] * len(labels)
    for node, sources in enumerate(predecessors):
        for source in sources:
            successors[source].append(node)
        before[node] = _digest(labels[node], sorted(before[source] for source in sources))
    after: list[bytes] = [b""] * len(labels)
    for node in reversed(range(len(labels))):
        after[node] = _digest(labels[node], sorted(after[target] for target in successors[node]))
    return list(zip(before, after, strict=True))


def _digest(label: Label, neighbours: list[bytes]) -> bytes:
    return hashlib.blake2b(repr(label).encode() + b"".join(neighbours), digest_size=8).digest()
