"""Fixed lists of held-out architectures, as seeds; training leaves their graphs out.

`splits.json` holds for each split a list for validation and one for testing: the space, the
seed, and the graph key of each network. `tools/make_splits.py` wrote it; a test checks that the
seeds still give those graphs.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from onnx_ghn.errors import OptionError

FILE = Path(__file__).with_name("splits.json")
SPLITS = {
    "narrow": "narrow",
    "medium": "medium",
    "in-distribution": "full",
    "wide": "wide",
    "deep": "deep",
    "dense": "dense",
    "norm-free": "norm-free",
    "broad": "broad",
}
"""Space of each split. The split of "full" is called in-distribution."""


@dataclass(frozen=True)
class Entry:
    """One held-out architecture: `sample(space, seed)`."""

    space: str
    seed: int
    key: str


def held_out(split: str, part: str) -> tuple[Entry, ...]:
    """The architectures of a split.

    Args:
        split: A key of `SPLITS`, or the name of a space.
        part: "val" or "test".

    Raises:
        OptionError: There is no such split or part.
    """
    names = {space: name for name, space in SPLITS.items()}
    name = split if split in SPLITS else names.get(split, "")
    lists = _lists()
    if name not in lists or part not in lists[name]:
        raise OptionError(
            f"unknown split {split!r} {part!r}: choose one of {', '.join(SPLITS)}; val or test"
        )
    return tuple(Entry(SPLITS[name], int(seed), key) for seed, key in lists[name][part])


def held_out_keys() -> frozenset[str]:
    """Graph keys of all held-out architectures."""
    return frozenset(
        key for parts in _lists().values() for entries in parts.values() for _, key in entries
    )


@functools.cache
def _lists() -> dict[str, dict[str, list[tuple[int, str]]]]:
    return json.loads(FILE.read_text())
