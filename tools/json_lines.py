"""Results as JSON lines, written as they come: a command that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def finished(path: Path) -> list[Row]:
    """The lines of a file, none where there is no file; half a last line is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, row: Row) -> None:
    """Add a line to a file, which is made where it is not there."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
