"""One architecture step: predict an architecture's weights, run it on a batch, differentiate."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_ghn.hypernet.kinds import SPATIAL, KindsHypernetwork
from onnx_ghn.train.corpus import Task


@dataclass(frozen=True)
class StepResult:
    """What one architecture step measured.

    Attributes:
        loss: Cross-entropy, without label smoothing.
        accuracy: Share of the batch that was classified correctly.
        target_ms: CPU milliseconds of the target network, forward and backward.
        hypernet_ms: CPU milliseconds of the hypernetwork, forward and backward.
        node_cosine: Mean cosine between the states of the architecture's 3 x 3 convolutions; 1 is
            the collapse in which all of them get the same weights. NaN with fewer than two.
    """

    loss: float
    accuracy: float
    target_ms: float
    hypernet_ms: float
    node_cosine: float


def architecture_step(
    network: KindsHypernetwork,
    task: Task,
    images: Tensor,
    labels: Tensor,
    *,
    smoothing: float,
) -> StepResult:
    """Add the gradient of one architecture's loss to the hypernetwork's gradients.

    The backward pass is cut at the predicted weights, so that the times of the two halves are
    known.
    """
    start = time.thread_time()
    states = network.encode(task.plan.features, task.plan.distance)
    predicted = task.plan.predict(network, states)
    names = [name for name in predicted if name not in task.plan.constants]
    leaves = {name: predicted[name].detach().requires_grad_() for name in names}
    middle = time.thread_time()
    logits = task.logits(images, task.plan.constants | leaves).float()
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    used = [leaves[name] for name in names]
    gradients = torch.autograd.grad(loss, used, allow_unused=True)
    late = time.thread_time()
    pairs = [(predicted[n], g) for n, g in zip(names, gradients, strict=True) if g is not None]
    torch.autograd.backward([tensor for tensor, _ in pairs], [g for _, g in pairs])
    end = time.thread_time()
    with torch.no_grad():
        value = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
    # Read together: every read waits for a GPU.
    measured = torch.stack([value, accuracy, node_cosine(task, states)]).tolist()
    return StepResult(
        loss=measured[0],
        accuracy=measured[1],
        target_ms=(late - middle) * 1e3,
        hypernet_ms=(middle - start + end - late) * 1e3,
        node_cosine=measured[2],
    )


@torch.no_grad()
def node_cosine(task: Task, states: Tensor) -> Tensor:
    """Mean cosine between the states of the 3 x 3 convolutions, without each with itself."""
    nodes = task.plan.nodes.get(SPATIAL)
    if nodes is None or len(nodes) < 2:
        return states.new_full((), float("nan"))
    unit = F.normalize(states[nodes], dim=1)
    count = len(nodes)
    return (unit.sum(0).square().sum() - count) / (count * (count - 1))
