"""Draws what `finetune_table.py` measured: mean accuracy of each start after so many steps.

    python tools/finetune_plot.py finetune.jsonl --out docs/finetune.svg

A panel for each data set and kind of network; networks that lack a start are left out.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from finetune_runs import compared, runs_in
from json_lines import Row

from onnx_ghn.finetuning.picture import Line, chart

COLOURS = {
    "predicted": "#cc6677",
    "kaiming": "#4477aa",
    "orthogonal": "#117733",
    "lsuv": "#aa7733",
    "classical": "#888888",
}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="JSON lines of finetune_table.py")
    parser.add_argument("--starts", nargs="+", choices=COLOURS, default=[*COLOURS][:-1])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    groups: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in runs_in(arguments.runs):
        groups[row["data"], row["generated"]].append(row)
    panels = {}
    for (data, generated), found in groups.items():
        rows = compared(found, arguments.starts)
        if rows:
            kind = "generated" if generated else "library"
            count = len({row["network"] for row in rows})
            title = f"{data}, {count} {kind} networks: accuracy in %"
            panels[title] = [
                line(start, [row for row in rows if row["start"] == start])
                for start in arguments.starts
            ]
    if not panels:
        parser.error(f"{arguments.runs}: no network has runs from all of these starts")
    arguments.out.write_text(chart(panels))


def line(start: str, rows: list[Row]) -> Line:
    """The mean over networks and seeds."""
    steps = rows[0]["accuracy"]
    means = {step: 100 * np.mean([row["accuracy"][step] for row in rows]) for step in steps}
    return start, COLOURS[start], [(int(step), float(mean)) for step, mean in means.items()]


if __name__ == "__main__":
    main()
