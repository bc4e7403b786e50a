"""What a run measured, step by step: in memory, and as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx_ghn.model_io.atomic import write_whole


@dataclass(frozen=True)
class Validation:
    """One validation.

    Attributes:
        step: Updates before it.
        top1: Share of the examples whose label has the highest score.
        top5: Share whose label is among the five highest scores.
        loss: Mean cross-entropy in nats, without label smoothing; None where it is not finite.
        n: Examples.
    """

    step: int
    top1: float
    top5: float
    loss: float | None
    n: int

    def is_better(self, other: Validation) -> bool:
        """Higher top-1; of equal ones the lower loss."""
        if self.top1 != other.top1 or self.loss is None or other.loss is None:
            return self.top1 > other.top1
        return self.loss < other.loss


@dataclass
class History:
    """The course of a run.

    Attributes:
        losses: Training loss of each update, label smoothing included.
        rates: Learning rate of each update.
        validations: In order of their steps.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)

    @property
    def best(self) -> Validation | None:
        """The best validation, the first of equal ones."""
        best = None
        for validation in self.validations:
            if best is None or validation.is_better(best):
                best = validation
        return best

    def records(self) -> list[dict[str, Any]]:
        """The entries of the log, in the order of their steps."""
        updates = [_update(self, index) for index in range(len(self.losses))]
        validations = [_validation(validation) for validation in self.validations]
        # Sorting is stable: what was validated after an update comes behind it.
        return sorted(updates + validations, key=lambda record: record["step"])


class Log:
    """The history in a file of JSON lines, which a resumed run goes on with.

    Args:
        path: The file.
        about: The first line: what is trained and how.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path, self._about = path, about
        self._updates = self._validations = 0

    def restart(self, history: History) -> None:
        """Write the file anew, with what there is so far: steps after a checkpoint are lost."""
        lines = [{"event": "start", **self._about}, *history.records()]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_whole(self._path, text.encode(), overwrite=True)
        self._updates, self._validations = len(history.losses), len(history.validations)

    def update(self, history: History) -> None:
        """Append what is new: updates, then the validation after them."""
        new = [_update(history, index) for index in range(self._updates, len(history.losses))]
        new += [_validation(entry) for entry in history.validations[self._validations :]]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in new)
        self._updates, self._validations = len(history.losses), len(history.validations)


def _update(history: History, index: int) -> dict[str, Any]:
    return {
        "event": "train",
        "step": index + 1,
        "loss": history.losses[index],
        "rate": history.rates[index],
    }


def _validation(validation: Validation) -> dict[str, Any]:
    return {"event": "validation", **asdict(validation)}
