"""Progress on stderr for long work; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Progress = Callable[[int, int], None]
"""Called with what is done (bytes, examples) and with all of it."""


class NotedProgress(Protocol):
    """A `Progress` that also takes a note."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """Show it."""


@contextmanager
def byte_progress(description: str, *, enabled: bool) -> Iterator[Progress | None]:
    """A progress bar in bytes, yielded as a callback; None where nobody would see it."""
    if not _is_seen(enabled=enabled):
        yield None
        return
    bar, update = _byte_bar(description)
    with bar:
        yield update


@contextmanager
def count_progress(description: str, *, enabled: bool) -> Iterator[NotedProgress | None]:
    """A progress bar in whole things, yielded as a callback; None where nobody would see it.

    The callback's third argument, a few words on what was measured, stands at the end.
    """
    if not _is_seen(enabled=enabled):
        yield None
        return
    bar, update = _count_bar(description)
    with bar:
        yield update


@contextmanager
def count_and_byte_progress(
    counting: str, writing: str, *, enabled: bool
) -> Iterator[tuple[NotedProgress | None, Progress | None]]:
    """Both bars for work in two stages, one below the other, yielded as two callbacks."""
    if not _is_seen(enabled=enabled):
        yield None, None
        return
    from rich.console import Console, Group
    from rich.live import Live

    first, count = _count_bar(counting)
    second, count_bytes = _byte_bar(writing)
    # A terminal has one live display: the bars are drawn by it and not each by its own.
    with Live(Group(first, second), console=Console(stderr=True), transient=True):
        yield count, count_bytes


def _is_seen(*, enabled: bool) -> bool:
    return enabled and sys.stderr.isatty()


def _byte_bar(description: str) -> tuple[Bar, Progress]:
    """A bar that appears with the first bytes, and what moves it."""
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
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=None, start=False, visible=False)

    def update(done_bytes: int, total_bytes: int) -> None:
        bar.start_task(task)
        bar.update(task, completed=done_bytes, total=total_bytes, visible=True)

    return bar, update


def _count_bar(description: str) -> tuple[Bar, NotedProgress]:
    """A bar of whole things and what moves it."""
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
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
        bar.update(task, completed=done, total=total, note=note)

    return bar, update
