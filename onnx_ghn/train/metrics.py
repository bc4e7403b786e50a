"""Measurements of updates, in memory that processes share."""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor

from onnx_ghn.train.worker import Update

CAPACITY = 4096
COUNTS = 3
"""Counts before the CPU seconds of each process."""
FIELDS = (
    "loss",
    "accuracy",
    "target_ms",
    "hypernet_ms",
    "node_cosine",
    "gradient_norm",
    "rate",
    "skipped",
)


class Metrics:
    """A ring of the latest updates' measurements, and counts since the start of the process.

    Attributes:
        rows: float32[CAPACITY, fields].
        counts: float64[COUNTS + processes]: updates begun, updates done, architectures, then CPU
            seconds of each process.
    """

    def __init__(self, processes: int) -> None:
        self.rows = torch.zeros(CAPACITY, len(FIELDS))
        self.counts = torch.zeros(COUNTS + processes, dtype=torch.float64)

    def share(self) -> Metrics:
        """Move to memory that child processes share."""
        self.rows.share_memory_()
        self.counts.share_memory_()
        return self

    @property
    def updates(self) -> int:
        """Updates done."""
        return int(self.counts[1])

    @property
    def architectures(self) -> int:
        """Architectures trained on."""
        return int(self.counts[2])

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all training processes."""
        return float(self.counts[COUNTS:].sum())

    def record(self, update: Update, process: int, cpu_seconds: float, together: int = 1) -> None:
        """Note an update; where processes share this, under their lock.

        Args:
            update: What it measured.
            process: Number of the process that made it.
            cpu_seconds: CPU time of that process so far.
            together: Processes that made this update together, each with as many architectures.
        """
        results = update.results

        def mean(name: str) -> float:
            values = [getattr(result, name) for result in results]
            return _mean(values)

        row = [mean(name) for name in FIELDS[:5]]
        row += [update.gradient_norm, update.rate, float(update.skipped)]
        self.rows[self.updates % CAPACITY] = torch.tensor(row)
        self.counts[1] += 1
        self.counts[2] += (len(results) + update.skipped) * together
        self.counts[COUNTS + process] = cpu_seconds

    def means(self, since: int) -> dict[str, float]:
        """Mean of each field over the updates after number `since`."""
        newest = self.updates
        numbers = range(max(since, newest - CAPACITY), newest)
        if not numbers:
            return {}
        rows: Tensor = self.rows[[number % CAPACITY for number in numbers]]
        columns = rows.t().tolist()
        means = {name: _mean(column) for name, column in zip(FIELDS, columns, strict=True)}
        means["skipped"] = sum(columns[-1])
        return {name: round(value, 5) for name, value in means.items() if value == value}


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else float("nan")
