"""Progress on stderr for long work; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Progress = Callable[[int, int], None]
"""Called with what is done (bytes, examples) and with all of it."""


class NotedProgress(Protocol):
    """A `Progress` that also takes a note."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Show it."""


@contextmanager
def byte_progress(description: str, *, enabled: bool) -> Iterator[Progress | None]:
    """A progress bar in bytes, yielded as a callback; None where nobody would see it."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, start=False)

        def update(done_bytes: int, total_bytes: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield update


@contextmanager
def count_progress(description: str, *, enabled: bool) -> Iterator[NotedProgress | None]:
    """A progress bar in whole things, yielded as a callback; None where nobody would see it.

    The callback's third argument, a few words on what was measured, stands at the end.
    """
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update
