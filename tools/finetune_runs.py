"""Reads what `finetune_table.py` wrote: the runs that count, without trials of learning rates."""

from __future__ import annotations

from pathlib import Path

from json_lines import Row, finished


def runs_in(path: Path) -> list[Row]:
    """The lines of a file; of predicted starts those of the archive that was tested last."""
    rows = finished(path)
    newest = [row["archive"] for row in rows if row["archive"]][-1:]
    return [row for row in rows if not row["probe"] and row["archive"] in ("", *newest)]
