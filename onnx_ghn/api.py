"""The Python interface: a path or an `ir.Model` in, a model and a report out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from onnx_ghn import model_io
from onnx_ghn.options import InitializeOptions
from onnx_ghn.report import Report

ModelLike = str | os.PathLike[str] | ir.Model


def initialize(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    options: InitializeOptions | None = None,
    *,
    in_place: bool = False,
    force: bool = False,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Model, Report]:
    """Initialise the learnable weights of a model.

    Args:
        model: A path, or a model in memory, which is changed in place and not written unless
            `output` is given.
        output: Where to write the result; `<stem>.init.onnx` beside the model where None.
        options: Method, seed and selection.
        in_place: Overwrite the model's own file.
        force: Overwrite an output that exists.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the bytes written so far and in all.

    Returns:
        The model, its new tensors still lazy, and the report.

    Raises:
        ModelError: The model can't be read, or a tensor can't be set.
        ArchiveError: The hypernetwork archive can't be loaded.
        OutputError: The output can't be written; nothing is left behind.
        OptionError: Options contradict each other.
    """
    from onnx_ghn.passes.initialize import Initialize

    start = time.perf_counter()
    source, loaded = _load(model, max_bytes)
    target = _target(source, output, in_place=in_place)
    if target is not None:
        model_io.check_output(target, source=source, force=force, in_place=in_place)
    parsed = time.perf_counter()
    initialise = Initialize(options)
    initialise(loaded)
    report = initialise.report
    assert report is not None
    report.seconds["read"] += parsed - start
    if source is not None:
        report.model = str(model)
    if target is not None:
        written = time.perf_counter()
        model_io.save(
            loaded, target, source=source, force=force, in_place=in_place, progress=progress
        )
        report.seconds["write"] = time.perf_counter() - written
    return loaded, report


def inspect(
    model: ModelLike, options: InitializeOptions | None = None, *, max_bytes: int | None = None
) -> Report:
    """Say what `initialize` would do to each float tensor, and why. Nothing is changed.

    Args:
        model: A path, or a model in memory.
        options: Method and selection.
        max_bytes: Refuse a model whose tensors take more.

    Raises:
        ModelError: The model can't be read, or a tensor could be neither set nor kept.
        ArchiveError: The hypernetwork archive can't be read.
    """
    from onnx_ghn.hypernet.archive import read_info
    from onnx_ghn.plan import describe, make_plan, needs_archive
    from onnx_ghn.read.reading import read_model

    options = options or InitializeOptions()
    source, loaded = _load(model, max_bytes)
    reading = read_model(loaded)
    archive = read_info(options.hypernet) if needs_archive(options) else None
    name = str(model) if source is not None else loaded.graph.name or ""
    return describe(reading, make_plan(reading, options, archive), name)


def _load(model: ModelLike, max_bytes: int | None) -> tuple[Path | None, ir.Model]:
    if isinstance(model, ir.Model):
        return None, model
    source = Path(model)
    return source, model_io.load(source, max_bytes=max_bytes)


def _target(
    source: Path | None, output: str | os.PathLike[str] | None, *, in_place: bool
) -> Path | None:
    """Where the result goes; None where a model in memory is not written."""
    if output is not None:
        return Path(output)
    if source is None:
        return None
    return source if in_place else model_io.default_output(source)
