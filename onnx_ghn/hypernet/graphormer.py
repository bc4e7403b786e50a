"""The GHN-3 encoder: a transformer whose attention is biased by distances in the graph.

After "Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?" (Knyazev et
al., 2023) and Graphormer (Ying et al., 2021). Written for one graph at a time, in the subset of
Python that TorchScript compiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnx_ghn.hypernet.config import EDGE_CODES, MAX_DEGREE, MAX_DISTANCE_FROM_INPUT

SCORES_AT_ONCE = 1 << 24
"""Attention scores that are held at once, in float32 elements (64 MB)."""


class Centrality(nn.Module):
    """Adds to a node's features its degrees and its distance from the input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_degree = nn.Embedding(MAX_DEGREE + 1, hidden)
        self.out_degree = nn.Embedding(MAX_DEGREE + 1, hidden)
        self.from_input = nn.Embedding(MAX_DISTANCE_FROM_INPUT + 1, hidden)

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """X [N, H], distance [N, N] -> [N, H]."""
        edge = distance == 1
        in_degree = edge.sum(0).clamp(max=self.in_degree.weight.shape[0] - 1)
        out_degree = edge.sum(1).clamp(max=self.out_degree.weight.shape[0] - 1)
        from_input = distance[0].clamp(max=self.from_input.weight.shape[0] - 1)
        return (
            x
            + self.in_degree(in_degree)
            + self.out_degree(out_degree)
            + self.from_input(from_input)
        )


class DistanceBias(nn.Module):
    """The attention bias of a pair of nodes, a function of the distances there and back.

    A graph has few distinct pairs of distances (tens, against N² pairs of nodes), so the bias is
    computed once for each of them, and gathered.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(EDGE_CODES, hidden)
        self.mix = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, heads))

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Distance [N, N] -> table [heads, P] of biases and the index [N, N] into its columns."""
        there = distance.clamp(max=self.embedding.weight.shape[0] - 3)
        code = there * 256 + there.t()
        present = torch.zeros(256 * 256, dtype=torch.int64, device=distance.device)
        present.index_fill_(0, code.flatten(), 1)
        pairs = present.nonzero().flatten()
        index = (present.cumsum(0) - 1).index_select(0, code.flatten()).reshape(code.shape)
        ends = torch.stack([pairs // 256, pairs % 256], 1) + 2
        table = self.mix(self.embedding(ends).flatten(1))  # [P, 2, H] -> [P, heads]
        return table.t().contiguous(), index


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias for each pair of nodes."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scores_at_once = SCORES_AT_ONCE
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """X [N, H], table [heads, P], index [N, N] -> [N, H]."""
        nodes, hidden = x.shape[0], x.shape[1]
        width = hidden // self.heads
        qkv = self.qkv(x).reshape(nodes, 3, self.heads, width).permute(1, 2, 0, 3)
        query, key, value = qkv[0], qkv[1].transpose(1, 2), qkv[2]
        rows = max(1, self.scores_at_once // (nodes * self.heads))
        mixed: list[Tensor] = []
        for start in range(0, nodes, rows):
            pairs = index[start : start + rows].flatten()
            bias = table.gather(1, pairs.expand(self.heads, -1)).reshape(self.heads, -1, nodes)
            scores = torch.baddbmm(bias, query[:, start : start + rows], key, alpha=width**-0.5)
            mixed.append(torch.matmul(scores.softmax(-1), value))
        return self.out(torch.cat(mixed, 1).transpose(0, 1).reshape(nodes, hidden))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads)
        self.feed_norm = nn.LayerNorm(hidden)
        self.feed_in = nn.Linear(hidden, 4 * hidden)
        self.feed_out = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """X [N, H], table [heads, P], index [N, N] -> [N, H]."""
        x = x + self.attention(self.attention_norm(x), table, index)
        return x + self.feed_out(F.gelu(self.feed_in(self.feed_norm(x))))


class Graphormer(nn.Module):
    """Node features and distances to node states."""

    def __init__(self, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        self.centrality = Centrality(hidden)
        self.bias = DistanceBias(hidden, heads)
        self.layers = nn.ModuleList([Layer(hidden, heads) for _ in range(layers)])

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """X [N, H], distance int64[N, N] -> [N, H]."""
        x = self.centrality(x, distance)
        table, index = self.bias(distance)
        for layer in self.layers:
            x = layer(x, table, index)
        return x
