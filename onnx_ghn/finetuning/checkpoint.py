"""Everything that a run needs to go on, in one file that is complete or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnx_ghn.finetuning.history import History, Validation
from onnx_ghn.model_io.atomic import AtomicFile
from onnx_ghn.train.checkpoint import CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, in a folder of its own."""

    folder: Path

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
    with AtomicFile(path.parent) as output:
        torch.save(content, output.file)
        output.sync()
        output.publish(path, overwrite=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: There is none, or it is damaged or too new.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] > FORMAT:
            raise CheckpointError(f"{path}: written by a newer onnx-ghn; update")
        meta = json.loads(content["meta"])
        history = History(
            content["losses"].tolist(),
            content["rates"].tolist(),
            [Validation(**entry) for entry in meta["validations"]],
        )
        return Checkpoint(
            content["weights"], content["optimizer"], history, content["best"], meta["about"]
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; start without --resume") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises whatever the broken bytes lead to
        raise CheckpointError(f"{path}: the checkpoint is damaged: {error}") from error
