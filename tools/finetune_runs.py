"""Reads what `finetune_table.py` wrote: the runs that count, without trials of learning rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from json_lines import Row, finished


def runs_in(path: Path) -> list[Row]:
    """The lines of a file; of predicted starts those of the archive that was tested last."""
    rows = finished(path)
    newest = [row["archive"] for row in rows if row["archive"]][-1:]
    return [row for row in rows if not row["probe"] and row["archive"] in ("", *newest)]


def compared(rows: Sequence[Row], starts: Collection[str]) -> list[Row]:
    """The runs from these starts, of the networks that have runs from each: others shift means."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row["network"]].add(row["start"])
    whole = {network for network, mine in found.items() if mine >= set(starts)}
    return [row for row in rows if row["network"] in whole and row["start"] in starts]
