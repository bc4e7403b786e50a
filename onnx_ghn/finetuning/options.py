"""Options of fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from onnx_ghn.errors import OptionError
from onnx_ghn.options import MAX_THREADS, option

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")

RATES = {"sgd": 0.01, "adamw": 0.001}
"""Learning rates where none is given."""

EPOCHS = 10
"""Epochs where neither these nor steps are given."""

_TOO_LARGE = 2**31
"""Larger numbers make float32 or C's integers overflow."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What is trained, for how long, and how."""

    steps: int | None = option(None, "Train for so many updates.", min=1)
    epochs: int | None = option(
        None, f"Train for so many passes over the data.  [default: {EPOCHS}]", min=1
    )
    optimizer: str = option("sgd", "sgd: with momentum; or adamw.", choices=OPTIMIZERS)
    learning_rate: float | None = option(
        None,
        "Largest learning rate.  [default: "
        + ", ".join(f"{rate} for {name}" for name, rate in RATES.items())
        + "]",
        flag="--lr",
    )
    momentum: float = option(0.9, "Momentum of sgd.")
    weight_decay: float = option(1e-4, "Weight decay, of all tensors that are trained.")
    schedule: str = option(
        "cosine", "Course of the learning rate after the warm-up.", choices=SCHEDULES
    )
    warmup: float = option(0.05, "Share of the run over which the learning rate rises from 0.")
    label_smoothing: float = option(0.0, "Label smoothing of the loss.")
    clip: float = option(0.0, "Largest norm of the gradient; 0: no limit.")
    precision: str = option(
        "float32", "bfloat16: mixed precision; weights stay as they are.", choices=PRECISIONS
    )
    freeze: tuple[str, ...] = option(
        (),
        "Leave tensors whose name matches the pattern as they are. A BatchNormalization whose "
        "running mean matches normalises by its stored statistics. Repeatable.",
        metavar="GLOB",
    )
    only: tuple[str, ...] = option(
        (),
        "Freeze all tensors whose name matches none of these patterns. Repeatable.",
        metavar="GLOB",
    )
    crop: int = option(
        0, "Shift each training image at random by up to so many pixels; edges are repeated.", min=0
    )
    flip: bool = option(False, "Mirror half of the training images, left to right.")
    hold_out: float = option(
        0.1, "Share of each class that is held out for validation where no data for it is given."
    )
    validate_every: int = option(
        0, "Validate after each so many steps; 0: after each epoch.", min=0
    )
    validate_at: tuple[int, ...] = option(
        (), "Validate after these steps in place of each epoch.", metavar="N,N"
    )
    patience: int = option(
        0,
        "Stop after so many validations that are no better than the best, and keep the best "
        "weights; 0: never.",
        min=0,
    )
    keep_best: bool = option(
        False, "Write the weights of the best validation, not those of the last step."
    )
    checkpoint_seconds: float = option(60.0, "Seconds between two checkpoints.")
    threads: int = option(
        0, "Threads of torch on the CPU; 0: as many as torch takes.", min=0, max=MAX_THREADS
    )

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise OptionError("give --steps or --epochs, not both")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}"
                )
        for name in ("steps", "epochs", "learning_rate"):
            number = getattr(self, name)
            if number is not None and not 0 < number < _TOO_LARGE:
                raise OptionError(
                    f"{_flag(name)} must be greater than 0 and below 2**31, got {number}"
                )
        for name in ("weight_decay", "clip", "crop", "validate_every", "patience"):
            if not 0 <= getattr(self, name) < _TOO_LARGE:
                raise OptionError(
                    f"{_flag(name)} must be from 0 up to 2**31, got {getattr(self, name)}"
                )
        if not 0 <= self.threads <= MAX_THREADS:
            raise OptionError(f"--threads must be from 0 to {MAX_THREADS}, got {self.threads}")
        for name in ("momentum", "warmup", "label_smoothing", "hold_out"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(
                    f"{_flag(name)} must be from 0 up to 1, got {getattr(self, name)}"
                )
        if any(step < 0 for step in self.validate_at):
            raise OptionError("--validate-at takes steps from 0 up")
        if self.validate_at and self.validate_every:
            raise OptionError("give --validate-at or --validate-every, not both")

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def total_steps(self, steps_per_epoch: int) -> int:
        """Updates of the whole run."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or EPOCHS) * steps_per_epoch

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of update `step`, counted from 0, of `total`."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.rate * (step + 1) / warm
        if self.schedule == "constant":
            return self.rate
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def validates_after(self, step: int, steps_per_epoch: int) -> bool:
        """Whether validation is due after so many updates; that at the end is apart."""
        if step == 0:
            return True
        if self.validate_at:
            return step in self.validate_at
        return step % (self.validate_every or steps_per_epoch) == 0

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object."""
        return dataclasses.asdict(self)


def _flag(name: str) -> str:
    return "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"


def options_from_json(cls: type[Any], entries: dict[str, Any]) -> Any:
    """Make an option dataclass from what `dataclasses.asdict` gave, after a way through JSON."""
    return cls(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in entries.items()
        }
    )
