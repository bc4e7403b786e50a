"""Scores one candidate: predict, calibrate, test. What a worker process does."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_ghn.errors import (
    ArchiveError,
    DeviceError,
    MissingDependencyError,
    ModelError,
    OnnxGhnError,
)
from onnx_ghn.options import RunOptions
from onnx_ghn.ranking.candidates import Candidate
from onnx_ghn.ranking.options import RankOptions
from onnx_ghn.ranking.results import Record
from onnx_ghn.report import Report, Status

if TYPE_CHECKING:
    from onnx_ghn.batches import Batches
    from onnx_ghn.data import Data, Examples
    from onnx_ghn.read.reading import Reading

NO_CANDIDATE = (MissingDependencyError, ArchiveError, DeviceError)
"""Errors with which no candidate can be scored."""

FLAGS_SHOWN = 3
"""Reasons of one kind that a flag names at most."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs besides the candidates; it goes to other processes.

    Attributes:
        data: A path, absolute, or arrays [(x, y)].
        options: What to rank by.
        run: How models run.
        image_side, classes: What networks from the generator take and give.
    """

    data: str | Examples
    options: RankOptions
    run: RunOptions
    image_side: int = 32
    classes: int = 10


@dataclass(frozen=True)
class Prepared:
    """A complete model, ready to be tested, and what was done to it."""

    model: ir.Model
    reading: Reading
    report: Report
    batches: Batches


class Scorer:
    """Scores candidates, one after the other; the archive and the data are loaded once."""

    def __init__(self, job: Job, *, weights: bool = False) -> None:
        """Load the archive.

        Args:
            job: What to do.
            weights: Whether weights are needed even where the score needs none.

        Raises:
            ArchiveError: It can't be loaded.
        """
        import torch

        from onnx_ghn.data import load_data
        from onnx_ghn.hypernet.archive import load_archive
        from onnx_ghn.plan import needs_archive

        torch.set_num_threads(job.run.threads)
        self._job = job
        folder = isinstance(job.data, str) and Path(job.data).is_dir()
        read = functools.cache(functools.partial(load_data, job.data))
        # Only a folder's images depend on the size; other data is the same for all candidates.
        self._read: Callable[..., Data] = lambda _, *, resize, limit: read(
            resize=resize if folder else None, limit=limit
        )
        fill = job.options.initialize
        self._fill = fill
        needed = (weights or self._needs_weights) and needs_archive(fill)
        self._archive = load_archive(fill.hypernet, engine=fill.engine) if needed else None

    @property
    def _needs_weights(self) -> bool:
        return self._job.options.score not in ("params", "flops")

    def score(self, candidate: Candidate) -> Record:
        """Score a candidate. What is wrong with it stands in the record.

        Raises:
            MissingDependencyError: Something is not installed: no candidate can be scored.
            ArchiveError, DeviceError: Likewise, of the archive or the device.
        """
        start = time.perf_counter()
        stamp = candidate.stamp()
        try:
            measured = self._measure(candidate)
        except NO_CANDIDATE:
            raise
        except OnnxGhnError as error:
            measured = {"error": str(error)}
        except Exception as error:  # whatever a strange model makes of us, the others go on
            measured = {"error": f"unexpected {type(error).__name__}: {error}"}
        seconds = round(time.perf_counter() - start, 4)
        return Record(model=candidate.name, seconds=seconds, stamp=stamp, **measured)

    def prepare(self, candidate: Candidate) -> Prepared:
        """Load a candidate, set what has no value, and calibrate it.

        Where nothing is set, statistics stay too: they belong to the weights of the file.

        Raises:
            OnnxGhnError: The candidate can't be read, set or run.
        """
        from onnx_ghn.batches import Normalisation, make_batches
        from onnx_ghn.calibration import calibrate_fresh
        from onnx_ghn.passes.initialize import initialize_model
        from onnx_ghn.read.reading import read_model

        job = self._job
        model = candidate.load(job.image_side, job.classes)
        reading = read_model(model)
        report = initialize_model(model, self._fill, archive=self._archive)
        known = None
        if self._archive is not None and report.count(Status.PREDICTED):
            known = Normalisation.of(self._archive.info.config)
        batches = make_batches(
            job.data, model, job.run, seed=self._fill.seed, normalisation=known, read=self._read
        )
        if _set_something(report):
            calibrate_fresh(model, batches, job.run, report)
        return Prepared(model, reading, report, batches)

    def _measure(self, candidate: Candidate) -> dict[str, Any]:
        score = self._job.options.score
        if self._needs_weights:
            prepared = self.prepare(candidate)
            model, reading, batches = prepared.model, prepared.reading, prepared.batches
        else:
            model, reading, batches = self._structure(candidate)
        measured = _size(model, reading, batches)
        if score in ("params", "flops"):
            found = measured["parameters" if score == "params" else "flops"]
            if found is None:
                raise ModelError("its FLOPs can't be told: an operator or a shape is unknown")
            return measured | {"score": found}
        flags = self._flags(prepared)
        value: float | None
        if score in ("synflow", "naswot"):
            value = _training_free(score, prepared)
        else:
            tested = self._test(prepared)
            measured |= tested
            value = tested["top1"] if score == "top1" else tested["loss"]
            value = -value if value is not None and score == "loss" else value
        if value is not None and not math.isfinite(value):
            value = None
        if value is None:
            flags.append("the score is not finite")
        counts = {
            str(status): sum(o.learnable and o.status is status for o in prepared.report.outcomes)
            for status in (Status.PREDICTED, Status.FALLBACK, Status.KEPT)
        }
        return measured | {"score": value, "tensors": counts, "flags": tuple(flags)}

    def _structure(self, candidate: Candidate) -> tuple[ir.Model, Reading, Batches]:
        """A candidate of which no weights are needed."""
        from onnx_ghn.batches import make_batches
        from onnx_ghn.read.reading import read_model

        job = self._job
        model = candidate.load(job.image_side, job.classes)
        batches = make_batches(job.data, model, job.run, seed=self._fill.seed, read=self._read)
        return model, read_model(model), batches

    def _test(self, prepared: Prepared) -> dict[str, Any]:
        from onnx_ghn.evaluation import run_evaluation
        from onnx_ghn.run.session import open_session

        run = self._job.run
        session = open_session(prepared.model, device=run.device, threads=run.threads)
        evaluation = run_evaluation(session, prepared.model, prepared.batches, threads=run.threads)
        return {"top1": evaluation.top1, "loss": evaluation.loss, "n": evaluation.n}

    def _flags(self, prepared: Prepared) -> list[str]:
        """Why the score may say less of this candidate than of others."""
        from onnx_ghn.calibration import lacks_norms
        from onnx_ghn.plan import GHN
        from onnx_ghn.ranking.reach import beyond_reach

        report = prepared.report
        learnable = [outcome for outcome in report.outcomes if outcome.learnable]
        kept = sum(outcome.status is Status.KEPT for outcome in learnable)
        flags = []
        if kept:
            flags.append(f"{kept} of {len(learnable)} learnable tensors had a value and were kept")
        if lacks_norms(prepared.model):
            flags.append("no normalisation layer: folded by the exporter?")
        if report.count(Status.CALIBRATED) and prepared.batches.warnings_of_statistics():
            flags.append(f"statistics of batches of {prepared.batches.size}")
        if self._archive is None or report.decision.get("method") != GHN or kept == len(learnable):
            return flags
        left = [outcome.name for outcome in learnable if outcome.status is Status.FALLBACK]
        if left:
            names = ", ".join(left[:FLAGS_SHOWN]) + (", ..." if len(left) > FLAGS_SHOWN else "")
            flags.append(f"{len(left)} learnable tensors can't be predicted: {names}")
        return flags + beyond_reach(prepared.reading, self._archive.info.config)


def _set_something(report: Report) -> bool:
    return any(report.count(s) for s in (Status.PREDICTED, Status.FALLBACK, Status.CALIBRATED))


def _size(model: ir.Model, reading: Reading, batches: Batches) -> dict[str, Any]:
    from onnx_ghn.ranking.flops import count_flops

    sizes = [math.prod(p.shape) for p in reading.parameters if p.learnable]
    return {"parameters": sum(sizes), "flops": count_flops(model, _example(batches))}


def _example(batches: Batches) -> tuple[int, ...]:
    """Shape of the smallest batch that the model takes."""
    return (batches.form.batch or 1, *batches.to_json()["shape"])


def _training_free(score: str, prepared: Prepared) -> float:
    import torch

    from onnx_ghn.ranking.training_free import naswot, synflow

    if score == "synflow":
        return synflow(prepared.model, prepared.reading, _example(prepared.batches))
    feeds = next(iter(prepared.batches))
    return naswot(prepared.model, torch.from_numpy(feeds[prepared.batches.form.name]))
