"""Where a result may be written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnx_ghn.errors import OutputError


def default_output(path: str | os.PathLike[str], suffix: str = "init") -> Path:
    """`<stem>.<suffix>.onnx` beside the model."""
    path = Path(path)
    return path.parent / f"{path.stem}.{suffix}.onnx"


def check_output(
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
    in_place: bool = False,
) -> None:
    """Check that `path` may be written, before any work is done.

    Args:
        path: The output.
        source: The model it is made from, if that is a file.
        force: Whether another file may be overwritten.
        in_place: Whether `source` itself is to be overwritten.

    Raises:
        OutputError: It may not, with the reason and the remedy.
    """
    path = Path(path)
    folder = path.parent
    try:
        linked = path.is_symlink()
    except OSError as error:  # a name that is too long, say
        raise OutputError(f"can't write {path}: {error.strerror}") from error
    if linked:
        raise OutputError(f"{path} is a link: give the path of the file itself")
    if not folder.is_dir():
        raise OutputError(f"can't write {path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"can't write {path}: no permission to write into {folder}")
    is_source = source is not None and same_file(path, Path(source))
    if in_place and not is_source:
        raise OutputError(f"--in-place overwrites {source}: it takes no other output ({path})")
    if is_source and not in_place:
        raise OutputError(f"{path} is the input: give another output, or --in-place")
    # Another writer may take the file away, or put one there, between two looks at it.
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"can't write {path}: it exists and is no regular file")
    if not force and not in_place:
        raise OutputError(f"{path} exists: --force overwrites it")
    if not os.access(path, os.W_OK) and _is_still(path, status):
        raise OutputError(f"can't write {path}: it is write-protected")


def _is_still(path: Path, status: os.stat_result) -> bool:
    """Whether the file at `path` is the one that had this status."""
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_ctime_ns) == (status.st_ino, status.st_ctime_ns)


def same_file(first: Path, second: Path) -> bool:
    """Whether both are one file, by whatever name; equal paths where one does not exist."""
    try:
        return first.samefile(second)
    except OSError:
        return Path(os.path.abspath(first)) == Path(os.path.abspath(second))  # noqa: PTH100
