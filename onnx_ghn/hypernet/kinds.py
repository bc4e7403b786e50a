"""Our own hypernetwork: a graph transformer, and a decoder for each kind of weight.

The encoder is that of GHN-3, on finer node features. Each kind of weight (3 x 3, 1 x 1, linear,
depthwise ...) has a decoder of its own that maps a node to a mixture of learned templates. Half of
what a decoder reads are fixed random features of the node: without them the states of all nodes
of a kind soon become equal, and every layer gets the same weights. Like every hypernetwork here
it has the five methods of an archive and compiles with TorchScript.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnx_ghn.hypernet.graphormer import Graphormer, Layer
from onnx_ghn.read.graph import Op

COLUMNS = (
    "primitive",
    "out",
    "in_per_group",
    "height",
    "width",
    "groups",
    "stride",
    "dilation",
    "is_linear",
    "is_head",
    "depth",
    "rest",
)
"""Feature columns, see `onnx_ghn.hypernet.columns`."""
LARGEST = (15, 160, 160, 16, 16, 16, 4, 4, 1, 1, 96, 96)
"""Where each column is cut off: beyond, training has seen too little to tell sizes apart."""

KINDS = ("spatial", "pointwise", "linear", "large", "stem", "depthwise", "grouped", "position")
SPATIAL, POINTWISE, LINEAR, LARGE, STEM, DEPTHWISE, GROUPED, POSITION = range(len(KINDS))
TILES = (
    (32, 32, 3),
    (64, 64, 1),
    (64, 64, 1),
    (16, 16, 7),
    (64, 4, 5),
    (64, 1, 7),
    (16, 16, 5),
    (1, 64, 8),
)
"""(out, in, side) of the tile of each kind; the channels divide `CHANNELS`."""
TEMPLATES = (96, 64, 64, 32, 32, 32, 32, 16)
"""Templates of each kind."""
CHANNELS = 64
"""Largest tile along any axis of channels."""


class Buckets(nn.Module):
    """Numbers to rows of one table: eight rows for each doubling, those up to 12 apart."""

    def __init__(self, largest: tuple[int, ...]) -> None:
        super().__init__()
        counts = [round(8 * math.log2(n + 1)) + 1 for n in largest]
        self.rows = sum(counts)
        starts = [sum(counts[:index]) for index in range(len(counts))]
        self.starts = nn.Buffer(torch.tensor(starts))
        self.largest = nn.Buffer(torch.tensor(largest))

    def forward(self, features: Tensor) -> Tensor:
        """Features int64[N, F] -> rows int64[N, F]."""
        inside = torch.minimum(features.clamp(min=0), self.largest)
        return (8 * torch.log2(inside + 1.0)).round().long() + self.starts


class TileDecoder(nn.Module):
    """What a node is to a tile of unit variance: a mixture of templates."""

    def __init__(self, width: int, templates: int, out: int, ins: int, side: int) -> None:
        super().__init__()
        self.out, self.ins, self.side = out, ins, side
        self.inner = nn.Linear(width, templates)
        self.norm = nn.LayerNorm(templates)
        self.templates = nn.Linear(templates, out * ins * side * side)
        # Half of a normalised activation's square is left after ReLU.
        nn.init.normal_(self.templates.weight, std=math.sqrt(2 / templates))
        nn.init.zeros_(self.templates.bias)

    def forward(self, x: Tensor) -> Tensor:
        """X [n, width] -> [n, out, ins, side, side]."""
        mixture = F.relu(self.norm(self.inner(x)))
        return self.templates(mixture).reshape(-1, self.out, self.ins, self.side, self.side)


def window(tiles: Tensor, o: int, i: int, kh: int, kw: int) -> Tensor:
    """The part of tiles [n, O, I, S, S] that weights of (o, i, kh, kw) take.

    The first channels, and the centre of the map; a kernel larger than the map is interpolated.
    """
    side = tiles.shape[3]
    tiles = tiles[:, :o, :i]
    if kh > side or kw > side:
        n, out, ins = tiles.shape[0], tiles.shape[1], tiles.shape[2]
        flat = tiles.reshape(n, out * ins, side, side)
        flat = F.interpolate(flat, size=[kh, kw], mode="bilinear", align_corners=False)
        return flat.reshape(n, out, ins, kh, kw)
    top, left = side // 2 - kh // 2, side // 2 - kw // 2
    return tiles[:, :, :, top : top + kh, left : left + kw]


class KindOf(nn.Module):
    """The kind of each node's weight, from its features."""

    def __init__(self) -> None:
        super().__init__()
        # TorchScript sees attributes, and no constants of the module.
        self.spatial, self.pointwise, self.linear, self.large = SPATIAL, POINTWISE, LINEAR, LARGE
        self.stem, self.depthwise, self.grouped, self.position = STEM, DEPTHWISE, GROUPED, POSITION
        self.table = int(Op.POS_ENC)

    def forward(self, features: Tensor) -> Tensor:
        """Features int64[N, F] -> kind int64[N]."""
        primitive, ins, groups, linear = (
            features[:, 0],
            features[:, 2],
            features[:, 5],
            features[:, 8],
        )
        side = torch.maximum(features[:, 3], features[:, 4])
        kind = torch.where(side > 1, self.spatial, self.pointwise)
        kind = torch.where(side > 3, self.large, kind)
        kind = torch.where((ins <= 4) & (side > 1), self.stem, kind)
        kind = torch.where(linear > 0, self.linear, kind)
        kind = torch.where(groups > 1, self.grouped, kind)
        kind = torch.where((groups > 1) & (ins <= 1), self.depthwise, kind)
        return torch.where(primitive == self.table, self.position, kind)


class KindsHypernetwork(nn.Module):
    """Graphormer with a decoder for each kind of weight.

    Args:
        hidden: Width H of a node's state.
        layers: Of the transformer.
        heads: Of its attention.
        classes: Outputs of the classifier that is predicted.
    """

    def __init__(self, hidden: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.buckets = Buckets(LARGEST)
        self.kind_of = KindOf()
        rows = self.buckets.rows
        self.embedding = nn.Embedding(rows, hidden)
        nn.init.normal_(self.embedding.weight, std=len(COLUMNS) ** -0.5)
        fixed = torch.empty(rows, hidden).normal_(std=len(COLUMNS) ** -0.5)
        self.fixed = nn.Buffer(fixed)
        self.encoder = Graphormer(hidden, layers, heads)
        for layer in self.encoder.layers:
            assert isinstance(layer, Layer)
            # Residual branches start at zero: the states are the embeddings at first.
            for last in (layer.attention.out, layer.feed_out):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.norm = nn.LayerNorm(hidden)
        decoders = [
            TileDecoder(2 * hidden, templates, *tile)
            for templates, tile in zip(TEMPLATES, TILES, strict=True)
        ]
        self.decoders = nn.ModuleList(decoders)
        self.vector = TileDecoder(2 * hidden, 64, 2, CHANNELS, 1)
        self.class_weight = TileDecoder(2 * hidden, 64, classes, CHANNELS, 1)
        self.class_bias = nn.Linear(2 * hidden, classes)
        with torch.no_grad():
            decoders[POSITION].templates.weight.mul_(0.1)  # a table isn't scaled by fan-in
            self.vector.templates.weight.mul_(0.2)
            self.class_weight.templates.weight.mul_(0.5)
            self.class_bias.weight.mul_(0.1)

    def encode(self, features: Tensor, distance: Tensor) -> Tensor:
        """Features int64[N, F], distance int64[N, N] -> states [N, H]."""
        return self.norm(self.encoder(self.embedding(self.buckets(features)).sum(1), distance))

    def read(self, states: Tensor, features: Tensor) -> Tensor:
        """What decoders read: states [n, H], features int64[n, F] -> [n, 2H]."""
        return torch.cat([states, F.embedding(self.buckets(features), self.fixed).sum(1)], 1)

    def decode_weight(
        self, states: Tensor, features: Tensor, o: int, i: int, kh: int, kw: int
    ) -> Tensor:
        """States [n, H] -> [n, min(o, 64), min(i, 64), kh, kw]."""
        o, i = min(o, self.channels), min(i, self.channels)
        x, kinds = self.read(states, features), self.kind_of(features)
        result = torch.zeros([states.shape[0], o, i, kh, kw], device=states.device)
        for kind, decoder in enumerate(self.decoders):
            rows = (kinds == kind).nonzero().flatten()
            if rows.numel() > 0:
                tile = window(decoder(x[rows]), o, i, kh, kw)
                up, along = -(-o // tile.shape[1]), -(-i // tile.shape[2])
                result[rows] = tile.repeat(1, up, along, 1, 1)[:, :o, :i]
        return result

    def decode_class_weight(self, states: Tensor, features: Tensor, i: int) -> Tensor:
        """States [n, H] -> [n, classes, min(i, 64)]."""
        return self.centred(self.class_weight(self.read(states, features)).flatten(2)[:, :, :i])

    def decode_vector(self, states: Tensor, features: Tensor, m: int) -> Tensor:
        """States [n, H] -> [n, 2, min(m, 64)]: scale and shift."""
        return self.squashed(self.vector(self.read(states, features)).flatten(2)[:, :, :m])

    def decode_class_bias(self, states: Tensor, features: Tensor) -> Tensor:
        """States [n, H] -> [n, classes]."""
        return self.centred(self.shift(self.class_bias(self.read(states, features))))

    def centred(self, rows: Tensor) -> Tensor:
        """A classifier [n, classes, ...] less its mean over the classes.

        What all classes have in common changes no probability, so that nothing keeps it from
        drifting; behind a classifier that ends in a ReLU it would leave no class above zero.
        """
        return rows - rows.mean(1, keepdim=True)

    def squashed(self, rows: Tensor) -> Tensor:
        """Scales near 1 and shifts near 0: [n, 2, m] -> [n, 2, m]."""
        return torch.stack([2 * torch.sigmoid(0.5 * rows[:, 0]), self.shift(rows[:, 1])], 1)

    def shift(self, row: Tensor) -> Tensor:
        """A shift or bias near 0, from a decoder's output."""
        return torch.tanh(0.2 * row)
