"""Writes the averaged weights of a run as a hypernetwork archive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import onnx_ghn
from onnx_ghn.hypernet.archive import write_archive
from onnx_ghn.hypernet.config import KINDS, ArchiveConfig, NetworkConfig
from onnx_ghn.hypernet.kinds import CHANNELS, COLUMNS, KindsHypernetwork

HIDDEN, LAYERS, HEADS = 128, 3, 8
MAP_SIDE = 8
"""Largest side of a decoder's tile, in kernel positions."""


def network_config(classes: int) -> NetworkConfig:
    """Sizes of the hypernetwork that is trained."""
    return NetworkConfig(
        encoder=KINDS,
        hidden=HIDDEN,
        layers=LAYERS,
        heads=HEADS,
        channels=(CHANNELS, CHANNELS),
        side=MAP_SIDE,
        classes=classes,
        aligned=True,
    )


def archive_config(
    name: str,
    classes: int,
    side: int,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    domain: str,
    provenance: dict[str, Any],
) -> ArchiveConfig:
    """Description of a run's archive; `domain` says in words what it was trained on."""
    mean, std = normalisation
    return ArchiveConfig(
        name=name,
        network=network_config(classes),
        trained=True,
        image_side=side,
        mean=mean,
        std=std,
        domain=domain,
        provenance=provenance | {"onnx_ghn": onnx_ghn.__version__, "torch": torch.__version__},
        columns=COLUMNS,
    )


def export_archive(
    path: Path, config: ArchiveConfig, network: KindsHypernetwork, held_out: dict[str, Any]
) -> None:
    """Write the archive with its results on held-out architectures."""
    rows = (held_out,) if held_out else ()
    state = {name: t.detach().cpu().numpy() for name, t in network.state_dict().items()}
    write_archive(path, replace(config, held_out=rows), state)
