"""Checkpoints: everything a run needs to go on, in one file that is complete or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from onnx_ghn.checkpoint_file import check_format, read_checkpoint_file, write_checkpoint_file

FORMAT = 1


@dataclass(frozen=True)
class Counters:
    """How far a run is.

    Attributes:
        updates: Updates of the weights.
        architecture_steps: Architectures trained on.
        elapsed_seconds: Wall time spent in training.
        cpu_seconds: CPU time of all processes.
    """

    updates: int = 0
    architecture_steps: int = 0
    elapsed_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A run at one moment.

    Attributes:
        tensors: `FlatState.copy()`.
        buffers: The network's buffers, among them the fixed random features.
        counters: How far it was.
        about: Options, normalisation and classes, as JSON.
    """

    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    counters: Counters
    about: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
    meta = {
        "format": FORMAT,
        "counters": asdict(checkpoint.counters),
        "about": checkpoint.about,
    }
    content = {
        "meta": json.dumps(meta),
        "tensors": checkpoint.tensors,
        "buffers": checkpoint.buffers,
    }
    write_checkpoint_file(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: There is none, or it is damaged or too new.
    """

    def parse(content: dict[str, Any]) -> Checkpoint:
        meta = json.loads(content["meta"])
        check_format(path, meta["format"], FORMAT)
        return Checkpoint(
            content["tensors"], content["buffers"], Counters(**meta["counters"]), meta["about"]
        )

    return read_checkpoint_file(path, parse)
