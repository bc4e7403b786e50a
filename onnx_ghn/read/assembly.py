"""From canonical nodes to the graph: squeezes dropped, nodes in canonical order, distances.

What comes in is a list of nodes that name their predecessors; what goes out is arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_ghn.read.distances import shortest_paths
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op, Part, Slot
from onnx_ghn.read.ordering import canonical_order

INPUT = 0
"""Index of the input, the first node of every list."""

_PARTS = list(Part)
_LAYERS = frozenset({Op.CONV, Op.SEP_CONV, Op.DIL_CONV, Op.BIAS, Op.BN, Op.LN})
_STRUCTURE = tuple(name for name in ATTRIBUTES if name != "output_side")
"""Columns that tell nodes apart: a side is known or not, as the file has it."""


@dataclass(eq=False)
class Node:
    """A node of the graph while it is built.

    Attributes:
        op: Its primitive.
        predecessors: Indices of the nodes that feed it.
        onnx: The ONNX node that it stands for; None for the input.
        shape: As in `GhnGraph.shape`.
        attributes: By column name; 0 where absent.
        slots: The parameters that are predicted from it.
    """

    op: Op
    predecessors: list[int]
    onnx: ir.Node | None
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)
    attributes: dict[str, int] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the ONNX node, or of its first output where it has none; "" for the input."""
        return "" if self.onnx is None else self.onnx.name or self.onnx.outputs[0].name or ""

    def label(self) -> tuple[int, ...]:
        """What the node is, without its place."""
        values = (self.attributes.get(name, 0) for name in _STRUCTURE)
        return (int(self.op), *self.shape, *values, *(_PARTS.index(s.part) for s in self.slots))


def assemble(nodes: Sequence[Node]) -> GhnGraph:
    """Turn nodes, the input first, into the canonical graph."""
    before = _without_squeezes(nodes)
    order = _topological(before)
    place = {index: position for position, index in enumerate(order)}
    predecessors = [[place[p] for p in before[index]] for index in order]
    ranks = canonical_order([nodes[index].label() for index in order], predecessors)
    # a table of positions has no predecessor either: the input still comes first
    ranks.remove(place[INPUT])
    ranks.insert(0, place[INPUT])
    moved = {old: new for new, old in enumerate(ranks)}
    kept = [nodes[order[old]] for old in ranks]
    return GhnGraph(
        op=np.array([node.op for node in kept], np.int64),
        shape=np.array([node.shape for node in kept], np.int64),
        attributes=np.array(
            [[node.attributes.get(name, 0) for name in ATTRIBUTES] for node in kept], np.int64
        ),
        distance=shortest_paths([sorted(moved[p] for p in predecessors[old]) for old in ranks]),
        slots=tuple(tuple(node.slots) for node in kept),
        nodes=tuple(node.name for node in kept),
    )


def _without_squeezes(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """Predecessors of the nodes that stay: the pool of a squeeze is part of its cse."""
    successors: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for predecessor in node.predecessors:
            successors[predecessor].append(index)
    dropped = {
        index
        for index, node in enumerate(nodes)
        if node.op is Op.GLOB_AVG and _feeds_gate(nodes, successors, index)
    }
    kept: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        if index not in dropped:
            found: dict[int, None] = {}
            for predecessor in node.predecessors:
                passed = nodes[predecessor].predecessors if predecessor in dropped else ()
                found.update(dict.fromkeys(passed or (predecessor,)))
            kept[index] = list(found)
    return kept


def _feeds_gate(nodes: Sequence[Node], successors: dict[int, list[int]], pool: int) -> bool:
    """Whether a pool reaches a cse through layers alone."""
    stack, seen = [pool], {pool}
    while stack:
        for index in successors[stack.pop()]:
            if nodes[index].op is Op.CSE:
                return True
            if nodes[index].op in _LAYERS and index not in seen:
                seen.add(index)
                stack.append(index)
    return False


def _topological(before: dict[int, list[int]]) -> list[int]:
    """Indices in topological order: a moved pool, or the values of attention, come too late."""
    waiting = {index: len(sources) for index, sources in before.items()}
    successors: dict[int, list[int]] = defaultdict(list)
    for index, sources in before.items():
        for source in sources:
            successors[source].append(index)
    order = [index for index, count in waiting.items() if count == 0]
    for index in order:
        for successor in successors[index]:
            waiting[successor] -= 1
            if waiting[successor] == 0:
                order.append(successor)
    assert len(order) == len(before), "a cycle in the canonical graph"
    return order
