"""`onnx-ghn strip`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import (
    collect,
    options_of,
    output_options,
    quiet_option,
    report_options,
)
from onnx_ghn.options import InitializeOptions

SELECTION = ("include", "exclude", "roles", "plan")
"""Options of `InitializeOptions` that say which tensors are learnable weights."""


@click.command("strip", epilog="The input is never changed unless --in-place is given.")
@click.argument("model", type=click.Path(path_type=Path))
@output_options("skeleton")
@options_of(InitializeOptions, only=SELECTION)
@report_options
@quiet_option
def command(
    model: Path,
    output: Path | None,
    in_place: bool,
    force: bool,
    shard_size: int | None,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> int:
    """Take the learnable weights out of MODEL and write the skeleton: the inverse of init.

    What init would set is emptied and marked with its role; all else stays: shapes, names,
    constants, running statistics. The architecture can be shared without the weights, and init
    makes of the skeleton what it makes of the model, bit for bit.

    \b
    onnx-ghn strip model.onnx                   writes model.skeleton.onnx
    onnx-ghn strip model.onnx -o arch.onnx --exclude 'head.*'
    onnx-ghn init arch.onnx                     fills it again
    """
    from onnx_ghn.api import strip
    from onnx_ghn.cli.display import show
    from onnx_ghn.cli.progress import byte_progress

    with byte_progress("writing", enabled=not quiet) as progress:
        _, report = strip(
            model,
            output,
            collect(InitializeOptions, values),
            in_place=in_place,
            force=force,
            shard_size=shard_size,
            max_bytes=max_bytes,
            progress=progress,
        )
    if not quiet:
        show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.has_findings() else 0
