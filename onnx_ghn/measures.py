"""What tells one network from another before anything is predicted: node types and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from onnx_ghn.hypernet.columns import depth
from onnx_ghn.read.graph import ATTRIBUTES, GhnGraph, Op
from onnx_ghn.read.reading import Reading

DEPTHWISE = "depthwise"
GROUPED = "grouped"
TYPES = (*(op.name.lower() for op in Op), DEPTHWISE, GROUPED)
"""Node types: the primitives, and convolutions with groups of one input channel or of more."""

QUANTITIES = ("parameters", "depth", "width", "side")


@dataclass(frozen=True)
class Measures:
    """A network's node types and sizes.

    Attributes:
        types: Those of `TYPES` that it has.
        parameters: Elements of its learnable tensors, tied ones counted once.
        depth: Edges on the longest path of its graph.
        width: Most output channels of a weight other than the classifier's.
        side: Pixels along a side of its input image; 0 where unknown.
    """

    types: frozenset[str]
    parameters: int
    depth: int
    width: int
    side: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"types": sorted(self.types)} | {name: getattr(self, name) for name in QUANTITIES}


def measure(reading: Reading) -> Measures | None:
    """Measure a model; None where it has no graph."""
    graph = reading.graph
    if graph is None or not len(graph):
        return None
    is_head = graph.attributes[:, ATTRIBUTES.index("is_head")]
    learnable = {p.tie_group: p for p in reversed(reading.parameters) if p.learnable}
    return Measures(
        types=frozenset(_types(graph)),
        parameters=sum(math.prod(p.shape) for p in learnable.values()),
        depth=int(depth(graph).max()),
        width=int(graph.shape[is_head == 0, 0].max(initial=0)),
        side=int(graph.attributes[0, ATTRIBUTES.index("output_side")]),
    )


def _types(graph: GhnGraph) -> Iterator[str]:
    groups = graph.attributes[:, ATTRIBUTES.index("groups")]
    for op, (_, ins, _, _), count in zip(graph.op, graph.shape, groups, strict=True):
        yield Op(op).name.lower()
        if count > 1:
            yield DEPTHWISE if ins == 1 else GROUPED
