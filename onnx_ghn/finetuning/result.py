"""The result of fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_ghn.finetuning.history import Validation
from onnx_ghn.report import FORMAT


@dataclass
class FinetuneResult:
    """The result of `finetune`.

    Attributes:
        model: The trained model.
        name: Path or name of the model that was trained.
        output: Where it was written; None where it was not.
        steps: Updates.
        losses: Training loss of each update, label smoothing included.
        rates: Learning rate of each update.
        validations: In order of their steps: before training, in between, at the end.
        written: Steps after which the model has these weights: `steps`, or those of the best
            validation.
        stopped_early: Whether validation got no better for too long.
        trained: Names of the tensors that were trained.
        elements: Numbers in them.
        frozen: Names of the learnable tensors that were not.
        statistics: Names of the running statistics that moved with the data.
        initialized: Learnable tensors without a value that were initialised first.
        images_per_second: Examples by the time in updates of this call; 0 where there was none.
        device: Where it was trained.
        input: What the model was fed, see `Batches.to_json`.
        log: The history as JSON lines; None where it is not kept.
        picture: The loss curve; likewise.
        changes: What in the file was changed besides values.
        warnings: What the user should know; each one sentence.
    """

    model: ir.Model
    name: str
    output: Path | None
    steps: int
    losses: list[float]
    rates: list[float]
    validations: list[Validation]
    written: int
    stopped_early: bool
    trained: tuple[str, ...]
    elements: int
    frozen: tuple[str, ...]
    statistics: tuple[str, ...]
    initialized: int
    images_per_second: float
    device: str
    input: dict[str, Any]
    log: Path | None = None
    picture: Path | None = None
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def validation(self, step: int) -> Validation:
        """The validation after so many updates.

        Raises:
            KeyError: There was none.
        """
        for validation in self.validations:
            if validation.step == step:
                return validation
        raise KeyError(step)

    @property
    def accuracy(self) -> dict[int, float]:
        """Validation top-1 by step."""
        return {validation.step: validation.top1 for validation in self.validations}

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `finetune --format json`; the losses of all steps are in the log."""
        return {
            "format": FORMAT,
            "model": self.name,
            "output": _text(self.output),
            "steps": self.steps,
            "first_loss": self.losses[0] if self.losses else None,
            "last_loss": self.losses[-1] if self.losses else None,
            "validations": [asdict(validation) for validation in self.validations],
            "written": self.written,
            "stopped_early": self.stopped_early,
            "trained_tensors": len(self.trained),
            "trained_elements": self.elements,
            "frozen": list(self.frozen),
            "statistics": len(self.statistics),
            "initialized": self.initialized,
            "images_per_second": round(self.images_per_second, 1),
            "device": self.device,
            "input": self.input,
            "log": _text(self.log),
            "picture": _text(self.picture),
            "changes": self.changes,
            "warnings": self.warnings,
        }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
