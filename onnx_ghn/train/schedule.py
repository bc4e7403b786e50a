"""What changes over a run: learning rate, image side, and the space of architectures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx_ghn.architectures.spaces import space_named
from onnx_ghn.errors import OptionError

CURRICULUM = "narrow:0.15,medium:0.4,full"
"""Default: the narrow space for 15 % of the run, the medium one up to 40 %, then all."""
LOWEST_RATE = 0.01


@dataclass(frozen=True)
class Stage:
    """A space, from the end of the stage before up to `until`, as a share of the run."""

    space: str
    until: float


def parse_curriculum(text: str) -> tuple[Stage, ...]:
    """Parse "narrow:0.2,full": spaces with the share of the run at which each ends.

    Raises:
        OptionError: It can't be parsed, names an unknown space, or its shares don't ascend.
    """
    stages: list[Stage] = []
    items = text.split(",")
    for position, item in enumerate(items):
        name, _, share = item.strip().partition(":")
        space_named(name)
        try:
            until = float(share) if share else 1.0
        except ValueError as error:
            raise OptionError(f"--space: {share!r} is no share of the run") from error
        last = position == len(items) - 1
        if not share and not last:
            raise OptionError(f"--space: {name!r} needs the share of the run at which it ends")
        if not (stages[-1].until if stages else 0.0) < until <= 1.0:
            raise OptionError(f"--space: shares must ascend and end at 1, got {text!r}")
        stages.append(Stage(name, 1.0 if last else until))
    return tuple(stages)


@dataclass(frozen=True)
class Schedule:
    """Everything that depends on how far a run is.

    Attributes:
        curriculum: Spaces in order.
        side: Image side at first.
        final_side: Image side in the last part of the run.
        switch: Share of the run at which the side changes.
        warmup: Steps over which the learning rate grows from zero.
    """

    curriculum: tuple[Stage, ...]
    side: int
    final_side: int
    switch: float = 0.67
    warmup: int = 200

    def space(self, progress: float) -> str:
        """Space of architectures at `progress` in [0, 1]."""
        for stage in self.curriculum:
            if progress < stage.until:
                return stage.space
        return self.curriculum[-1].space

    def image_side(self, progress: float) -> int:
        """Rows and columns of the images."""
        return self.side if progress < self.switch else self.final_side

    def rate(self, progress: float, steps_since_start: int) -> float:
        """Factor of the learning rate: warm-up, then a cosine down to 1 %.

        Args:
            progress: How far the run is, in [0, 1].
            steps_since_start: Updates since the optimiser's moments were empty.
        """
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        decayed = LOWEST_RATE + (1 - LOWEST_RATE) * cosine
        return decayed * min(1.0, (steps_since_start + 1) / self.warmup)
