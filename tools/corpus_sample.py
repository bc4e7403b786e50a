"""A seeded sample of the corpus's learnable tensors, with what the graph does to each.

    python tools/corpus_sample.py [--count 100] [--seed 7]

One line a tensor: file, name, shape, the truth's source, the reader's role, and for its first two
uses the node, what makes its inputs and what takes its output. Families and exporters take turns,
and in a file each kind of consumer is as likely as any other, so that rare roles come up.

`corpus_roles_checked.tsv` is such a sample, its roles decided by hand from these lists.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).parent))

from corpus_truth import LEARNABLE, corpus_folder, load, read, read_table

from onnx_ghn.read.parameter import Site

Line = dict[str, str]


def sample(folder: Path, count: int, seed: int) -> Iterator[tuple[str, Line]]:
    """Files and lines of the truth, each line at most once."""
    draw = random.Random(seed)
    files = defaultdict(list)
    for row in read_table(folder / "index.tsv"):
        files[row["family"], row["exporter"]].append(row["file"])
    groups = sorted(files)
    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        draw.shuffle(groups)
        for group in groups[: count - len(seen)]:
            file = draw.choice(files[group])
            kinds = defaultdict(list)
            for line in read_table(folder / "truth" / f"{Path(file).stem}.tsv"):
                if line["kind"] in LEARNABLE and line["where"] != "attr":
                    kinds[line["consumers"].split(";")[0]].append(line)
            if not kinds:
                continue
            line = draw.choice(kinds[draw.choice(sorted(kinds))])
            if (file, line["name"]) not in seen:
                seen.add((file, line["name"]))
                yield file, line


def surroundings(site: Site) -> str:
    """A node, what makes its inputs, and what takes its outputs."""
    node = site.node
    inputs = ", ".join(map(_origin, node.inputs))
    takers = sorted({user.op_type for value in node.outputs for user in value.consumers()})
    return f"{node.op_type}:{site.index}({inputs}) -> {' '.join(takers)}"


def _origin(value: ir.Value | None) -> str:
    if value is None:
        return ""
    node = value.producer()
    maker = node.op_type if node is not None else "stored" if value.is_initializer() else "input"
    return f"{maker}{value.shape or ''}"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)
    folder = corpus_folder()
    for file, line in sample(folder, options.count, options.seed):
        parameters, _ = read(load(folder / "models" / file))
        found = next((p for p in parameters if p.name == line["name"]), None)
        role = "not listed" if found is None else str(found.role)
        uses = () if found is None else found.sites[:2]
        fields = (file, line["name"], line["shape"], line["source_name"], role)
        print("\t".join((*fields, *map(surroundings, uses))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
