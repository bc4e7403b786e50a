"""`onnx-ghn rank`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_ghn.cli import EXIT_ERROR, EXIT_FINDING
from onnx_ghn.cli.options import (
    RUN,
    collect,
    data_option,
    format_option,
    no_warnings_option,
    options_of,
)
from onnx_ghn.options import RunOptions
from onnx_ghn.ranking.options import RankOptions

if TYPE_CHECKING:
    from onnx_ghn.ranking.results import Ranking, Record


@click.command(
    "rank", epilog="A run that was stopped, even by kill -9, goes on with the same --out."
)
@click.argument("models", nargs=-1, metavar="MODEL...")
@data_option
@options_of(RankOptions)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write each result there as it comes, as JSON lines; what is there is not scored again.",
)
@click.option(
    "--save-best",
    type=click.Path(path_type=Path),
    help="Write the best candidate, initialised and calibrated as it was tested.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows of the table; 0: all.",
)
@options_of(RunOptions, only=RUN)
@format_option
@click.option("--strict", is_flag=True, help="Exit 1 when a candidate failed or is flagged.")
@no_warnings_option
def command(
    models: tuple[str, ...],
    out: Path | None,
    save_best: Path | None,
    data: Path,
    top: int,
    output_format: str,
    strict: bool,
    quiet: bool,
    **values: Any,
) -> int:
    """Rank networks by how well they do without training.

    Each MODEL (file, glob, folder, or .txt list of such) gets predicted weights where it has none,
    is calibrated on the images and tested on them. The best one comes first. One that fails is
    reported at the end, and does not stop the others.

    \b
    onnx-ghn rank nets/ --data images/ --overwrite
    onnx-ghn rank --sample 1000 --data images/ --limit 512 --out ranking.jsonl
    onnx-ghn rank a.onnx b.onnx --data test.npz --score naswot --format json
    """
    from onnx_ghn.api import rank

    with _progress(enabled=not quiet) as progress:
        ranking = rank(
            models,
            data,
            collect(RankOptions, values),
            run=collect(RunOptions, values),
            out=out,
            save_best=save_best,
            progress=progress,
        )
    if output_format == "json":
        print(json.dumps(ranking.to_json(), ensure_ascii=False))
    else:
        _show(ranking, data, top or len(ranking.records))
    failed = ranking.failed
    if failed and not quiet:
        click.echo(
            f"warning: {len(failed)} of {len(ranking.records)} candidates failed, the first: "
            f"{failed[0].model}: {failed[0].error}",
            err=True,
        )
    if len(failed) == len(ranking.records):
        return EXIT_ERROR
    return EXIT_FINDING if strict and (failed or ranking.flagged) else 0


def _show(ranking: Ranking, data: Path, rows: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    table = Table("", "model", "score", "top-1", "loss", "parameters", "FLOPs", "time", "notes")
    for index, record in enumerate(ranking.records[:rows], 1):
        table.add_row(str(index), *(escape(cell) for cell in _cells(record)))
    console.print(table)
    if len(ranking.records) > rows:
        console.print(f"and {len(ranking.records) - rows:,} more: --top 0 shows all")
    settings = ranking.settings
    console.print(
        f"score: {settings['score']}; method: {settings['method']}; "
        f"{len(ranking.records):,} candidates, {len(ranking.flagged):,} flagged, "
        f"{len(ranking.failed):,} failed, {ranking.resumed:,} from an earlier run"
    )
    examples = f"{settings['limit']:,} examples" if settings["limit"] else "all examples"
    facts = f"{data}, {examples}, batches of {settings['batch_size']}"
    console.print(escape(f"data: {facts}; images of other sizes: {settings['resize']}"))


def _cells(record: Record) -> list[str]:
    notes = record.error or "; ".join(record.flags)
    return [
        record.model,
        _number(record.score),
        "" if record.top1 is None else f"{record.top1:.2%}",
        "" if record.loss is None else f"{record.loss:.4f}",
        "" if record.parameters is None else f"{record.parameters:,}",
        "" if record.flops is None else f"{record.flops / 1e6:,.2f} M",
        f"{record.seconds:.2f} s",
        notes,
    ]


def _number(score: float | None) -> str:
    if score is None:
        return ""
    return f"{score:,}" if isinstance(score, int) else f"{score:.6g}"


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr with candidates a minute and the time that is left."""
    from onnx_ghn.cli.progress import count_progress

    with count_progress("ranking", enabled=enabled) as show:
        if show is None:
            yield None
            return
        began: list[tuple[float, int]] = []

        def update(done: int, total: int) -> None:
            began[:] = began or [(time.monotonic(), done)]  # what was resumed is no speed
            start, first = began[0]
            spent = time.monotonic() - start
            rate = f"{60 * (done - first) / spent:.0f} candidates/min" if done > first else ""
            show(done, total, rate)

        yield update
