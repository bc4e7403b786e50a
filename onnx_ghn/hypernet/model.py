"""The hypernetwork: the five methods that every archive has, for GHN-2 and GHN-3.

A plain `nn.Module`: differentiable, trained as it is, and compiled by TorchScript when an
archive is written (`onnx_ghn.hypernet.archive`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnx_ghn.hypernet.config import CENTRE, GRAPHORMER, KINDS, NetworkConfig
from onnx_ghn.hypernet.decoder import VectorDecoder, WeightDecoder
from onnx_ghn.hypernet.features import channel_table, side_table
from onnx_ghn.hypernet.gatedgnn import GatedGnn
from onnx_ghn.hypernet.graphormer import Graphormer
from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.read.graph import Op


class NodeEmbedding(nn.Module):
    """Embeds a node's primitive and shape."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        quarter = config.hidden // 4
        self.op = nn.Embedding(len(Op), config.hidden)
        self.channel = nn.Embedding(len(channel_table(config.classes)) + 1, quarter)
        self.side = nn.Embedding(len(side_table(config.side)) + 1, quarter)

    def forward(self, features: Tensor) -> Tensor:
        """Features int64[N, 5] -> [N, H]."""
        channels = self.channel(features[:, 1:3]).flatten(1)
        sides = self.side(features[:, 3:5]).flatten(1)
        return self.op(features[:, 0]) + torch.cat([channels, sides], 1)


class Hypernetwork(nn.Module):
    """GHN-2 or GHN-3, by its configuration."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = NodeEmbedding(config)
        self.encoder: nn.Module
        if config.encoder == GRAPHORMER:
            self.encoder = Graphormer(config.hidden, config.layers, config.heads)
        else:
            self.encoder = GatedGnn(config.hidden)
        self.norm = nn.LayerNorm(config.hidden) if config.final_norm else nn.Identity()
        self.weight = WeightDecoder(
            config.hidden, config.channels, config.side, config.classes, config.window == CENTRE
        )
        self.vector = VectorDecoder(config.hidden, config.channels, config.classes)

    def encode(self, features: Tensor, distance: Tensor) -> Tensor:
        """Features int64[N, F], distance int64[N, N] -> states [N, H]."""
        return self.norm(self.encoder(self.embedding(features), distance))

    def decode_weight(
        self, states: Tensor, features: Tensor, o: int, i: int, kh: int, kw: int
    ) -> Tensor:
        """States [n, H] -> [n, min(o, C0), min(i, C1), kh, kw]."""
        return self.weight(states, o, i, kh, kw)

    def decode_class_weight(self, states: Tensor, features: Tensor, i: int) -> Tensor:
        """States [n, H] -> [n, classes, min(i, C1)]."""
        return self.weight.class_weight(states, i)

    def decode_vector(self, states: Tensor, features: Tensor, m: int) -> Tensor:
        """States [n, H] -> [n, 2, min(m, M)]: scale and shift."""
        return self.vector(states, m)

    def decode_class_bias(self, states: Tensor, features: Tensor) -> Tensor:
        """States [n, H] -> [n, classes]."""
        return self.vector.class_bias(states)


def build_network(config: NetworkConfig) -> nn.Module:
    """A hypernetwork of the configured design and sizes, freshly initialised."""
    if config.encoder == KINDS:
        return KindsHypernetwork(config.hidden, config.layers, config.heads, config.classes)
    return Hypernetwork(config)
