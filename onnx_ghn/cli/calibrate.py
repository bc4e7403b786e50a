"""`onnx-ghn calibrate`."""

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
from onnx_ghn.options import RunOptions


@click.command("calibrate", epilog="The input is never changed unless --in-place is given.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    help="Labelled data: a folder of class/xxx.jpg, or an .npz file with x and y. Labels are not "
    "used.  [default: seeded noise]",
)
@output_options("calibrated")
@click.option(
    "--folded",
    is_flag=True,
    help="Also scale each Conv into which an exporter may have folded a BatchNormalization. For "
    "fresh weights: it changes what trained ones compute.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the order of the examples, and of the noise.",
)
@options_of(RunOptions)
@report_options
@quiet_option
def command(
    model: Path,
    data: Path | None,
    output: Path | None,
    in_place: bool,
    force: bool,
    shard_size: int | None,
    folded: bool,
    seed: int,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> int:
    """Estimate the running statistics of the BatchNormalization layers of MODEL anew.

    They become averages over batches of the data, as torch computes them in train mode with
    momentum=None. Weights stay as they are.

    \b
    onnx-ghn calibrate model.onnx --data images/
    onnx-ghn calibrate model.onnx --data train.npz --batch-size 128 -o calibrated.onnx
    """
    from onnx_ghn.api import calibrate
    from onnx_ghn.cli.display import show
    from onnx_ghn.cli.progress import count_and_byte_progress

    bars = count_and_byte_progress("calibrating", "writing", enabled=not quiet)
    with bars as (progress, save_progress):
        _, report = calibrate(
            model,
            output,
            data,
            collect(RunOptions, values),
            folded=folded,
            seed=seed,
            in_place=in_place,
            force=force,
            shard_size=shard_size,
            max_bytes=max_bytes,
            progress=progress,
            save_progress=save_progress,
        )
    if not quiet:
        show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.warnings else 0
