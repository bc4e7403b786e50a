"""The training state as a few flat tensors, which processes can share.

All parameters of the hypernetwork are views of flat tensors, its *parts*: the trunk, and the output
layer of each decoder. A part is updated in one fused operation, copied in one memory copy, and
several processes can train on the same memory. The output layers hold most of the parameters and
an architecture uses few of the decoders: a part without a gradient is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnx_ghn.hypernet.kinds import KINDS, KindsHypernetwork, TileDecoder

TRUNK = 0
VECTOR = 1 + len(KINDS)
CLASSIFIER = VECTOR + 1
PARTS = CLASSIFIER + 1
"""The trunk, the weight decoders in the order of their kinds, vectors, the classifier."""

Parts = tuple[Tensor, ...]


def part_of(decoder: int | str) -> int:
    """The part that holds the output layer of a decoder, as `PredictionPlan.nodes` names it."""
    if isinstance(decoder, int):
        return 1 + decoder
    return VECTOR if decoder == "vector" else CLASSIFIER


@dataclass(frozen=True, eq=False)
class FlatState:
    """Weights, averaged weights and optimiser moments, one flat tensor for each part.

    Attributes:
        weights: What is trained.
        average: Exponential moving average of the weights.
        first: First moments of AdamW.
        second: Second moments of AdamW.
        steps: Updates so far, float32[].
    """

    weights: Parts
    average: Parts
    first: Parts
    second: Parts
    steps: Parts

    @classmethod
    def of(cls, network: KindsHypernetwork) -> FlatState:
        """A new state with the network's present weights."""
        weights = tuple(
            torch.cat([parameter.detach().reshape(-1) for parameter in part])
            for part in _parts(network)
        )
        return cls(
            weights=weights,
            average=tuple(flat.clone() for flat in weights),
            first=tuple(torch.zeros_like(flat) for flat in weights),
            second=tuple(torch.zeros_like(flat) for flat in weights),
            steps=tuple(flat.new_zeros(()) for flat in weights),
        )

    def share(self) -> FlatState:
        """Move the state to memory that child processes share."""
        for tensor in self.tensors().values():
            tensor.share_memory_()
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint."""
        names = ("weights", "average", "first", "second", "steps")
        return {
            f"{name}.{part}": tensor
            for name in names
            for part, tensor in enumerate(getattr(self, name))
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a checkpoint into this state."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def copy(self) -> dict[str, Tensor]:
        """A consistent copy, if nobody writes meanwhile."""
        copies = {name: tensor.detach().clone() for name, tensor in self.tensors().items()}
        self.settle()
        return copies

    def settle(self) -> None:
        """Wait until what was asked of the state is done: a GPU works behind its caller.

        For whoever holds a lock on the state, before releasing it.
        """
        if self.weights[TRUNK].is_cuda:
            torch.cuda.synchronize(self.weights[TRUNK].device)


def bind(network: KindsHypernetwork, flat: Parts) -> None:
    """Make the network's parameters views of `flat`; what `flat` holds are then its weights."""
    for parameter, view in _views(network, flat):
        parameter.data = view


def bind_gradients(network: KindsHypernetwork, flat: Parts) -> None:
    """Make the network accumulate its gradients in `flat`."""
    for parameter, view in _views(network, flat):
        parameter.grad = view


def _views(network: KindsHypernetwork, flat: Parts) -> Iterable[tuple[nn.Parameter, Tensor]]:
    for part, whole in zip(_parts(network), flat, strict=True):
        start = 0
        for parameter in part:
            size = parameter.numel()
            yield parameter, whole[start : start + size].view(parameter.shape)
            start += size


def _parts(network: KindsHypernetwork) -> list[list[nn.Parameter]]:
    """The parameters of each part, in a fixed order."""
    decoders = [*network.decoders, network.vector, network.class_weight]
    parts: list[list[nn.Parameter]] = []
    for decoder in decoders:
        assert isinstance(decoder, TileDecoder)
        parts.append(list(decoder.templates.parameters()))
    parts[-1] += list(network.class_bias.parameters())
    known = {id(parameter) for part in parts for parameter in part}
    return [[p for p in network.parameters() if id(p) not in known], *parts]


class Optimizer:
    """Fused AdamW (Loshchilov and Hutter, 2019) over the parts of a state, and their average.

    A part has its own count of updates: one that has no gradient is not updated, as if the
    update had not been.

    Args:
        state: What is updated, in place.
        rates: Base learning rates of the trunk and of the output layers.
        weight_decay: Of AdamW.
        betas: Of AdamW.
        average_decay: Decay of the moving average, for each update.
        average_every: Updates between two of the average, which is a walk through all memory.

    Attributes:
        gradients: One flat tensor for each part.
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
        self._rates = [rates[0], *[rates[1]] * (PARTS - 1)]
        self._decay = average_decay
        self._every = average_every
        self.gradients = tuple(torch.zeros_like(flat) for flat in state.weights)
        self._leaves = [nn.Parameter(flat) for flat in state.weights]
        self._adam = torch.optim.AdamW(
            [
                {"params": [leaf], "lr": rate}
                for leaf, rate in zip(self._leaves, self._rates, strict=True)
            ],
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )
        for part, leaf in enumerate(self._leaves):
            self._adam.state[leaf] = {
                "step": state.steps[part],
                "exp_avg": state.first[part],
                "exp_avg_sq": state.second[part],
            }

    def norms(self, parts: Iterable[int]) -> dict[int, float]:
        """L2 norm of the gradient of each of `parts`."""
        chosen = list(parts)
        squares = torch.stack([self.gradients[p].dot(self.gradients[p]) for p in chosen]).tolist()
        return {p: s**0.5 for p, s in zip(chosen, squares, strict=True)}

    def zero_gradients(self, parts: Iterable[int] = range(PARTS)) -> None:
        """Forget the gradients of `parts`."""
        for part in parts:
            self.gradients[part].zero_()

    def update(self, rate: float, parts: Iterable[int], shrink: float = 1.0) -> None:
        """One update of `parts`.

        Args:
            rate: Factor of the base learning rates.
            parts: What has a gradient.
            shrink: Factor of the gradients.
        """
        chosen = set(parts)
        # Read first: later, it would wait until a GPU has done the update.
        count = int(self._state.steps[TRUNK]) + (TRUNK in chosen)
        for part, leaf in enumerate(self._leaves):
            self._adam.param_groups[part]["lr"] = self._rates[part] * rate
            leaf.grad = self.gradients[part] if part in chosen else None
            if leaf.grad is not None and shrink < 1.0:
                leaf.grad.mul_(shrink)
        self._adam.step()
        if count % self._every == 0:
            # An average over few updates would mostly hold the random start.
            decay = min(self._decay**self._every, count / (count + 9 * self._every))
            for average, weights in zip(self._state.average, self._state.weights, strict=True):
                average.lerp_(weights, 1 - decay)
