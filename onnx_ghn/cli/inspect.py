"""`onnx-ghn inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import (
    collect,
    options_of,
    report_options,
)
from onnx_ghn.options import InitializeOptions


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@options_of(InitializeOptions)
@click.option(
    "--save-plan",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write what would be done as JSON, to be edited and given to init --plan.",
)
@click.option(
    "--why",
    default=None,
    metavar="NAME",
    help="Show how the reader came to its verdict on this tensor, and where it is used.",
)
@report_options
def command(
    model: Path,
    save_plan: Path | None,
    why: str | None,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    verbose: bool,
    **values: Any,
) -> int:
    """Show what init would do to each float tensor of MODEL, and why. MODEL is not changed.

    Takes the options of init. Works without the bytes of the weights.

    \b
    onnx-ghn inspect model.onnx -v
    onnx-ghn inspect model.onnx --format json | python -m json.tool
    onnx-ghn inspect model.onnx --why layer1.0.conv1.weight
    onnx-ghn inspect model.onnx --save-plan plan.json
    """
    options = collect(InitializeOptions, values)
    if why is not None:
        if save_plan is not None:
            raise click.UsageError("--why shows one tensor: it does not go with --save-plan")
        from onnx_ghn.api import explain
        from onnx_ghn.cli.why import show_explanation

        show_explanation(
            explain(model, why, options, max_bytes=max_bytes), output_format=output_format
        )
        return 0
    from onnx_ghn.api import inspect
    from onnx_ghn.cli.display import show

    report = inspect(model, options, save_plan=save_plan, max_bytes=max_bytes)
    show(report, output_format=output_format, verbose=verbose)
    return EXIT_FINDING if strict and report.has_findings() else 0
