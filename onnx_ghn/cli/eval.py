"""`onnx-ghn eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import (
    FILL,
    collect,
    data_option,
    format_option,
    max_bytes_option,
    no_warnings_option,
    options_of,
    strict_option,
)
from onnx_ghn.options import InitializeOptions, RunOptions

if TYPE_CHECKING:
    from onnx_ghn.evaluation import Evaluation, Interval


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--batch-statistics",
    is_flag=True,
    help="Let each BatchNormalization use the statistics of the batch: how the authors of the GHN "
    "papers test networks with predicted parameters.",
)
@options_of(RunOptions)
@options_of(InitializeOptions, only=FILL)
@format_option
@strict_option
@max_bytes_option
@no_warnings_option
def command(
    model: Path,
    data: Path,
    batch_statistics: bool,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    quiet: bool,
    **values: Any,
) -> int:
    """Test how well MODEL classifies labelled data: top-1, top-5, loss, images per second.

    Intervals hold 95 %. Learnable tensors without a value, and only those, are initialised first
    (--method, --seed, --hypernet); nothing is written.

    \b
    onnx-ghn eval model.onnx --data images/
    onnx-ghn eval model.onnx --data test.npz --batch-statistics --format json
    """
    from onnx_ghn.api import evaluate
    from onnx_ghn.cli.display import show_warnings
    from onnx_ghn.cli.progress import count_progress

    with count_progress("evaluating", enabled=not quiet) as progress:
        evaluation = evaluate(
            model,
            data,
            collect(RunOptions, values),
            batch_statistics=batch_statistics,
            initialize=collect(InitializeOptions, values, FILL),
            max_bytes=max_bytes,
            progress=progress,
        )
    if not quiet:
        show_warnings(evaluation.warnings)
    if output_format == "json":
        print(json.dumps(evaluation.to_json(), ensure_ascii=False))
    else:
        _show(evaluation)
    return EXIT_FINDING if strict and evaluation.warnings else 0


def _show(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from onnx_ghn.cli.display import data_facts

    loss = "not finite" if evaluation.loss is None else f"{evaluation.loss:.4f}"
    table = Table("", "value", "95 % interval")
    for name, share, interval in (
        ("top-1", evaluation.top1, evaluation.top1_interval),
        ("top-5", evaluation.top5, evaluation.top5_interval),
    ):
        table.add_row(name, f"{share:.2%}", _interval(interval, ".2%"))
    table.add_row("loss", loss, _interval(evaluation.loss_interval, ".4f"))
    table.add_row("images", f"{evaluation.n:,}", "")
    table.add_row("images/s", f"{evaluation.images_per_second:,.1f}", "")
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(f"[bold]{escape(evaluation.model)}[/]", soft_wrap=True)
    console.print(table)
    statistics = "of the batch" if evaluation.batch_statistics else "stored"
    facts = (
        *data_facts(evaluation.input),
        f"statistics: {statistics}; scores: {evaluation.scores} of {evaluation.classes} classes",
        f"provider: {evaluation.provider}, {evaluation.threads} thread(s)",
    )
    for fact in facts:
        console.print(escape(fact), soft_wrap=True)


def _interval(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
