"""Reports as tables on a terminal, and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnx_ghn.report import Outcome, Report, Status

STYLES = {
    Status.PREDICTED: "green",
    Status.FALLBACK: "cyan",
    Status.CALIBRATED: "magenta",
    Status.KEPT: "dim",
    Status.REMOVED: "yellow",
}


def show(report: Report, *, output_format: str, verbose: bool) -> None:
    """Print a report to stdout, one JSON object or tables, and its warnings to stderr."""
    show_warnings(report.warnings)
    if output_format == "json":
        print(json.dumps(report.to_json(), ensure_ascii=False))
        return
    # Wide enough for a report in a file or a pipe, where there is no terminal to ask.
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(f"[bold]{escape(report.model)}[/]", soft_wrap=True)
    console.print(_by_role(report))
    if verbose:
        console.print(_by_tensor(report))
    decision = report.decision
    if decision:
        console.print(f"method: [bold]{decision['method']}[/], {escape(str(decision['reason']))}")
    for fact in data_facts(report.data) if report.data else ():
        console.print(escape(fact), soft_wrap=True)
    for change in report.changes:
        console.print(f"changed: {escape(change)}")
    if report.seconds:
        stages = " · ".join(f"{stage} {value:.2f} s" for stage, value in report.seconds.items())
        console.print(f"time: {stages}")


def show_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to stderr."""
    console = Console(stderr=True, highlight=False)
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def data_facts(fed: dict[str, Any]) -> list[str]:
    """Lines on what a model was fed; `fed` as `Batches.to_json` gives it."""
    shape = " x ".join(map(str, fed["shape"]))
    resize = f", other sizes: {fed['resize']}" if fed["resize"] else ""
    mean = ", ".join(map(str, fed["mean"])) or "0"
    std = ", ".join(map(str, fed["std"])) or "1"
    form = " ".join(filter(None, (fed["dtype"], fed["layout"], shape)))
    return [
        f"data: {fed['data']}, {fed['examples']:,} examples, {fed['classes']} classes",
        f"input: {form}{resize}, batches of {fed['batch_size']}",
        f"normalisation: mean {mean}, std {std} ({fed['normalisation']})",
    ]


def _by_role(report: Report) -> Table:
    """Tensors and elements by what happened to them, method and role."""
    groups: dict[tuple[Status, str, str], list[Outcome]] = defaultdict(list)
    for outcome in report.outcomes:
        groups[outcome.status, outcome.role, outcome.method or ""].append(outcome)
    table = Table()
    for column in ("status", "role", "method"):
        table.add_column(column)
    table.add_column("tensors", justify="right")
    table.add_column("elements", justify="right")
    order = list(Status)
    for (status, role, method), outcomes in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1:])
    ):
        elements = sum(outcome.elements for outcome in outcomes)
        table.add_row(
            f"[{STYLES[status]}]{status}[/]", role, method, f"{len(outcomes)}", f"{elements:,}"
        )
    return table


def _by_tensor(report: Report) -> Table:
    table = Table()
    for column in ("tensor", "shape", "role", "status", "reason"):
        table.add_column(column, overflow="fold")
    for outcome in report.outcomes:
        table.add_row(
            escape(outcome.name),
            "x".join(map(str, outcome.shape)) or "scalar",
            outcome.role,
            f"[{STYLES[outcome.status]}]{outcome.status}[/]",
            escape(outcome.reason),
        )
    return table
