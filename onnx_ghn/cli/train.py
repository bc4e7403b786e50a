"""`onnx-ghn train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_ghn.cli import EXIT_INTERRUPTED
from onnx_ghn.cli.options import collect, options_of, quiet_option
from onnx_ghn.train.options import Budget, TrainOptions

MOST_PROCESSES = 8


@click.command("train", epilog="A run that was stopped, even by kill -9, goes on with --resume.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Labelled images: a folder of class/xxx.jpg, or an .npz file with x and y.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run's files."
)
@click.option("--minutes", type=float, help="Train for so many minutes, earlier parts included.")
@click.option("--steps", type=int, help="Train for so many updates, earlier parts included.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its own options.")
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Start from the weights of an archive, or from the run in a folder.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Train on the .onnx files in a folder in place of sampled architectures.",
)
@options_of(TrainOptions)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that share the weights, on a CPU or on one GPU.  [default: one for each core, "
    "at most 8; one on a GPU]",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:N."
)
@click.option("--tensorboard", is_flag=True, help="Log for TensorBoard too, in OUT/tensorboard.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path),
    help="File to which a line on this run's cost is appended.  [default: OUT/ledger.jsonl]",
)
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    data: Path,
    out: Path,
    minutes: float | None,
    steps: int | None,
    resume: bool,
    start: Path | None,
    models: Path | None,
    processes: int | None,
    device: str,
    tensorboard: bool,
    ledger: Path | None,
    quiet: bool,
    **values: Any,
) -> int:
    """Train a hypernetwork on labelled images, and write it as an archive.

    Networks are drawn at random; the hypernetwork learns to predict weights with which they
    classify the images. OUT gets hypernet.pt, the archive for --hypernet of other commands;
    log.jsonl; and state.pt, from which --resume goes on.

    \b
    onnx-ghn train --data images/ --out run --minutes 60
    onnx-ghn train --data images/ --out run --minutes 120 --resume
    torchrun --nproc-per-node 2 -m onnx_ghn train --data images/ --out run --minutes 60
    """
    budget = Budget(minutes, steps)
    if resume and start is not None:
        raise click.UsageError("--resume goes on with the run in --out: leave --from out")
    from onnx_ghn.train.ledger import append_to_ledger
    from onnx_ghn.train.loop import train
    from onnx_ghn.train.monitor import Interrupted
    from onnx_ghn.train.setup import new_run, resumed_run

    options = collect(TrainOptions, values)
    if resume:
        changes = {name: getattr(options, name) for name in _given(context)}
        setup = resumed_run(data, out, budget, changes, corpus=models, device=device)
    else:
        setup = new_run(data, out, budget, options, start=start, corpus=models, device=device)
    setup.tensorboard = tensorboard
    interrupted = False
    with _progress(enabled=not quiet) as show:
        try:
            monitor = train(setup, show, processes=processes or _processes(device))
        except Interrupted as stopped:
            interrupted, monitor = True, stopped.monitor
    if monitor is None:
        return 0
    append_to_ledger(setup.run, monitor, device, ledger)
    if interrupted:
        click.echo(f"stopped; go on with --resume ({setup.run.paths.checkpoint})", err=True)
        return EXIT_INTERRUPTED
    click.echo(f"{setup.run.paths.archive}: {_sentence(monitor.held_out)}")
    return 0


def _given(context: click.Context) -> list[str]:
    """Training options that the user gave."""
    names = [field.name for field in dataclasses.fields(TrainOptions)]
    default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return [name for name in names if context.get_parameter_source(name) not in default]


def _processes(device: str) -> int:
    if device != "cpu":
        return 1
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


def _sentence(held_out: dict[str, Any]) -> str:
    return (
        f"mean accuracy {held_out['mean']:.3f} (min {held_out['min']:.3f}, max "
        f"{held_out['max']:.3f}) on {held_out['architectures']} held-out architectures of the "
        f"{held_out['space']!r} space at {held_out['side']} pixels, untrained"
    )


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Any]:
    """A progress bar on stderr: time left, throughput, loss, accuracy, held-out mean."""
    if not enabled:
        yield lambda progress, measured: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[measured]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=1.0, measured="reading data")

        def show(progress: float, measured: dict[str, Any]) -> None:
            bar.update(task, completed=progress, measured=_measured(measured))

        yield show


def _measured(measured: dict[str, Any]) -> str:
    parts = [f"{measured.get('architectures_per_second', 0.0):.1f} architectures/s"]
    for name, label in (("loss", "loss"), ("accuracy", "accuracy"), ("val", "val")):
        if measured.get(name) is not None:
            parts.append(f"{label} {measured[name]:.3f}")
    return "  ".join(parts)
