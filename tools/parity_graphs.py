"""Parity of graphs: what the reader makes of an ONNX file against the reference's graph.

For every pair of an ONNX skeleton and a fixture of the same network, the graph must be
isomorphic to the reference's: nodes with primitive, rows of the shape tables and parameter name;
edges; virtual edges.

    python tools/parity_graphs.py [FOLDER]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from onnx_ghn.hypernet.features import features
from onnx_ghn.model_io import load
from onnx_ghn.read.graph import GhnGraph, Op
from onnx_ghn.read.ordering import structural_keys
from onnx_ghn.read.reading import Reading, read_model

ROOT = Path(__file__).parent.parent
FIXTURES = {"ghn3_tiny": ("onnx10", 10, 11), "ghn3_t": ("onnx", 1000, 16)}
"""Of each checkpoint: the folder of its models, its classes, and the side of its decoder."""

Labels = list[tuple[str, str, tuple[int, ...]]]


@dataclass(frozen=True)
class Difference:
    """How a graph differs from the reference's: what only one of the two has.

    Attributes:
        nodes: Number of nodes in our graph.
        ours: Nodes (primitive, parameter, table rows) that only our graph has.
        theirs: Nodes that only the reference's has.
        edges: Edges between equal nodes that only one of the two has.
        paths: Whether all edges and virtual edges agree, up to isomorphism.
    """

    nodes: int
    ours: tuple[Any, ...]
    theirs: tuple[Any, ...]
    edges: tuple[Any, ...]
    paths: bool

    @property
    def agrees(self) -> bool:
        """Whether the graphs are the same."""
        return self.paths and not (self.ours or self.theirs or self.edges)


def compare(reading: Reading, fixture: Path, classes: int, side: int) -> Difference:
    """Compare the graph of a model with the reference's.

    Args:
        reading: What the reader found.
        fixture: An npz of the reference's graph.
        classes: Classes of the hypernetwork, which fix the channel table.
        side: Side of its decoder, which fixes the table of kernel sides.
    """
    graph = reading.graph
    assert graph is not None, reading.graph_reason
    ours = _our_labels(reading, graph, classes, side)
    with np.load(fixture) as arrays:
        theirs, adjacency = _their_labels(arrays), arrays["adj"].astype(np.int64)
    edges = _edges(ours, graph.distance)
    edges_there = _edges(theirs, adjacency)
    return Difference(
        nodes=len(graph),
        ours=tuple((Counter(ours) - Counter(theirs)).elements()),
        theirs=tuple((Counter(theirs) - Counter(ours)).elements()),
        edges=tuple(((edges - edges_there) + (edges_there - edges)).elements()),
        paths=_paths(ours, graph.distance) == _paths(theirs, adjacency),
    )


def _our_labels(reading: Reading, graph: GhnGraph, classes: int, side: int) -> Labels:
    rows = features(graph, SimpleNamespace(classes=classes, side=side))  # type: ignore[arg-type]
    names = [
        next((reading.parameters[slot.parameter].name for slot in slots), "")
        for slots in graph.slots
    ]
    return [
        (Op(row[0]).name, name, tuple(row[1:].tolist()))
        for row, name in zip(rows, names, strict=True)
    ]


def _their_labels(arrays: Any) -> Labels:
    meta = json.loads(str(arrays["meta"]))
    known = set(meta["params"])
    labels = []
    for op, rows, node in zip(arrays["prim"], arrays["shape_ind"], meta["nodes"], strict=True):
        name = node.get("param", "")
        # the reference hangs ".weight" on tables that are no module's weight
        name = name if name in known else name.removesuffix(".weight")
        labels.append((Op(int(op)).name, name, tuple(rows.tolist())))
    return labels


def _edges(labels: Labels, distance: np.ndarray) -> Counter[Any]:
    return Counter((labels[i], labels[j]) for i, j in np.argwhere(distance == 1))


def _paths(labels: Labels, distance: np.ndarray) -> Counter[Any]:
    """All path lengths, between nodes known by all that is before and after them.

    Whatever order the nodes stand in: the reference's is topological, and so is ours. Only where
    the reference makes a graph with a cycle there is none, and nothing is like it.
    """
    before = [np.flatnonzero(distance[:, node] == 1).tolist() for node in range(len(labels))]
    if any(max(sources, default=-1) >= node for node, sources in enumerate(before)):
        return Counter()
    keys = structural_keys([(repr(label),) for label in labels], before)
    return Counter((keys[i], keys[j], int(distance[i, j])) for i, j in np.argwhere(distance > 0))


def pairs(folder: Path, checkpoint: str) -> Iterator[tuple[Path, Path]]:
    """ONNX files, and the fixtures that describe the same network."""
    for model in sorted((folder / FIXTURES[checkpoint][0]).glob("*.onnx")):
        name = model.stem.split(".")[0]
        # the files of GoogLeNet don't hold its auxiliary heads
        setting = ".neteval" if name == "googlenet" else ""
        fixture = folder / "fixtures" / checkpoint / f"{name}{setting}.npz"
        if fixture.exists():
            yield model, fixture


def main() -> int:
    """Print the table; 1 where a graph differs."""
    default = os.environ.get("ONNX_GHN_PARITY", ROOT.parent / "shared" / "parity")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    failed = 0
    print(
        "| checkpoint | model | nodes | graph | reading, CPU ms |\n| --- | --- | --- | --- | --- |"
    )
    for checkpoint, (_, classes, side) in FIXTURES.items():
        for path, fixture in pairs(folder, checkpoint):
            model = load(path)
            start = time.process_time()
            reading = read_model(model)
            spent = time.process_time() - start
            found = compare(reading, fixture, classes, side)
            failed += not found.agrees
            verdict = "same" if found.agrees else "DIFFERS"
            print(f"| {checkpoint} | {path.stem} | {found.nodes} | {verdict} | {spent * 1e3:.0f} |")
            for name in ("ours", "theirs", "edges"):
                if values := getattr(found, name):
                    print(f"  {name}: {values[:4]} ({len(values)})", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
