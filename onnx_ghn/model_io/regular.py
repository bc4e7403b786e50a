"""Small files whose name a user or a stranger gives: read whole, if they are files at all."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MAX_BYTES = 64 << 20
"""More than any plan, list or description has."""


def check_regular(path: Path) -> int:
    """Check that reading a file will end: a pipe or a device never does.

    Returns:
        Its size in bytes.

    Raises:
        OSError: It can't be looked at, or is no regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return status.st_size


def read_small(path: Path) -> bytes:
    """The content of a file of at most `MAX_BYTES`.

    Raises:
        OSError: It can't be read, is no regular file, or is larger.
    """
    if check_regular(path) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES >> 20} MiB", str(path))
    return path.read_bytes()
