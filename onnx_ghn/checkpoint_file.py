"""Checkpoint files of every kind of run: written whole or not at all, read without running code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from onnx_ghn.errors import OnnxGhnError
from onnx_ghn.model_io.atomic import AtomicFile

Checkpoint = TypeVar("Checkpoint")


class CheckpointError(OnnxGhnError):
    """A checkpoint is missing, damaged, or of another kind of run."""


def write_checkpoint_file(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
    with AtomicFile(path.parent) as output:
        torch.save(content, output.file)
        output.sync()
        output.publish(path, overwrite=True)


def read_checkpoint_file(path: Path, parse: Callable[[dict[str, Any]], Checkpoint]) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file.
        parse: Makes of the content what it stands for; what it raises means that it is damaged.

    Raises:
        CheckpointError: There is none, or it is damaged or too new.
    """
    try:
        return parse(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; start without --resume") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises whatever the broken bytes lead to
        raise CheckpointError(f"{path}: the checkpoint is damaged: {error}") from error


def check_format(path: Path, written: int, known: int) -> None:
    """Check the version of a checkpoint.

    Raises:
        CheckpointError: It is newer than what this version reads.
    """
    if written > known:
        raise CheckpointError(f"{path}: written by a newer onnx-ghn; update")
