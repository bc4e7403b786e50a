"""`onnx-ghn init`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import (
    RUN,
    collect,
    options_of,
    output_options,
    quiet_option,
    report_options,
)
from onnx_ghn.options import InitializeOptions, RunOptions

CALIBRATE = tuple(name for name in RUN if name != "device")
"""Options that only --calibrate heeds; --device is the hypernetwork's, too."""


@click.command("init", epilog="The input is never changed unless --in-place is given.")
@click.argument("model", type=click.Path(path_type=Path))
@output_options("init")
@options_of(InitializeOptions)
@click.option(
    "--calibrate",
    "data",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DATA",
    help="Estimate the running statistics from labelled data: a folder of class/xxx.jpg, or an "
    ".npz file with x and y.",
)
@options_of(RunOptions, only=CALIBRATE)
@report_options
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    output: Path | None,
    in_place: bool,
    force: bool,
    shard_size: int | None,
    data: Path | None,
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
    onnx-ghn init model.onnx --calibrate images/
    onnx-ghn init model.onnx --plan plan.json  (from inspect --save-plan)
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in CALIBRATE
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given and data is None:
        raise click.UsageError(f"{given[0]} goes with --calibrate")
    from onnx_ghn.api import initialize
    from onnx_ghn.cli.display import show
    from onnx_ghn.cli.progress import byte_progress

    options = collect(InitializeOptions, values)
    with byte_progress("writing", enabled=not quiet) as progress:
        _, report = initialize(
            model,
            output,
            options,
            data=data,
            run=dataclasses.replace(collect(RunOptions, values), device=options.device),
            in_place=in_place,
            force=force,
            shard_size=shard_size,
            max_bytes=max_bytes,
            progress=progress,
        )
    if not quiet:
        show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.has_findings() else 0
