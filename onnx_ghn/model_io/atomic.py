"""A file that appears under its name complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

SETTLE_BYTES = 256 << 20
"""Written bytes that may wait in memory for the disk."""


class AtomicFile:
    """A file being written in `folder`, without its name until `publish`.

    On Linux it has no name at all (O_TMPFILE), so that even `kill -9` leaves nothing behind;
    elsewhere a hidden temporary name. Left as a context manager without `publish`, it is gone.
    """

    def __init__(self, folder: Path) -> None:
        """Start an empty file.

        Raises:
            OSError: The folder can't be written.
        """
        self._folder = folder
        self._temporary: Path | None = None
        # 0o666 less the umask, as `open` does it; tempfile would give 0o600.
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        except (OSError, AttributeError):
            self._temporary = folder / f".onnx-ghn-{secrets.token_hex(8)}.tmp"
            descriptor = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b")
        self._settled = 0
        self._settling: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._settling is not None:
            self._settling.exception()  # waits: the descriptor is in use
        # A failing flush of what is thrown away anyhow must not hide the reason for it.
        with contextlib.suppress(OSError):
            self.file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def settle(self) -> None:
        """Bring what was written to the disk, once it is much, and out of the page cache.

        A file larger than memory would push everything else out of it, and the pages that are
        free again are the fastest to write to next. The disk works while the next tensors are
        made, so at most twice `SETTLE_BYTES` wait for it.

        Raises:
            OSError: What was to be brought there before could not be.
        """
        end = self.file.tell()
        if end - self._settled < SETTLE_BYTES:
            return
        self.file.flush()
        self._wait()
        pool = ThreadPoolExecutor(1)
        self._settling = pool.submit(_settle, self.file.fileno(), end)
        pool.shutdown(wait=False)  # its thread ends with this one task
        self._settled = end

    def sync(self) -> None:
        """Flush everything to the disk."""
        self._wait()
        self.file.flush()
        os.fsync(self.file.fileno())

    def _wait(self) -> None:
        """Until the disk has what it was given; an error of it is raised here."""
        if self._settling is not None:
            self._settling.result()

    def publish(self, path: Path, *, overwrite: bool) -> None:
        """Give the complete file its name. Never follows a link that stands there.

        Args:
            path: The name, in the same folder.
            overwrite: Whether to replace what has this name, keeping its permissions.

        Raises:
            FileExistsError: The name is taken.
            OSError: It can't be done.
        """
        if overwrite:
            # Somebody else may take it away at any moment: one look, not two.
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    os.fchmod(self.file.fileno(), status.st_mode & 0o777)
        if self._temporary is None and not overwrite:
            self._link(path)
            return
        if self._temporary is None:
            # There is no call that links over an existing name: a hidden one, then a rename.
            self._temporary = self._folder / f".onnx-ghn-{secrets.token_hex(8)}.tmp"
            self._link(self._temporary)
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(f"{path} exists")
        self._temporary.replace(path)
        self._temporary = None

    def _link(self, path: Path) -> None:
        # A directory descriptor makes Python call linkat, the only way to follow /proc/self/fd.
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.link(
                f"/proc/self/fd/{self.file.fileno()}",
                path.name,
                dst_dir_fd=folder,
                follow_symlinks=True,
            )
        finally:
            os.close(folder)


def _settle(descriptor: int, end: int) -> None:
    """Flush the file to the disk and take its first `end` bytes out of the page cache."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)


def write_whole(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a small file that is there complete, or not at all.

    Raises:
        FileExistsError: The name is taken.
        OSError: It can't be written.
    """
    with AtomicFile(path.parent) as output:
        output.file.write(content)
        output.sync()
        output.publish(path, overwrite=overwrite)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes that publish several files into `folder` out for a moment.

    The lock lies on the folder itself and leaves no file. On leaving, the names in the folder
    are flushed to the disk.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
