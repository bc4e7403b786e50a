"""Node states to weight tiles: the convolutional decoder and the vector decoder of GHN-2/3.

Only what a parameter takes is computed: the positions of its kernel, and the first
min(o, C0) x min(i, C1) channels. Larger parameters repeat their tile (`onnx_ghn.hypernet.fit`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 16
"""Fewer input channels than this are gathered into one matrix; more are multiplied in place."""


class WeightDecoder(nn.Module):
    """Decodes kernels, and the weight of the classifier."""

    def __init__(
        self, hidden: int, channels: tuple[int, int], side: int, classes: int, centred: bool
    ) -> None:
        super().__init__()
        self.c0, self.c1 = channels
        self.side = side
        self.centred = centred
        self.narrow = NARROW
        self.positions = nn.Linear(hidden, 4 * hidden * side * side)
        self.inner = nn.Linear(4 * hidden, 8 * hidden)
        self.outer = nn.Linear(8 * hidden, self.c0 * self.c1)
        self.classifier = nn.Linear(self.c0, classes)

    def forward(self, states: Tensor, o: int, i: int, kh: int, kw: int) -> Tensor:
        """States [n, H] -> [n, min(o, C0), min(i, C1), kh, kw]."""
        o, i = min(o, self.c0), min(i, self.c1)
        top, bottom = self.window(kh)
        left, right = self.window(kw)
        height, width = bottom - top, right - left
        nodes, hidden = states.shape[0], states.shape[1]
        weight = self.positions.weight.reshape(4 * hidden, self.side, self.side, hidden)
        bias = self.positions.bias.reshape(4 * hidden, self.side, self.side)
        at: list[Tensor] = []
        for y in range(top, bottom):
            for x in range(left, right):  # each in place: copying a window takes longer
                at.append(F.linear(states, weight[:, y, x], bias[:, y, x]))
        rows = torch.relu(self.inner(torch.relu(torch.cat(at))))
        tile = self.channels(rows, o, i).reshape(o, height, width, nodes, i)
        tile = tile.permute(3, 0, 4, 1, 2)
        if height < kh or width < kw:
            tile = F.interpolate(
                tile.reshape(nodes, o * i, height, width),
                size=[kh, kw],
                mode="bilinear",
                align_corners=False,
            )
        return tile.reshape(nodes, o, i, kh, kw)

    def channels(self, x: Tensor, o: int, i: int) -> Tensor:
        """The last layer for the first `o` x `i` channels: x [m, 8H] -> [o, m, i]."""
        weight = self.outer.weight.reshape(self.c0, self.c1, x.shape[1])[:o, :i]
        bias = self.outer.bias.reshape(self.c0, self.c1)[:o, :i]
        if i < self.narrow:
            flat = F.linear(x, weight.reshape(o * i, x.shape[1]), bias.reshape(o * i))
            return flat.reshape(x.shape[0], o, i).transpose(0, 1)
        # One product for each output channel reads the large matrix in place, without a copy.
        product = torch.bmm(x.expand(o, x.shape[0], x.shape[1]), weight.transpose(1, 2))
        return product + bias.unsqueeze(1)

    def class_weight(self, states: Tensor, i: int) -> Tensor:
        """States [n, H] -> [n, classes, min(i, C1)]."""
        tile = self.forward(states, self.c0, i, 1, 1).flatten(2)
        return self.classifier(torch.relu(tile).transpose(1, 2)).transpose(1, 2)

    def window(self, k: int) -> tuple[int, int]:
        """First and last (exclusive) row of the spatial map that a kernel of side `k` takes."""
        first = max(0, self.side // 2 - k // 2) if self.centred else 0
        return first, min(self.side, first + k)


class VectorDecoder(nn.Module):
    """Decodes scales and shifts of norms, biases, and the bias of the classifier."""

    def __init__(self, hidden: int, channels: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.m = max(channels)
        self.inner = nn.Linear(hidden, 2 * hidden)
        self.outer = nn.Linear(2 * hidden, 2 * self.m)
        self.classifier = nn.Linear(self.m, classes)

    def forward(self, states: Tensor, m: int) -> Tensor:
        """States [n, H] -> [n, 2, min(m, M)], scales near 1 in row 0, shifts near 0 in row 1."""
        m = min(m, self.m)
        x = torch.relu(self.inner(states))
        width = x.shape[1]
        weight = self.outer.weight.reshape(2, self.m, width)[:, :m].reshape(2 * m, width)
        bias = self.outer.bias.reshape(2, self.m)[:, :m].reshape(2 * m)
        rows = F.linear(x, weight, bias).reshape(-1, 2, m)
        return torch.stack([2 * torch.sigmoid(0.5 * rows[:, 0]), torch.tanh(0.2 * rows[:, 1])], 1)

    def class_bias(self, states: Tensor) -> Tensor:
        """States [n, H] -> [n, classes]."""
        shift = self.outer(torch.relu(self.inner(states)))[:, self.m :]
        return torch.tanh(0.2 * self.classifier(torch.relu(shift)))
