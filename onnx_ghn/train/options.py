"""Options of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_ghn.errors import OptionError
from onnx_ghn.options import option
from onnx_ghn.train.schedule import CURRICULUM, Schedule, parse_curriculum


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a run trains on, for how long, and how."""

    space: str = option(
        CURRICULUM,
        "Space of architectures, or a curriculum of spaces with the share of the run at which "
        "each ends.",
        metavar="NAME[:SHARE,…]",
    )
    seed: int = option(0, "Seed of the weights, architectures and batches.", min=0)
    batch: int = option(64, "Images of one architecture step.", min=1)
    meta_batch: int = option(1, "Architectures of one update, in each process.", min=1)
    side: int = option(16, "Image side at first; images are scaled down to it.", min=8)
    final_side: int = option(32, "Image side at the end of the run.", min=8)
    side_until: float = option(0.67, "Share of the run at which the image side changes.")
    trunk_rate: float = option(3e-4, "Learning rate of the trunk.")
    output_rate: float = option(1e-3, "Learning rate of the output layers.")
    weight_decay: float = option(1e-2, "Weight decay of AdamW.")
    smoothing: float = option(0.05, "Label smoothing.")
    clip_architecture: float = option(2.0, "Largest gradient norm of one architecture.")
    clip_total: float = option(1.0, "Largest gradient norm of one update.")
    evaluate_seconds: float = option(300.0, "Seconds between two evaluations and checkpoints.")
    evaluate_architectures: int = option(30, "Held-out architectures of an evaluation.", min=1)
    evaluate_examples: int = option(1024, "Images for each of them.", min=64)

    def __post_init__(self) -> None:
        parse_curriculum(self.space)
        for name in ("trunk_rate", "output_rate", "clip_architecture", "clip_total"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name.replace('_', '-')} must be positive")

    def schedule(self) -> Schedule:
        """What changes over the run."""
        return Schedule(parse_curriculum(self.space), self.side, self.final_side, self.side_until)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON, for checkpoints and logs."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: minutes of wall time, or updates.

    Exactly one of the two is given.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise OptionError("give --minutes or --steps, one of the two")
        if (self.minutes or self.steps or 0) <= 0:
            raise OptionError("--minutes and --steps must be positive")

    def progress(self, steps: int, elapsed_seconds: float) -> float:
        """How far the run is, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.minutes is not None
        return min(1.0, elapsed_seconds / (60 * self.minutes))


@dataclass(frozen=True)
class RunPaths:
    """The files of a run."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that a resume needs."""
        return self.folder / "state.pt"

    @property
    def log(self) -> Path:
        """JSON lines: training and held-out results."""
        return self.folder / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's log."""
        return self.folder / "tensorboard"

    @property
    def archive(self) -> Path:
        """The archive of the averaged weights."""
        return self.folder / "hypernet.pt"
