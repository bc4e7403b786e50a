"""`onnx-ghn init`."""

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
    quiet_option,
    strict_option,
    verbose_option,
)
from onnx_ghn.options import InitializeOptions


@click.command("init", epilog="The input is never changed unless --in-place is given.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="Where to write the result.  [default: <stem>.init.onnx beside the model]",
)
@click.option("--in-place", is_flag=True, help="Overwrite the model itself.")
@click.option("--force", is_flag=True, help="Overwrite an output that exists.")
@options_of(InitializeOptions)
@format_option
@strict_option
@max_bytes_option
@quiet_option
@verbose_option
def command(
    model: Path,
    output: Path | None,
    in_place: bool,
    force: bool,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> int:
    """Initialise the learnable weights of MODEL and write the result.

    Each learnable tensor is predicted by the hypernetwork or set by a classical initialiser
    that suits its role; everything else stays as it is. The table says which, and -v why.

    \b
    onnx-ghn init model.onnx
    onnx-ghn init skeleton.onnx -o full.onnx --method ghn --seed 7
    onnx-ghn init model.onnx --missing-only --format json
    """
    from onnx_ghn.api import initialize
    from onnx_ghn.cli.display import show, show_warnings
    from onnx_ghn.cli.progress import byte_progress

    options = collect(InitializeOptions, values)
    with byte_progress("writing", enabled=not quiet) as progress:
        _, report = initialize(
            model,
            output,
            options,
            in_place=in_place,
            force=force,
            max_bytes=max_bytes,
            progress=progress,
        )
    if not quiet:
        show_warnings(report)
        show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.has_findings() else 0
