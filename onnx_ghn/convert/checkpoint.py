"""Turns a published checkpoint into an archive."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx_ghn.convert.layouts import infer_config, rename, state_of
from onnx_ghn.convert.unpickle import most_bytes, read_checkpoint
from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.archive import write_archive
from onnx_ghn.hypernet.config import GRAPHORMER, ArchiveConfig

IMAGENET_CLASSES = 1000


def convert_checkpoint(
    path: Path, out: Path, *, name: str | None = None, licence: str = "MIT"
) -> ArchiveConfig:
    """Write the archive of a GHN-2 or GHN-3 checkpoint. No code of the checkpoint runs.

    Args:
        path: The published file (a pickled state dict), or one that the authors' trainers save.
        out: The archive's `.pt` file; `.safetensors`, `.json` and `SHA256SUMS` go beside it.
        name: Name in reports; the stem of `out` where None.
        licence: SPDX identifier of the weights' licence; MIT for the published ones.

    Raises:
        ArchiveError: The file is no such checkpoint, is damaged, or holds more than tensors; or
            the archive can't be written.
    """
    path, out = Path(path), Path(out)
    state = state_of(read_checkpoint(path), str(path))
    if 4 * sum(value.size for value in state.values()) > most_bytes(path):
        raise ArchiveError(f"{path}: refused: its tensors repeat each other's elements")
    network = infer_config(state, str(path))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    imagenet = network.classes == IMAGENET_CLASSES
    config = ArchiveConfig(
        name=name or out.stem,
        network=network,
        trained=True,
        image_side=224 if imagenet else 32,
        mean=(0.485, 0.456, 0.406) if imagenet else (0.4914, 0.4822, 0.4465),
        std=(0.229, 0.224, 0.225) if imagenet else (0.2470, 0.2435, 0.2616),
        domain=f"images of {network.classes} classes, as the checkpoint's authors trained it",
        provenance={
            "algorithm": "GHN-3" if network.encoder == GRAPHORMER else "GHN-2",
            "converted_from": path.name,
            "sha256": digest,
        },
        licence=licence,
    )
    write_archive(out, config, rename(state, str(path)))
    return config
