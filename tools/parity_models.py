"""Parity from the ONNX file to the weights: graph and values against the reference's.

For every pair of an ONNX skeleton and a fixture of the same network: the graph that the reader
builds must be isomorphic to the reference's (nodes with primitive, shape indices and parameter
names; edges; virtual edges), and every stored value of every predicted parameter must agree.

    python tools/parity_models.py [--parity DIR] [--only GLOB] [--checkpoint NAME]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnx_ghn import model_io
from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive
from onnx_ghn.hypernet.features import features
from onnx_ghn.hypernet.predict import predict
from onnx_ghn.read.ordering import structural_keys
from onnx_ghn.read.reading import Reading, read_model

DEFAULT = Path(__file__).parent.parent.parent / "shared" / "parity"
CHECKPOINTS = {
    "ghn3_tiny": ("ghn3_tiny_hf.pt", "onnx10"),
    "ghn3_t": ("ghn3_t_hf.pt", "onnx"),
    "ghn2tiny_viaghn3": ("ghn2tiny_hf.pt", "onnx10"),
    "ghn2_viaghn3": ("ghn2_hf.pt", "onnx"),
}
TOLERANCE = 1e-5


def pairs(parity: Path, checkpoint: str, only: str) -> Iterator[tuple[Path, Path]]:
    """ONNX files and the fixtures that describe the same network."""
    folder = parity / "fixtures" / checkpoint
    for model in sorted((parity / CHECKPOINTS[checkpoint][1]).glob("*.onnx")):
        name = model.name.split(".")[0]
        fixture = folder / (f"{name}.neteval.npz" if name == "googlenet" else f"{name}.npz")
        if fixture.exists() and fnmatch.fnmatch(model.stem, only):
            yield model, fixture


def compare_graph(reading: Reading, archive: Archive, fixture: Any) -> list[str]:
    """Differences between the reader's graph and the reference's."""
    meta = json.loads(str(fixture["meta"]))
    graph = reading.graph
    assert graph is not None
    config = archive.info.config
    rows = features(graph, config.network, config.columns)
    names = [
        next((reading.parameters[s.parameter].name for s in slots), "") for slots in graph.slots
    ]
    ours = [(*map(int, row), name) for row, name in zip(rows, names, strict=True)]
    known = set(meta["params"])
    theirs = [
        (int(op), *map(int, shape), _parameter_name(node, known))
        for op, shape, node in zip(
            fixture["prim"], fixture["shape_ind"], meta["nodes"], strict=True
        )
    ]
    problems = []
    if Counter(ours) != Counter(theirs):
        only_ours, only_theirs = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
        problems.append(f"nodes: ours {list(only_ours)[:4]}, reference {list(only_theirs)[:4]}")
    if _paths(ours, graph.distance) != _paths(theirs, fixture["adj"]):
        ours_edges, theirs_edges = _edges(ours, graph.distance), _edges(theirs, fixture["adj"])
        problems.append(
            f"edges: ours {list(ours_edges - theirs_edges)[:3]}, "
            f"reference {list(theirs_edges - ours_edges)[:3]}"
        )
    return problems


def _parameter_name(node: dict[str, Any], known: set[str]) -> str:
    """The parameter of a reference node; it hangs a ".weight" on tables that have none."""
    name = node.get("param", "")
    return name if name in known else name.removesuffix(".weight")


def _edges(labels: list[tuple], distance: np.ndarray) -> Counter[tuple]:
    return Counter((labels[i], labels[j]) for i, j in np.argwhere(distance == 1))


def _paths(labels: list[tuple], distance: np.ndarray) -> Counter[tuple]:
    """All edges and virtual edges, between nodes known by all that is before and after them."""
    before = [np.flatnonzero(distance[:, node] == 1).tolist() for node in range(len(labels))]
    keys = structural_keys(labels, before)
    return Counter((keys[i], keys[j], int(distance[i, j])) for i, j in np.argwhere(distance > 0))


def compare_values(
    reading: Reading, archive: Archive, fixture: Any
) -> tuple[float, int, list[str]]:
    """Largest difference of a predicted value, parameters compared, and what is missing."""
    meta = json.loads(str(fixture["meta"]))
    prediction = predict(reading, archive)
    index_of = {p.name: i for i, p in enumerate(reading.parameters)}
    worst, compared, missing = 0.0, 0, []
    for row, (name, predicted) in enumerate(zip(meta["params"], meta["predicted"], strict=True)):
        if not predicted:
            continue
        index = index_of.get(name)
        if index is None or index not in prediction.indices:
            missing.append(name)
            continue
        values = prediction.tensor(index).reshape(-1)
        wanted = fixture["p_idx"][row]
        used = wanted >= 0
        if meta["shapes"][row][:1] == [1] and len(meta["shapes"][row]) == 3:
            used &= wanted >= meta["shapes"][row][-1]  # row 0 of a position table is random
        compared += 1
        if used.any():
            difference = np.abs(values[wanted[used]] - fixture["p_val"][row][used]).max()
            worst = max(worst, float(difference))
    return worst, compared, missing


def main() -> int:
    """Compare all pairs; exit code 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("ONNX_GHN_PARITY", DEFAULT))
    parser.add_argument("--parity", type=Path, default=default)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, action="append")
    arguments = parser.parse_args()
    failed = 0
    print(f"{'checkpoint':17} {'model':34} {'nodes':>5}  graph  {'values':>6}  max difference")
    for name in arguments.checkpoint or CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / f"{name}.pt"
            convert_checkpoint(arguments.parity / "checkpoints" / CHECKPOINTS[name][0], target)
            archive = load_archive(target)
            for model, path in pairs(arguments.parity, name, arguments.only):
                fixture = np.load(path)
                reading = read_model(model_io.load(model))
                problems = compare_graph(reading, archive, fixture)
                worst, compared, missing = compare_values(reading, archive, fixture)
                if missing:
                    problems.append(f"not predicted: {missing[:4]} ({len(missing)})")
                if worst > TOLERANCE:
                    problems.append(f"values differ by {worst:.2g}")
                failed += bool(problems)
                nodes = len(reading.graph) if reading.graph is not None else 0
                same = (
                    "same"
                    if not any(p.startswith(("nodes", "edges")) for p in problems)
                    else "DIFF"
                )
                print(f"{name:17} {model.stem:34} {nodes:5}  {same:5}  {compared:6}  {worst:.2g}")
                for problem in problems:
                    print(f"    {problem}")
    print(f"{failed} pairs differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
