r"""Tests networks with predicted weights and no training, beside the classical start.

    python tools/untrained_accuracy.py run/hypernet.pt --train train/ --test test/ \
        --splits in-distribution wide deep dense norm-free --models skeletons/*.onnx \
        --out untrained.jsonl

All in ONNX Runtime: in batches of 64 with the statistics of the batch, and again with running
statistics calibrated on training images. `controls.py` adds the controls of the hypernetwork. Each
network is one line of JSON; a command that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from json_lines import Row, append, finished
from networks import Network, build, name_of

import onnx_ghn
from onnx_ghn.architectures.splits import SPLITS, held_out
from onnx_ghn.hypernet.archive import read_info
from onnx_ghn.options import InitializeOptions, RunOptions

STARTS = {"predicted": "ghn", "classical": "classical"}
COLUMNS = tuple(f"{start}, {kind}" for start in STARTS for kind in ("batch", "running"))
SIDE = 32
LIBRARY = "library"


def main() -> None:
    """Test what is missing in the file, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="images to calibrate on")
    parser.add_argument("--test", type=Path, required=True, help="test images")
    parser.add_argument("--splits", nargs="*", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--each", type=int, default=100, help="networks of each split")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="ONNX files")
    parser.add_argument("--examples", type=int, default=10_000, help="test images, at most")
    parser.add_argument("--calibrate", type=int, default=2048, help="training images")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    networks: list[tuple[str, str, Network]] = [
        (split, name_of(entry), entry)
        for split in arguments.splits
        for entry in held_out(split, "test")[: arguments.each]
    ]
    networks += [(LIBRARY, name_of(path), path) for path in arguments.models]
    rows = {row["key"]: row for row in finished(arguments.out)}
    for group, key, network in networks:
        if key not in rows:
            rows[key] = {"group": group, "key": key} | tested(network, arguments)
            append(arguments.out, rows[key])
    print(table([rows[key] for _, key, _ in networks]))


def tested(network: Network, arguments: argparse.Namespace) -> Row:
    """Accuracies of one network."""
    config = read_info(arguments.archive).config
    whole = RunOptions(side=SIDE, mean=config.mean, std=config.std)
    some = dataclasses.replace(whole, limit=arguments.calibrate)
    options = dataclasses.replace(whole, limit=arguments.examples)
    row: Row = {"examples": arguments.examples}
    for start, method in STARTS.items():
        model, _ = onnx_ghn.initialize(
            build(network, side=SIDE),
            options=InitializeOptions(method=method, hypernet=arguments.archive),
            data=arguments.train,
            run=some,
        )
        for kind, of_batch in (("batch", True), ("running", False)):
            found = onnx_ghn.evaluate(model, arguments.test, options, batch_statistics=of_batch)
            row[f"{start}, {kind}"] = found.top1
    return row


def table(rows: Sequence[Row]) -> str:
    """Mean, lowest and highest of each split, and every library network."""
    lines = [
        "| networks | n | " + " | ".join(COLUMNS) + " |",
        "| --- | ---: |" + " ---: |" * len(COLUMNS),
    ]

    def add(name: str, mine: Sequence[Row]) -> None:
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in mine]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")

    for group in dict.fromkeys(row["group"] for row in rows):
        add(group, [row for row in rows if row["group"] == group])
    for row in rows:
        if row["group"] == LIBRARY:
            add(row["key"], [row])
    return "\n".join(lines)


if __name__ == "__main__":
    main()
