"""Writes a seeded, untrained archive: what tests and benchmarks use, and a start without training.

Usage: python tools/make_untrained.py OUT.pt

A GHN-3 of small size. Each layer keeps the size of the signal, but for the last one, which makes
weights of variance `TILE_VARIANCE` before the fan-in rule. Wide layers repeat their tile, and equal
channels add up instead of averaging out: at unit variance the signal of wide networks without
norms overflows. The same seed gives the same bytes, with the same version of torch.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from onnx_ghn.hypernet.archive import write_archive
from onnx_ghn.hypernet.config import GRAPHORMER, ArchiveConfig, NetworkConfig
from onnx_ghn.random_stream import RandomStream

SEED = 0
TILE_VARIANCE = 0.2
"""Small enough that all runnable models of the corpus give finite outputs."""
NETWORK = NetworkConfig(
    encoder=GRAPHORMER, hidden=32, layers=3, heads=8, channels=(32, 32), side=7, classes=10
)
CONFIG = ArchiveConfig(
    name="untrained",
    network=NETWORK,
    trained=False,
    image_side=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    domain="none: the weights are random",
    provenance={"algorithm": "GHN-3", "seed": SEED, "made_by": "tools/make_untrained.py"},
    licence="MIT",
)


def untrained_state(network: NetworkConfig, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights of a hypernetwork by their names: each tensor has a stream of its own."""
    import torch

    from onnx_ghn.hypernet.model import Hypernetwork

    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in Hypernetwork(network).state_dict().items()}
    return {name: _tensor(name, shape, network, seed) for name, shape in shapes.items()}


def _tensor(
    name: str, shape: tuple[int, ...], network: NetworkConfig, seed: int
) -> npt.NDArray[np.float32]:
    if len(shape) == 1:
        return np.full(shape, "norm" in name and name.endswith("weight"), np.float32)
    draw = RandomStream(seed, name).normal(shape)
    if "embedding" in name or "centrality" in name:
        return draw * np.float32(network.hidden**-0.5)
    # A layer that a ReLU follows keeps the mean square of what it gets with a gain of 2.
    gain = 1.0 if "encoder" in name else TILE_VARIANCE if "outer" in name else 2.0
    return draw * np.float32((gain / shape[1]) ** 0.5)


def main() -> int:
    """Write the archive and say what was written."""
    if len(sys.argv) != 2:
        print("usage: python tools/make_untrained.py OUT.pt", file=sys.stderr)
        return 2
    info = write_archive(sys.argv[1], CONFIG, untrained_state(NETWORK, SEED))
    print(f"{info.path}: {info.path.stat().st_size:,} bytes, sha256 {info.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
