"""The networks of a table: held-out ones of the generator, and ONNX files."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from onnx_ghn.architectures.sample import sample
from onnx_ghn.architectures.splits import Entry
from onnx_ghn.model_files import load

Network = Entry | Path


def build(network: Network, *, side: int = 32, classes: int = 10) -> ir.Model:
    """A network without values; a file has its own image side and classes."""
    if isinstance(network, Path):
        return load(network, None)
    return sample(network.space, network.seed, image_side=side, classes=classes)


def name_of(network: Network) -> str:
    """What tells it from the others: a graph key, or a file's name."""
    return network.stem if isinstance(network, Path) else network.key
