"""A whole ranking: candidates in, records out, the results file in between."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import onnx_ghn
from onnx_ghn.data import Data, DataError, Examples, Source, load_data
from onnx_ghn.errors import OnnxGhnError, OptionError
from onnx_ghn.hypernet.archive import read_info
from onnx_ghn.options import RunOptions
from onnx_ghn.plan import needs_archive
from onnx_ghn.ranking.candidates import Candidate
from onnx_ghn.ranking.engines import score_locally, score_on_ray
from onnx_ghn.ranking.options import RankOptions
from onnx_ghn.ranking.results import Ranking, Record, ResultFile
from onnx_ghn.ranking.scorer import Job
from onnx_ghn.resizing import Resize

Progress = Callable[[int, int], None]
"""Called with the candidates that are done and all of them."""


def make_job(data: Source, options: RankOptions, run: RunOptions) -> Job:
    """What workers need, with absolute paths.

    Raises:
        DataError: The data is not there, or the generator has no networks for it.
    """
    source: Any
    if isinstance(data, (str, os.PathLike)):
        source = os.path.abspath(data)  # noqa: PTH100 (links stay)
        if not Path(source).exists():
            raise DataError(f"{os.fspath(data)}: no such file or folder of labelled data")
    else:
        loaded = load_data(data)
        source = [(np.asarray(loaded.x), loaded.y)]
    if not options.sample:
        return Job(source, options, run)
    resize = Resize(run.side, run.side, run.resize) if run.side else None
    loaded = load_data(source, resize=resize, limit=run.limit)
    return Job(source, options, run, _side(loaded, run), len(loaded.classes))


def run_ranking(
    candidates: list[Candidate], job: Job, out: Path | None, progress: Progress | None
) -> Ranking:
    """Score all candidates that the results file does not hold yet, and order them.

    Raises:
        OutputError: The results file can't be used.
        OnnxGhnError: Nothing can be scored, see `score_locally` and `score_on_ray`.
    """
    settings = settings_of(job)
    with ResultFile(out, settings) as results:
        known = {(record.model, record.stamp): record for record in results.records}
        records: list[Record] = []
        todo: list[Candidate] = []
        for candidate in candidates:
            found = known.get((candidate.name, candidate.stamp()))
            if found is None:
                todo.append(candidate)
            else:
                records.append(found)
        resumed = len(records)
        if progress is not None:
            progress(resumed, len(candidates))
        for record in _score(job, todo):
            results.append(record)
            records.append(record)
            if progress is not None:
                progress(len(records), len(candidates))
    return Ranking(sorted(records, key=Record.order), settings, resumed)


def save_best(ranking: Ranking, candidates: Iterable[Candidate], job: Job, path: Path) -> None:
    """Write the best candidate as it was tested: initialised and calibrated.

    Raises:
        OnnxGhnError: No candidate has a score, or the file can't be written.
    """
    from onnx_ghn import model_io
    from onnx_ghn.ranking.scorer import Scorer

    best = ranking.records[0]
    if best.error is not None:
        raise OnnxGhnError(f"no candidate could be scored; the first error: {best.error}")
    candidate = next(c for c in candidates if c.name == best.model)
    prepared = Scorer(job, weights=True).prepare(candidate)
    source = Path(candidate.path) if candidate.path else None
    model_io.save(prepared.model, path, source=source)


def settings_of(job: Job) -> dict[str, Any]:
    """What a score depends on besides the candidate; equal in all runs that share a file."""
    fill, run = job.options.initialize, job.run
    archive = None
    if needs_archive(fill) and job.options.score not in ("params", "flops"):
        archive = read_info(fill.hypernet).sha256
    return {
        "version": onnx_ghn.__version__,
        "score": job.options.score,
        "method": fill.method,
        "overwrite": job.options.overwrite,
        "seed": fill.seed,
        "engine": fill.engine,
        "archive": archive,
        "data": _fingerprint(job.data),
        "batch_size": run.batch_size,
        "side": run.side,
        "resize": run.resize,
        "mean": list(run.mean),
        "std": list(run.std),
        "limit": run.limit,
        "device": run.device,
    }


def _score(job: Job, todo: list[Candidate]) -> Iterator[Record]:
    if job.options.ray:
        return score_on_ray(job, todo, job.options.ray)
    return score_locally(job, todo, job.options.processes)


def _side(data: Data, run: RunOptions) -> int:
    """Side of the images that networks from the generator take."""
    rows, columns = data.x.shape[1:3] if data.is_image else data.x.shape[2:4] or (0, 1)
    if run.side:
        return run.side
    if rows != columns:
        raise OptionError(
            f"{data.source}: networks from the generator take square images, these have "
            f"{columns} x {rows} pixels: give --side"
        )
    return int(rows)


def _fingerprint(data: str | Examples) -> str:
    """A hash of the data: of a folder, names and sizes of its files; else the bytes."""
    digest = hashlib.sha256()
    if not isinstance(data, str):
        for x, y in data:
            digest.update(json.dumps([str(x.dtype), x.shape]).encode())
            digest.update(np.ascontiguousarray(x).tobytes())
            digest.update(np.ascontiguousarray(y).tobytes())
    elif Path(data).is_dir():
        for file in sorted(Path(data).glob("*/*")):
            line = f"{file.relative_to(data)}\0{file.stat().st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    else:
        with Path(data).open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
    return digest.hexdigest()[:16]
