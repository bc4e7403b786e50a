"""`onnx-ghn inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import (
    collect,
    format_option,
    max_bytes_option,
    options_of,
    strict_option,
    verbose_option,
)
from onnx_ghn.options import InitializeOptions


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@options_of(InitializeOptions)
@format_option
@strict_option
@max_bytes_option
@verbose_option
def command(
    model: Path,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    verbose: bool,
    **values: Any,
) -> int:
    """Show what init would do to each float tensor of MODEL, and why. Writes nothing.

    Takes the options of init. Works without the bytes of the weights.

    \b
    onnx-ghn inspect model.onnx -v
    onnx-ghn inspect model.onnx --format json | python -m json.tool
    """
    from onnx_ghn.api import inspect
    from onnx_ghn.cli.display import show, show_warnings

    report = inspect(model, collect(InitializeOptions, values), max_bytes=max_bytes)
    show_warnings(report)
    show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.has_findings() else 0
