"""Downloads published checkpoints by name from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from onnx_ghn.errors import ArchiveError, MissingDependencyError, OptionError

REPOSITORY = "SamsungSAILMontreal/ghn3"
PUBLISHED = ("ghn3tm8", "ghn3sm8", "ghn3lm8", "ghn3xlm16", "ghn2")
"""GHN-3 T, S, L and XL for ImageNet, and GHN-2, by their authors (MIT licence)."""


def download(name: str, *, cache: Path | None = None, offline: bool = False) -> Path:
    """The file of a published checkpoint, downloaded unless the cache holds it.

    The cache names a large file by its sha256 as the Hub records it; the file is checked against
    that. Convert the result: it is a pickle, and nothing else here opens it.

    Args:
        name: One of `PUBLISHED`.
        cache: The Hub's cache folder; the usual one where None.
        offline: Use the cache only.

    Raises:
        OptionError: There is no such checkpoint.
        MissingDependencyError: huggingface_hub is not installed.
        ArchiveError: The file can't be had, or isn't what the Hub recorded.
    """
    if name not in PUBLISHED:
        raise OptionError(f"unknown checkpoint {name!r}: choose one of {', '.join(PUBLISHED)}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingDependencyError(
            "downloading by name needs huggingface_hub: pip install 'onnx-ghn[hub]'; "
            "or download the file yourself and give its path"
        ) from error
    try:
        path = hf_hub_download(
            repo_id=REPOSITORY, filename=f"{name}.pt", cache_dir=cache, local_files_only=offline
        )
    except Exception as error:  # the hub, its HTTP client and the disk have no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ArchiveError(f"{name} can't be downloaded: {reason}") from error
    file = Path(path).resolve()  # snapshots are links to files named by their hash
    if re.fullmatch(r"[0-9a-f]{64}", file.name):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.name:
            raise ArchiveError(f"{file}: the download is damaged; delete the file and try again")
    return Path(path)
