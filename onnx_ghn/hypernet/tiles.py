"""Decodes the tiles of many parameters with few calls of the archive's methods."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_ghn.hypernet.config import NetworkConfig
from onnx_ghn.hypernet.engines import Engine, Floats, Ints
from onnx_ghn.read.channels import Places
from onnx_ghn.read.graph import Part

GROUP_BYTES = 64 << 20
"""Memory that one call may take."""
FIXED_COST = 24
"""Cost of one more call with a size, in positions decoded: the decoder's last layer, which is the
larger part of all its weights, is read once a call (measured for GHN-3 XL)."""


class Decoder(enum.Enum):
    """The archive's method that a tile comes from."""

    WEIGHT = "decode_weight"
    CLASS_WEIGHT = "decode_class_weight"
    VECTOR = "decode_vector"
    CLASS_BIAS = "decode_class_bias"


@dataclass(frozen=True)
class Source:
    """Where a parameter's tile comes from.

    Attributes:
        node: Index of the graph's node.
        part: Which of the node's outputs.
        decoder: The method.
        size: Its size arguments, no larger than the archive's own maximum.
        rows, columns: Place of each output and input channel; None: they count from zero.
    """

    node: int
    part: Part
    decoder: Decoder
    size: tuple[int, ...]
    rows: Places | None = None
    columns: Places | None = None


Groups = dict[tuple[Decoder, tuple[int, ...]], list[Source]]


def decode_tiles(
    engine: Engine,
    sources: Mapping[int, Source],
    states: Floats,
    rows: Ints,
    network: NetworkConfig,
) -> dict[int, Floats]:
    """Decode the tile of each source.

    Args:
        engine: The hypernetwork.
        sources: What to decode, by any key.
        states: float32[N, H], the encoder's states.
        rows: int64[N, F], the features.
        network: Sizes of the hypernetwork.

    Returns:
        A tile for each key: [o, i, kh, kw] for a weight, [m] for a vector.
    """
    decoded: dict[Source, Floats] = {}
    for (decoder, size), members in group(sources.values()).items():
        method = getattr(engine, decoder.value)
        nodes = sorted({source.node for source in members})
        at_once = max(1, GROUP_BYTES // _bytes(decoder, size, network))
        for start in range(0, len(nodes), at_once):
            chosen = nodes[start : start + at_once]
            output = method(states[chosen], rows[chosen], *size)
            place = {node: k for k, node in enumerate(chosen)}
            for source in members:
                if source.node in place:
                    decoded[source] = _cut(output[place[source.node]], source)
    return {key: decoded[source] for key, source in sources.items()}


def group(sources: Iterable[Source]) -> Groups:
    """Sources that are decoded in one call, by the method and size of that call.

    A smaller size is the first part of a larger one, so that a group joins a larger one where
    that costs less than a call of its own.
    """
    groups: Groups = {}
    for source in dict.fromkeys(sources):
        groups.setdefault((source.decoder, source.size), []).append(source)
    for key in sorted(groups, key=lambda key: (math.prod(key[1]), key[0].value, key[1])):
        members = groups[key]
        gains = {host: _gain(key, host, len(members)) for host in groups if _holds(host, key)}
        best = max(gains, key=lambda host: (gains[host], host[1]), default=None)
        if best is not None and gains[best] > 0:
            groups[best] += groups.pop(key)
    return groups


def _holds(host: tuple[Decoder, tuple[int, ...]], key: tuple[Decoder, tuple[int, ...]]) -> bool:
    """Whether `host` is another, larger size of the same method and kernel."""
    return (
        host != key
        and host[0] is key[0]
        and host[1][2:] == key[1][2:]
        and all(large >= small for large, small in zip(host[1], key[1], strict=True))
    )


def _gain(
    key: tuple[Decoder, tuple[int, ...]], host: tuple[Decoder, tuple[int, ...]], count: int
) -> int:
    """What is saved when `count` nodes are decoded in the host's call."""
    positions = count * math.prod(key[1][2:])
    channels, more_channels = math.prod(key[1][:2]), math.prod(host[1][:2])
    return channels * (FIXED_COST + positions) - more_channels * positions


def _cut(output: Floats, source: Source) -> Floats:
    """The source's own part of what was decoded for its node."""
    size = source.size
    if source.decoder is Decoder.WEIGHT:
        part = output[: size[0], : size[1]]
    elif source.decoder is Decoder.CLASS_WEIGHT:
        part = output[:, : size[0], None, None]
    elif source.decoder is Decoder.VECTOR:
        part = output[0 if source.part is Part.SCALE else 1, : size[0]]
    else:
        part = output
    # A copy where it is a small part, so that the rest need not be kept.
    return part if part.flags.c_contiguous else np.ascontiguousarray(part)


def _bytes(decoder: Decoder, size: tuple[int, ...], network: NetworkConfig) -> int:
    """Memory that the decoder takes for one node: its tile and the layers before."""
    if decoder is Decoder.WEIGHT:
        o, i, kh, kw = size
        return 4 * kh * kw * (o * i + 12 * network.hidden)
    return 4 * max(network.classes, 2) * max(network.channels)
