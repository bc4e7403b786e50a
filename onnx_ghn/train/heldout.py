"""Accuracy of predicted weights on architectures that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train.corpus import Task
from onnx_ghn.train.images import Images


@dataclass(frozen=True)
class HeldOutResult:
    """Accuracies over a list of architectures.

    Attributes:
        accuracies: One for each architecture, in order.
        families: Its family and its normalisation, in the same order.
    """

    accuracies: tuple[float, ...]
    families: tuple[tuple[str, str], ...]

    @property
    def mean(self) -> float:
        """Mean over the architectures."""
        return fmean(self.accuracies)

    def summary(self) -> dict[str, object]:
        """Mean, extremes, and the mean of each family and normalisation, for logs and tables."""
        groups: dict[str, list[float]] = {}
        for accuracy, names in zip(self.accuracies, self.families, strict=True):
            for name in names:
                groups.setdefault(name, []).append(accuracy)
        return {
            "mean": round(self.mean, 4),
            "min": round(min(self.accuracies), 4),
            "max": round(max(self.accuracies), 4),
            "architectures": len(self.accuracies),
            "families": {
                name: {"mean": round(fmean(values), 4), "n": len(values)}
                for name, values in sorted(groups.items())
                if name
            },
        }


@torch.no_grad()
def evaluate(
    network: KindsHypernetwork,
    tasks: Sequence[Task],
    images: Images,
    *,
    side: int,
    examples: int,
    batch: int = 64,
) -> HeldOutResult:
    """Predict each architecture's weights and test it, BatchNorm with batch statistics.

    Args:
        network: The hypernetwork.
        tasks: The architectures.
        images: Test images; evenly spaced batches of them are used.
        side: Rows and columns of the images.
        examples: Images for each architecture, at most.
        batch: Images that are normalised together. What doesn't fill a batch is left out.
    """
    count = max(1, min(examples, len(images)) // batch)
    stride = max(1, (len(images) - batch) // max(1, count - 1)) if count > 1 else 0
    batches = [images.batch(k * stride, batch, side) for k in range(count)]
    accuracies = []
    for task in tasks:
        states = network.encode(task.plan.features, task.plan.distance)
        weights = task.plan.predict(network, states)
        right = sum(int((task.logits(x, weights).argmax(1) == y).sum()) for x, y in batches)
        accuracies.append(right / sum(len(y) for _, y in batches))
    return HeldOutResult(tuple(accuracies), tuple((task.family, task.norm) for task in tasks))
