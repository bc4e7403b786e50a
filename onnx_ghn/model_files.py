"""From a path or a model in memory to a loaded model, and back to a file: what commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_ghn import model_io
from onnx_ghn.errors import ModelError, UnsupportedOperatorError

ModelLike = str | os.PathLike[str] | ir.Model


def load(model: ModelLike, max_bytes: int | None) -> ir.Model:
    """The model at a path, or the one in memory itself.

    Raises:
        ModelError: It can't be read.
    """
    if isinstance(model, ir.Model):
        return model
    return model_io.load(model, max_bytes=max_bytes)


def name_of(model: ModelLike) -> str:
    """What a report calls the model: its path, or the name of its graph."""
    return model.graph.name or "" if isinstance(model, ir.Model) else str(model)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors on a node, a tensor or an input say of which model."""
    try:
        yield
    except (ModelError, UnsupportedOperatorError) as error:
        if not name or name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


@dataclass(frozen=True)
class Destination:
    """Where a result goes, checked before any work is done.

    Attributes:
        source: The file that the model comes from; None for a model in memory.
        target: The file to write; None where a model in memory is not written.
        in_place: Whether that is the source itself.
        force: Whether another file may be overwritten.
    """

    source: Path | None
    target: Path | None
    in_place: bool
    force: bool

    @classmethod
    def of(
        cls,
        model: ModelLike,
        output: str | os.PathLike[str] | None,
        suffix: str,
        *,
        in_place: bool,
        force: bool,
    ) -> Destination:
        """Choose the output: `output`, the model itself, or `<stem>.<suffix>.onnx` beside it.

        Raises:
            OutputError: It may not be written.
        """
        source = None if isinstance(model, ir.Model) else Path(model)
        target = None if output is None else Path(output)
        if target is None and source is not None:
            target = source if in_place else model_io.default_output(source, suffix)
        if target is not None:
            model_io.check_output(target, source=source, force=force, in_place=in_place)
        return cls(source, target, in_place, force)

    def save(
        self,
        model: ir.Model,
        *,
        shard_size: int | None = None,
        skeleton: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the model, if it is to be written; see `model_io.save`.

        Raises:
            ModelError: A tensor has no value.
            OutputError: It can't be written; nothing is left behind.
        """
        if self.target is not None:
            model_io.save(
                model,
                self.target,
                source=self.source,
                force=self.force,
                in_place=self.in_place,
                shard_size=shard_size,
                skeleton=skeleton,
                progress=progress,
            )
