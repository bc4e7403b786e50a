"""Writes docs/parity.md: every network of the parity set against the reference, pair by pair.

    python tools/parity_table.py [FOLDER] > docs/parity.md

FOLDER holds checkpoints, ONNX skeletons and what the reference made of them; it is taken from
ONNX_GHN_PARITY where left out. Graphs are compared as tools/parity_graphs.py does, values as
tools/parity_values.py does, the latter with each engine. The exit status is 1 where a pair differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parity_graphs
import parity_values

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import Archive, load_archive
from onnx_ghn.model_io import load
from onnx_ghn.options import ENGINES
from onnx_ghn.read.reading import read_model

OWN = "reference's graph"
ONE = "only export"
FORMS = (OWN, "legacy_train", "legacy_preserve", "dynamo_noopt", ONE)
NAMES = {
    "ghn3_tiny": "GHN-3 tiny",
    "ghn3_t": "GHN-3 T",
    "ghn2tiny_viaghn3": "GHN-2 tiny",
    "ghn2_viaghn3": "GHN-2",
}
PAGE = """\
# Parity with the reference, pair by pair

<!-- Made by: python tools/parity_table.py > docs/parity.md -->

What an ONNX file gives here against what the authors' code gives for the torch model, with four
seeded checkpoints in the layouts of the published ones. A row is a network, a column a way to it:
the reference's own graph, decoded here, and ONNX files of torchvision in the forms that the
exporters write. A cell is the largest absolute difference of any stored value of any predicted
parameter, from the file to the fitted tensors, the larger one of both engines.

- {count} pairs, of which {read} begin with an ONNX file.
- Graphs (nodes with primitive, shape rows and parameter; edges; virtual edges) that are the
  reference's: {same} of {read}.
- Largest difference of a value: {worst}.
- Parameters that the reference predicts and this tool doesn't: {missing}.

`ve1` is without virtual edges, `neteval` without auxiliary heads; `-` where there is no file.

Run it again with `python tools/parity_table.py FOLDER`; other networks of torchvision with
`python tools/parity_unseen.py --reference DIR CHECKPOINT MODEL...`, which exports them, runs a
checkout of the reference, and compares the same things.

| checkpoint | network | nodes | parameters | {forms} |
| --- | --- | --- | --- | {rules} |"""


@dataclass(frozen=True)
class Pair:
    """One network by one way, compared.

    Attributes:
        form: Where the graph comes from, one of `FORMS`.
        nodes: Nodes of the graph, -1 where it is the reference's own.
        same_graph: Whether it is the reference's.
        found: The values' difference with each engine.
    """

    form: str
    nodes: int
    same_graph: bool
    found: dict[str, parity_values.Difference]

    @property
    def worst(self) -> float:
        """Largest difference of a value with any engine."""
        return max(difference.values for difference in self.found.values())

    @property
    def agrees(self) -> bool:
        """Whether graph and values are the reference's."""
        return self.same_graph and all(found.agrees for found in self.found.values())


def main() -> int:
    """Print the page; 1 where a pair differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=parity_values.parity_folder())
    folder = parser.parse_args().folder
    rows: list[str] = []
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as scratch:
        for checkpoint, file in parity_values.CHECKPOINTS.items():
            target = Path(scratch) / f"{checkpoint}.pt"
            convert_checkpoint(folder / "checkpoints" / file, target)
            archives = {engine: load_archive(target, engine=engine) for engine in ENGINES}
            for fixture in sorted((folder / "fixtures" / checkpoint).glob("*.npz")):
                found = list(_pairs(folder, checkpoint, fixture, archives))
                rows.append(_row(NAMES[checkpoint], fixture.stem, found))
                pairs += found
    read = [pair for pair in pairs if pair.nodes >= 0]
    worst = {e: max(pair.found[e].values for pair in pairs) for e in ENGINES}
    text = PAGE.format(
        count=len(pairs),
        same=sum(pair.same_graph for pair in read),
        read=len(read),
        worst=", ".join(f"{value:.1e} with {engine}" for engine, value in worst.items()),
        missing=sum(len(found.missing) for pair in pairs for found in pair.found.values()),
        forms=" | ".join(FORMS),
        rules=" | ".join("---" for _ in FORMS),
    )
    print("\n".join([text, *rows]))
    return int(not all(pair.agrees for pair in pairs))


def _pairs(
    folder: Path, checkpoint: str, fixture: Path, archives: dict[str, Archive]
) -> Iterator[Pair]:
    own = {e: parity_values.compare(fixture, archive) for e, archive in archives.items()}
    yield Pair(OWN, -1, True, own)
    network = next(iter(archives.values())).info.config.network
    name = fixture.stem.split(".")[0]
    for model in sorted((folder / parity_values.MODELS[checkpoint]).glob(f"{name}.*")):
        if parity_values.fixture_of(model, fixture.parent) != fixture:
            continue
        graph = parity_graphs.compare(
            read_model(load(model)), fixture, network.classes, network.side
        )
        values = {
            engine: parity_values.compare_model(model, fixture, archive)
            for engine, archive in archives.items()
        }
        yield Pair(model.stem.partition(".")[2] or ONE, graph.nodes, graph.agrees, values)


def _row(checkpoint: str, network: str, pairs: list[Pair]) -> str:
    cells = {pair.form: f"{pair.worst:.1e}" + " **differs**" * (not pair.agrees) for pair in pairs}
    parameters = max(found.parameters for pair in pairs for found in pair.found.values())
    nodes = max(pair.nodes for pair in pairs)
    columns = [cells.get(form, "-") for form in FORMS]
    first = [checkpoint, network, str(nodes) if nodes >= 0 else "-", str(parameters)]
    return f"| {' | '.join([*first, *columns])} |"


if __name__ == "__main__":
    sys.exit(main())
