"""The log of a run: JSON lines, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnx_ghn.errors import MissingDependencyError


class Log:
    """Appends records to a file.

    Args:
        path: The JSON lines.
        tensorboard: Folder of a TensorBoard log of all numbers; None for none.

    Raises:
        MissingDependencyError: TensorBoard isn't installed.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self._path = path
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError(
                    "--tensorboard needs TensorBoard: pip install 'onnx-ghn[train]'"
                ) from error
            self._writer = SummaryWriter(str(tensorboard))

    def write(self, record: dict[str, Any], step: int) -> None:
        """Append a record; `step` is its place on TensorBoard's axis."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "time":
                    self._writer.add_scalar(f"{record['event']}/{name}", value, step)
            self._writer.flush()
