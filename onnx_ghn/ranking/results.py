"""Results of a ranking: one record a candidate, their order, and the file that they are kept in."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from onnx_ghn.errors import OutputError
from onnx_ghn.report import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one candidate.

    Attributes:
        model: Its path, or space and number.
        score: What it is ranked by, the higher the better; None where it failed or where the
            score is not finite.
        top1: Share of the examples that are classified correctly; None where it was not tested.
        loss: Mean cross-entropy in nats; None where it was not tested, or is not finite.
        n: Examples of the test; 0 where there was none.
        parameters: Learnable elements.
        flops: Floating-point operations for one example, two a multiply-add; None where an
            operator's cost or shape is unknown.
        seconds: Wall time that the candidate took.
        tensors: Learnable tensors by how they were set: predicted, fallback, kept.
        flags: Why the score may say less: the candidate is outside the archive's range, say.
        error: Why there is no result; None where there is one.
        stamp: Size and time of change of its file.
    """

    model: str
    score: float | None = None
    top1: float | None = None
    loss: float | None = None
    n: int = 0
    parameters: int | None = None
    flops: int | None = None
    seconds: float = 0.0
    tensors: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    error: str | None = None
    stamp: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {name: getattr(self, name) for name in _FIELDS} | {"flags": list(self.flags)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The record of a JSON object.

        Raises:
            TypeError: It is no record.
        """
        record = cls(**data | {"flags": tuple(data["flags"])})
        wrong = [
            name for name, kind in _KINDS.items() if not isinstance(getattr(record, name), kind)
        ]
        if wrong:
            raise TypeError(f"the {wrong[0]} of {record.model!r} is of the wrong type")
        return record

    def order(self) -> tuple[Any, ...]:
        """Sorts best first: score, lower loss, fewer parameters, path; failures last."""
        return (
            self.error is not None,
            self.score is None,
            -(self.score or 0.0),
            math.inf if self.loss is None else self.loss,
            math.inf if self.parameters is None else self.parameters,
            self.model,
        )


_FIELDS = tuple(entry.name for entry in dataclasses.fields(Record))
_NUMBER = int | float
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("model", "stamp"), str),
    "error": str | None,
    **dict.fromkeys(("score", "top1", "loss"), _NUMBER | None),
    **dict.fromkeys(("parameters", "flops"), int | None),
    "n": int,
    "seconds": _NUMBER,
    "tensors": dict,
}
"""What a field may hold that was read from a file."""


@dataclass
class Ranking:
    """The result of `rank`.

    Attributes:
        records: Best first; failed candidates at the end.
        settings: What was asked for: score, method, archive, data and how models ran.
        resumed: How many of the records were read from the file of an earlier run.
    """

    records: list[Record]
    settings: dict[str, Any]
    resumed: int = 0

    @property
    def failed(self) -> list[Record]:
        """The candidates that gave no result."""
        return [record for record in self.records if record.error is not None]

    @property
    def flagged(self) -> list[Record]:
        """The candidates that were ranked and flagged."""
        return [record for record in self.records if record.flags]

    def to_json(self) -> list[dict[str, Any]]:
        """The list of `rank --format json`, best first."""
        return [record.to_json() for record in self.records]


class ResultFile:
    """JSON lines: the settings, then a record a line, written as they come.

    A run that is killed leaves complete lines and perhaps half a one, which is dropped when the
    file is opened again; a candidate whose line is there is not scored again. Without a path
    nothing is kept.

    Attributes:
        records: What earlier runs left.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        """Open or begin the file.

        Raises:
            OutputError: It is no file of results, belongs to a ranking with other settings, is
                being written by another process, or can't be written.
        """
        self.records: list[Record] = []
        self._path = path
        self._file: BinaryIO | None = None
        if path is None:
            return
        if path.exists() and not path.is_file():
            raise OutputError(f"{path}: is no regular file")
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror}") from error
        try:
            self._resume(path, self._file, settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, record: Record) -> None:
        """Write a record.

        Raises:
            OutputError: It can't be written.
        """
        self._write(record.to_json())

    def _resume(self, path: Path, file: BinaryIO, settings: dict[str, Any]) -> None:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{path}: another process is writing to it") from error
        except OSError:
            pass  # some network file systems have no locks
        file.seek(0)
        header: dict[str, Any] | None = None
        complete = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if header is None:
                    header = entry["ranking"]
                    _check_settings(path, header, settings)
                else:
                    self.records.append(Record.from_json(entry))
            except (ValueError, TypeError, KeyError) as error:
                raise OutputError(
                    f"{path}: holds something else than results of rank: choose another file"
                ) from error
            complete += len(line)
        if header is None:
            if file.seek(0, os.SEEK_END) and not _is_half_header(file):
                raise OutputError(
                    f"{path}: holds something else than results of rank: choose another file"
                )
            file.truncate(0)
            self._write({"format": FORMAT, "ranking": settings})
        else:
            file.truncate(complete)

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._path}: can't be written: {error.strerror}") from error


def _is_half_header(file: BinaryIO) -> bool:
    """Whether a run was killed while it wrote the first line."""
    file.seek(0)
    start = b'{"format": '
    content = file.read(len(start))
    return start.startswith(content)


def _check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [
        f"{name} was {json.dumps(found.get(name))}, now {json.dumps(wanted.get(name))}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if different:
        raise OutputError(
            f"{path}: holds results of a ranking with other settings ({'; '.join(different)}): "
            "choose another file"
        )
