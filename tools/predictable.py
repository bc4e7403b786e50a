"""How much of each vision model of the corpus a hypernetwork predicts.

Each skeleton is inspected under `--method ghn`; its share is the elements predicted of the
learnable elements, whose mean over models is what counts.

A head is predicted by a decoder of its own, for the archive's number of classes; one of another
number stays with the classical initialiser, as in the GHN papers, since its rows would have to be
invented. Most vision models of the corpus have 1,000 classes. So the first column says what this
archive predicts (98.2 % with one of 1,000 classes, as the published GHN-3; 88.6 % with the one of
ten that ships), and the second, which leaves such heads out, what the vocabulary holds (99.8 %
with either): what is missing there are layer scales, tokens and tables.

    python tools/predictable.py [--hypernet ARCHIVE] [--corpus DIR] [--worst N] [--only GLOB]
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from corpus_truth import corpus_folder, materializer, read_table

import onnx_ghn
from onnx_ghn.report import Status

VISION = frozenset(
    {"cnn", "cnn-small", "cnn-mobile", "cnn-modern", "vit", "hybrid", "segmentation", "detection"}
    | {"generative", "video"}
)
"""Families of the corpus whose input is images."""

HEAD = "the archive predicts heads of"
"""How the reason begins where the number of classes is another."""


def inspect(corpus: Path, name: str, hypernet: Path | None) -> onnx_ghn.Report:
    """The plan for a skeleton; what can be kept only where it has bytes gets random ones."""
    options = onnx_ghn.InitializeOptions(method="ghn", hypernet=hypernet)
    source = corpus / "models" / name
    try:
        return onnx_ghn.inspect(source, options)
    except onnx_ghn.ModelError:
        with tempfile.TemporaryDirectory() as folder:
            filled = Path(folder) / name
            materializer(corpus).main([str(source), str(filled)])
            return onnx_ghn.inspect(filled, options)


def main() -> None:
    """Print the share by family, then the worst models with the reasons for what is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=corpus_folder())
    parser.add_argument(
        "--hypernet", type=Path, metavar="ARCHIVE", help="instead of the archive that ships"
    )
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--worst", type=int, default=30, metavar="N")
    arguments = parser.parse_args()
    shares: dict[str, float] = {}
    reasons: dict[str, Counter[str]] = {}
    families: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_table(arguments.corpus / "index.tsv"):
        name = row["file"]
        if row["family"] not in VISION or not fnmatch.fnmatch(name, arguments.only):
            continue
        report = inspect(arguments.corpus, name, arguments.hypernet)
        learnable = [outcome for outcome in report.outcomes if outcome.learnable]
        total = sum(outcome.elements for outcome in learnable)
        left: Counter[str] = Counter()
        for outcome in learnable:
            if outcome.status is not Status.PREDICTED:
                left[f"{outcome.role}: {outcome.reason}"] += outcome.elements
        if total:
            shares[name] = 1 - left.total() / total
            reasons[name] = left
            heads = sum(count for reason, count in left.items() if HEAD in reason)
            apart = 1 - (left.total() - heads) / (total - heads) if total > heads else 1.0
            families[row["family"]].append((shares[name], apart))
    everything = [pair for pairs in families.values() for pair in pairs]
    for family, values in [("all", everything), *sorted(families.items())]:
        if values:
            share, apart = (sum(column) / len(values) for column in zip(*values, strict=True))
            print(f"{family:14}{len(values):5} models{share:9.2%}{apart:9.2%}")
    for name in sorted(shares, key=shares.__getitem__)[: arguments.worst]:
        print(f"{shares[name]:7.2%} {name}")
        for reason, elements in reasons[name].most_common(2):
            print(f"        {elements:12,} {reason}")


if __name__ == "__main__":
    main()
