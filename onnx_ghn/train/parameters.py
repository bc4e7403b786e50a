"""The training state as a few flat tensors, which processes can share.

All parameters of the hypernetwork are views of two flat tensors, one for the trunk and one for
the output layers, which have learning rates of their own. The optimiser then makes one fused
update for each, a copy is one memory copy, and several processes can train on the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnx_ghn.hypernet.kinds import KindsHypernetwork, TileDecoder

TRUNK, OUTPUT = 0, 1


@dataclass(frozen=True, eq=False)
class FlatState:
    """Weights, optimiser moments and averaged weights, each flat: (trunk, output layers).

    Attributes:
        weights: What is trained.
        average: Exponential moving average of the weights.
        first, second: Moments of AdamW.
        steps: Updates so far, float32[1] each.
    """

    weights: tuple[Tensor, Tensor]
    average: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    steps: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, network: KindsHypernetwork) -> FlatState:
        """A new state with the network's present weights."""
        parts = _parts(network)
        weights = tuple(
            torch.cat([parameter.detach().reshape(-1) for parameter in part]) for part in parts
        )
        return cls(
            weights=(weights[0], weights[1]),
            average=(weights[0].clone(), weights[1].clone()),
            first=(torch.zeros_like(weights[0]), torch.zeros_like(weights[1])),
            second=(torch.zeros_like(weights[0]), torch.zeros_like(weights[1])),
            steps=(weights[0].new_zeros(()), weights[1].new_zeros(())),
        )

    def share(self) -> FlatState:
        """Move the state to memory that child processes share."""
        for tensor in self.tensors().values():
            tensor.share_memory_()
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint."""
        names = ("weights", "average", "first", "second", "steps")
        return {f"{name}.{part}": getattr(self, name)[part] for name in names for part in (0, 1)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a checkpoint into this state."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def copy(self) -> dict[str, Tensor]:
        """A consistent copy, if nobody writes meanwhile."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}


def bind(network: KindsHypernetwork, flat: tuple[Tensor, Tensor]) -> None:
    """Make the network's parameters views of `flat`; what `flat` holds are then its weights."""
    for part, whole in zip(_parts(network), flat, strict=True):
        start = 0
        for parameter in part:
            size = parameter.numel()
            parameter.data = whole[start : start + size].view(parameter.shape)
            start += size


def bind_gradients(network: KindsHypernetwork, flat: tuple[Tensor, Tensor]) -> None:
    """Make the network accumulate its gradients in `flat`."""
    for part, whole in zip(_parts(network), flat, strict=True):
        start = 0
        for parameter in part:
            size = parameter.numel()
            parameter.grad = whole[start : start + size].view(parameter.shape)
            start += size


def _parts(network: KindsHypernetwork) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the trunk and of the output layers, in a fixed order."""
    output: list[nn.Parameter] = list(network.class_bias.parameters())
    for module in network.modules():
        if isinstance(module, TileDecoder):
            output += list(module.templates.parameters())
    known = {id(parameter) for parameter in output}
    return [p for p in network.parameters() if id(p) not in known], output


class Optimizer:
    """Fused AdamW over a flat state, with a learning rate for each part, and its average.

    Args:
        state: What is updated, in place.
        rates: Base learning rates of trunk and output layers.
        betas, weight_decay: Of AdamW (Loshchilov and Hutter, 2019).
        average_decay: Decay of the moving average, for each update.
        average_every: Updates between two of the average, which is a walk through all memory.
    """

    def __init__(
        self,
        state: FlatState,
        *,
        rates: tuple[float, float],
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.99),
        average_decay: float = 0.998,
        average_every: int = 8,
    ) -> None:
        self._state = state
        self._rates = rates
        self._decay = average_decay
        self._every = average_every
        self.gradients = (torch.zeros_like(state.weights[0]), torch.zeros_like(state.weights[1]))
        leaves = [nn.Parameter(flat) for flat in state.weights]
        for leaf, gradient in zip(leaves, self.gradients, strict=True):
            leaf.grad = gradient
        self._adam = torch.optim.AdamW(
            [{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates, strict=True)],
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )
        for part, leaf in enumerate(leaves):
            self._adam.state[leaf] = {
                "step": state.steps[part],
                "exp_avg": state.first[part],
                "exp_avg_sq": state.second[part],
            }

    def norm(self) -> float:
        """L2 norm of the gradients."""
        return float(sum(float(gradient.dot(gradient)) for gradient in self.gradients)) ** 0.5

    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients."""
        for gradient in self.gradients:
            gradient.mul_(factor)

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        for gradient in self.gradients:
            gradient.zero_()

    def update(self, factor: float) -> None:
        """One update with base rates times `factor`."""
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._adam.step()
        count = int(self._state.steps[TRUNK])
        if count % self._every == 0:
            # An average over few updates would mostly hold the random start.
            decay = min(self._decay**self._every, count / (count + 9 * self._every))
            for average, weights in zip(self._state.average, self._state.weights, strict=True):
                average.lerp_(weights, 1 - decay)
