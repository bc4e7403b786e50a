"""Everything that a run needs to go on, in one file that is complete or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnx_ghn.checkpoint_file import check_format, read_checkpoint_file, write_checkpoint_file
from onnx_ghn.finetuning.history import History, Validation

FORMAT = 1

_ABOUT = {"options", "run", "seed", "examples", "batch"}
"""What a run must say of itself for another one to go on with it."""


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, in a folder of its own."""

    folder: Path

    @classmethod
    def beside(cls, output: Path) -> RunFiles:
        """Where they are by default: in `<stem>.finetune` beside the output."""
        return cls(output.parent / f"{output.stem}.finetune")

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.folder / "state.pt"

    @property
    def log(self) -> Path:
        """The history as JSON lines."""
        return self.folder / "log.jsonl"

    @property
    def picture(self) -> Path:
        """The loss curve."""
        return self.folder / "loss.svg"


@dataclass(frozen=True)
class Checkpoint:
    """A run after some update.

    Attributes:
        weights: `Weights.copy()`.
        optimizer: The optimiser's own state.
        history: What was measured up to there; its length is the number of updates.
        best: The weights of the best validation, where these are kept.
        about: Options and data, as JSON.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: History
    best: dict[str, Tensor] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
    history = checkpoint.history
    content = {
        "format": FORMAT,
        "weights": checkpoint.weights,
        "optimizer": checkpoint.optimizer,
        "best": checkpoint.best,
        "losses": torch.tensor(history.losses, dtype=torch.float64),
        "rates": torch.tensor(history.rates, dtype=torch.float64),
        "meta": json.dumps(
            {
                "about": checkpoint.about,
                "validations": [asdict(validation) for validation in history.validations],
            }
        ),
    }
    write_checkpoint_file(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: There is none, or it is damaged or too new.
    """

    def parse(content: dict[str, Any]) -> Checkpoint:
        check_format(path, content["format"], FORMAT)
        meta = json.loads(content["meta"])
        if not meta["about"].keys() >= _ABOUT:
            raise ValueError("its description lacks a field")
        history = History(
            content["losses"].tolist(),
            content["rates"].tolist(),
            [Validation(**entry) for entry in meta["validations"]],
        )
        return Checkpoint(
            content["weights"], content["optimizer"], history, content["best"], meta["about"]
        )

    return read_checkpoint_file(path, parse)
