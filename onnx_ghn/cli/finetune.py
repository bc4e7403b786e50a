"""`onnx-ghn finetune`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnx_ghn.cli import EXIT_FINDING, EXIT_INTERRUPTED
from onnx_ghn.cli.options import (
    FILL,
    RUN,
    collect,
    data_option,
    format_option,
    max_bytes_option,
    no_warnings_option,
    options_of,
    strict_option,
)
from onnx_ghn.finetuning.options import FinetuneOptions, options_from_json
from onnx_ghn.options import InitializeOptions, RunOptions

if TYPE_CHECKING:
    from onnx_ghn.finetuning.result import FinetuneResult
    from onnx_ghn.finetuning.trainer import Show


@click.command("finetune", epilog="A run that was stopped, even by kill -9, goes on with --resume.")
@click.argument("model", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--val",
    type=click.Path(path_type=Path),
    default=None,
    help="Labelled data for validation.  [default: a share of --data, see --hold-out]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="Where to write the result.  [default: <stem>.finetuned.onnx beside the model]",
)
@options_of(FinetuneOptions)
@options_of(RunOptions, only=RUN)
@options_of(InitializeOptions, only=FILL)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where checkpoint, log.jsonl and loss.svg go.  [default: <stem>.finetune beside the "
    "output]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, with its options.")
@click.option("--force", is_flag=True, help="Overwrite an output and a run that exist.")
@format_option
@strict_option
@max_bytes_option
@no_warnings_option
@click.pass_context
def command(
    context: click.Context,
    model: Path,
    data: Path,
    val: Path | None,
    output: Path | None,
    folder: Path | None,
    resume: bool,
    force: bool,
    output_format: str,
    strict: bool,
    max_bytes: int | None,
    quiet: bool,
    **values: Any,
) -> int:
    """Train MODEL on labelled data by gradient descent, and write it as ONNX.

    Trained in torch; the file keeps its nodes and the names, order and types of its tensors.
    Running statistics of BatchNormalization move with the data. Learnable tensors without a
    value, and only those, are initialised first (--method, --seed, --hypernet).

    \b
    onnx-ghn finetune model.onnx --data images/ --epochs 20 -o tuned.onnx
    onnx-ghn finetune model.onnx --data train.npz --val test.npz --steps 2000 --lr 0.05
    onnx-ghn finetune model.onnx --data images/ --only 'fc.*' --optimizer adamw
    torchrun --nproc-per-node 2 -m onnx_ghn finetune model.onnx --data images/
    """
    from onnx_ghn import model_io
    from onnx_ghn.cli.display import show_warnings
    from onnx_ghn.finetuning.checkpoint import RunFiles
    from onnx_ghn.finetuning.entry import finetune

    output = output or model_io.default_output(model, "finetuned")
    folder = folder or RunFiles.beside(output).folder
    of_run = {name: values[name] for name in RUN}  # `threads` is ours, those of torch
    options, run, seed = (
        _resumed(context, folder, values)
        if resume
        else (collect(FinetuneOptions, values), collect(RunOptions, of_run), values["seed"])
    )
    initialize = dataclasses.replace(collect(InitializeOptions, values, FILL), seed=seed)
    try:
        with _progress(enabled=not quiet) as show:
            result = finetune(
                model,
                data,
                output,
                options,
                val=val,
                run=run,
                initialize=initialize,
                folder=folder,
                resume=resume,
                force=force,
                max_bytes=max_bytes,
                progress=show,
            )
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with --resume ({folder})", err=True)
        return EXIT_INTERRUPTED
    if not quiet:
        show_warnings(result.warnings)
    if output_format == "json":
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        _show(result)
    return EXIT_FINDING if strict and result.warnings else 0


def _resumed(
    context: click.Context, folder: Path, values: dict[str, Any]
) -> tuple[FinetuneOptions, RunOptions, int]:
    """The options of the run in the folder, apart from those that are given now."""
    from onnx_ghn.finetuning.checkpoint import RunFiles, load_checkpoint

    about = load_checkpoint(RunFiles(folder).state).about
    default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) not in default
    }
    entries = dict(about["options"])
    # Of each pair only one can be given: the new one replaces the other.
    for pair in (("steps", "epochs"), ("validate_at", "validate_every")):
        if any(name in given for name in pair):
            entries |= {name: values[name] for name in pair}
    names = {field.name for field in dataclasses.fields(FinetuneOptions)}
    entries |= {name: given[name] for name in names & given.keys()}
    run = about["run"] | {name: given[name] for name in RUN if name in given}
    return (
        options_from_json(FinetuneOptions, entries),
        options_from_json(RunOptions, run),
        given.get("seed", about["seed"]),
    )


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Show | None]:
    """A progress bar on stderr: steps, time left, loss, validation; none where nobody sees it."""
    from onnx_ghn.cli.progress import count_progress

    with count_progress("training", enabled=enabled) as update:
        if update is None:
            yield None
            return
        newest: dict[str, float] = {}

        def show(done: int, total: int, measured: dict[str, float]) -> None:
            newest.update(measured)
            update(done, total, _measured(newest))

        yield show


def _measured(measured: dict[str, float]) -> str:
    parts = []
    if "loss" in measured:
        parts.append(f"loss {measured['loss']:.4f}")
    if "top1" in measured:
        parts.append(f"top-1 {measured['top1']:.2%}")
    return "  ".join(parts)


def _show(result: FinetuneResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from onnx_ghn.cli.display import data_facts

    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(f"[bold]{escape(result.name)}[/] to {escape(str(result.output))}", soft_wrap=True)
    if result.validations:
        table = Table("step", "top-1", "top-5", "loss")
        best = max(result.validations, key=lambda entry: (entry.top1, -(entry.loss or 0.0)))
        shown = (result.validations[0], best, result.validations[-1])
        for entry in dict.fromkeys(shown):
            loss = "not finite" if entry.loss is None else f"{entry.loss:.4f}"
            table.add_row(f"{entry.step:,}", f"{entry.top1:.2%}", f"{entry.top5:.2%}", loss)
        console.print(table)
    losses = result.losses
    course = f", loss {losses[0]:.4f} to {losses[-1]:.4f}" if losses else ""
    early = ", stopped early" if result.stopped_early else ""
    facts = [
        f"{result.steps:,} steps{course}{early}; weights of step {result.written:,} written",
        f"trained: {len(result.trained)} tensors ({result.elements:,} values), "
        f"{len(result.frozen)} frozen, {len(result.statistics)} running statistics",
        *data_facts(result.input),
        f"device: {result.device}, {result.images_per_second:,.0f} images/s",
        f"log: {result.log}, picture: {result.picture}",
        *(f"changed: {change}" for change in result.changes),
    ]
    for fact in facts:
        console.print(escape(fact), soft_wrap=True)
