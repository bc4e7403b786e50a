"""A topological order that depends on the structure of a graph alone, never on names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

Label = tuple[int | str | bytes, ...]

MAX_REFINED = 1 << 17
"""Nodes whose hashes are refined anew for the sake of ties, in all: a few seconds. Networks need it
once or twice; a file of nothing but ties stops there, and the rest stand as they come."""


def canonical_order(labels: Sequence[Label], predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Nodes by depth, then by a hash of everything before and after them.

    Depth is the longest path from a root, hence the order is topological. Hashes are refined
    until no more nodes can be told apart (colour refinement). Nodes that still tie stand in the
    order of their predecessors, and those that share them, being interchangeable, as they come.
    Where that would matter to a node that joins some of them, the first one is made to differ
    and the hashes are refined again (as in McKay, "Practical graph isomorphism", 1981).

    Args:
        labels: What a node is (primitive, shape, attributes).
        predecessors: For each node those before it, all of smaller index.

    Returns:
        The indices of the nodes in their new order.
    """
    layers: list[list[int]] = []
    depth = [0] * len(labels)
    for node, sources in enumerate(predecessors):
        depth[node] = max((depth[source] + 1 for source in sources), default=0)
        if depth[node] == len(layers):
            layers.append([])
        layers[depth[node]].append(node)
    keys = _refined(labels, predecessors)
    for _ in range(MAX_REFINED // max(1, len(labels))):
        entangled = _entangled(keys, predecessors)
        if not entangled:
            break
        first = min(entangled, key=lambda node: (depth[node], keys[node], node))
        marked: list[Label] = [*keys]
        marked[first] = (*keys[first], "first")
        keys = _refined(marked, predecessors)
    order: list[int] = []
    position = [0] * len(labels)
    for layer in layers:
        layer.sort(key=lambda node: (keys[node], sorted(position[p] for p in predecessors[node])))
        for node in layer:
            position[node] = len(order)
            order.append(node)
    return order


def _refined(
    labels: Sequence[Label], predecessors: Sequence[Sequence[int]]
) -> list[tuple[bytes, bytes]]:
    """Keys of the nodes, hashed until no more of them differ."""
    keys = structural_keys(labels, predecessors)
    distinct = 0
    while distinct < len(set(keys)) < len(keys):
        distinct = len(set(keys))
        keys = structural_keys(keys, predecessors)
    return keys


def _entangled(
    keys: Sequence[tuple[bytes, bytes]], predecessors: Sequence[Sequence[int]]
) -> list[int]:
    """Tied nodes that some node joins, whose order among themselves hence matters.

    It doesn't where a node takes one tied node, whose order it then follows, or whole ties.
    """
    size = Counter(keys)
    if len(size) == len(keys):
        return []
    found: set[int] = set()
    for sources in predecessors:
        tied = [source for source in sources if size[keys[source]] > 1]
        taken = Counter(keys[source] for source in tied)
        if len(tied) > 1 and any(count < size[key] for key, count in taken.items()):
            found.update(tied)
    return sorted(found)


def structural_keys(
    labels: Sequence[Label], predecessors: Sequence[Sequence[int]]
) -> list[tuple[bytes, bytes]]:
    """For each node a hash of all that is before it, and of all that is after it.

    Args:
        labels: What a node is; anything with a faithful `repr`.
        predecessors: For each node those before it, all of smaller index.
    """
    texts = [repr(label).encode() for label in labels]
    successors: list[list[bytes]] = [[] for _ in labels]
    before: list[bytes] = []
    for text, sources in zip(texts, predecessors, strict=True):
        before.append(_digest(text, [before[source] for source in sources]))
    after: list[bytes] = [b""] * len(labels)
    for node in reversed(range(len(labels))):
        after[node] = _digest(texts[node], successors[node])
        for source in predecessors[node]:
            successors[source].append(after[node])
    return list(zip(before, after, strict=True))


def _digest(text: bytes, neighbours: list[bytes]) -> bytes:
    return hashlib.blake2b(text + b"".join(sorted(neighbours)), digest_size=8).digest()
