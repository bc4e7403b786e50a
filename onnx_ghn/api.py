"""The Python interface: a path or an `ir.Model` in, a model and a report out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_ghn.model_files import Destination, ModelLike, load, name_of, naming
from onnx_ghn.options import InitializeOptions, RunOptions
from onnx_ghn.report import Report, Status

if TYPE_CHECKING:
    from onnx_ghn.batches import Batches, Normalisation
    from onnx_ghn.data import Source
    from onnx_ghn.evaluation import Evaluation
    from onnx_ghn.explanation import Explanation
    from onnx_ghn.ranking.candidates import ModelPath
    from onnx_ghn.ranking.options import RankOptions
    from onnx_ghn.ranking.results import Ranking


def initialize(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    options: InitializeOptions | None = None,
    *,
    data: Source | None = None,
    run: RunOptions | None = None,
    in_place: bool = False,
    force: bool = False,
    shard_size: int | None = None,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Model, Report]:
    """Initialise the learnable weights of a model.

    Args:
        model: A path, or a model in memory, which is changed in place and not written unless
            `output` is given.
        output: Where to write the result; `<stem>.init.onnx` beside the model where None.
        options: Method, seed and selection.
        data: Labelled data from which running statistics are estimated, see `calibrate`. Convs
            that may hold a folded BatchNormalization are scaled, unless some learnable tensor is
            kept.
        run: How the model runs over the data.
        in_place: Overwrite the model's own file.
        force: Overwrite an output that exists.
        shard_size: Write the tensors into data files of at most so many bytes.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the bytes written so far and in all.

    Returns:
        The model, its new tensors still lazy, and the report.

    Raises:
        ModelError: The model can't be read, or a tensor can't be set.
        ArchiveError: The hypernetwork archive can't be loaded.
        DataError: The data can't be read, or does not suit the model.
        OutputError: The output can't be written; nothing is left behind.
        OptionError: Options contradict each other.
    """
    from onnx_ghn.passes.initialize import initialize_model

    options = options or InitializeOptions()
    start = time.perf_counter()
    loaded = load(model, max_bytes)
    destination = Destination.of(model, output, "init", in_place=in_place, force=force)
    parsed = time.perf_counter()
    calibration = None
    if data is not None:
        calibration = partial(_calibrate_fresh, data, options, run or RunOptions())
    with naming(name_of(model)):
        report = initialize_model(loaded, options, calibration=calibration)
    report.seconds["read"] += parsed - start
    report.model = name_of(model)
    written = time.perf_counter()
    destination.save(loaded, shard_size=shard_size, progress=progress)
    if destination.target is not None:
        report.seconds["write"] = time.perf_counter() - written
    return loaded, report


def inspect(
    model: ModelLike,
    options: InitializeOptions | None = None,
    *,
    save_plan: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
) -> Report:
    """Say what `initialize` would do to each float tensor, and why. The model is not changed.

    Args:
        model: A path, or a model in memory.
        options: Method and selection.
        save_plan: Where to write that as a plan file, to be edited and given to `initialize` in
            the options.
        max_bytes: Refuse a model whose tensors take more.

    Raises:
        ModelError: The model can't be read, or a tensor could be neither set nor kept.
        ArchiveError: The hypernetwork archive can't be read.
        OptionError: A given role or a plan file does not suit the model.
        OutputError: The plan file exists, or can't be written.
    """
    from onnx_ghn import plan_file
    from onnx_ghn.hypernet.archive import read_info
    from onnx_ghn.overrides import read_as_asked
    from onnx_ghn.plan import describe, make_plan, needs_archive

    options = options or InitializeOptions()
    loaded = load(model, max_bytes)
    reading, requests = read_as_asked(loaded, options)
    archive = read_info(options.hypernet) if needs_archive(options) else None
    plan = make_plan(reading, options, archive, requests)
    if save_plan is not None:
        plan_file.save_plan(Path(save_plan), loaded, plan.outcomes)
    return describe(reading, plan, name_of(model))


def explain(
    model: ModelLike,
    name: str,
    options: InitializeOptions | None = None,
    *,
    max_bytes: int | None = None,
) -> Explanation:
    """Say how the reader came to its verdict on one tensor, and what `initialize` would do to it.

    Args:
        model: A path, or a model in memory.
        name: The tensor.
        options: Method and selection.
        max_bytes: Refuse a model whose tensors take more.

    Raises:
        ModelError: The model can't be read.
        ArchiveError: The hypernetwork archive can't be read.
        OptionError: There is no such tensor, or a given role or a plan file does not suit it.
    """
    from onnx_ghn.explanation import explain
    from onnx_ghn.hypernet.archive import read_info
    from onnx_ghn.overrides import read_as_asked

    options = options or InitializeOptions()
    loaded = load(model, max_bytes)
    reading, requests = read_as_asked(loaded, options)
    return explain(reading, name, options, read_info(options.hypernet), requests)


def calibrate(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    data: Source | None = None,
    options: RunOptions | None = None,
    *,
    folded: bool = False,
    seed: int = 0,
    in_place: bool = False,
    force: bool = False,
    shard_size: int | None = None,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    save_progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Model, Report]:
    """Estimate the running statistics of BatchNormalization anew; weights stay.

    They become the averages over the batches of each batch's mean and unbiased variance, all
    layers normalising by the batch: what torch does in train mode with `momentum=None`.

    Args:
        model: A path, or a model in memory, which is changed in place and not written unless
            `output` is given.
        output: Where to write the result; `<stem>.calibrated.onnx` beside the model where None.
        data: A folder of `class/xxx.jpg`, an `.npz` file with `x` and `y`, an iterable of
            (x, y), or a function that gives one; seeded unit noise where None. Labels are not
            used.
        options: Size of batches and images, normalisation, device.
        folded: Also scale each Conv that may hold a folded BatchNormalization, so that its output
            has mean 0 and variance 1 a channel. For fresh weights: it changes what trained ones
            compute.
        seed: Seed of the order of the examples, and of the noise.
        in_place: Overwrite the model's own file.
        force: Overwrite an output that exists.
        shard_size: Write the tensors into data files of at most so many bytes.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the examples seen so far and in all.
        save_progress: Called with the bytes written so far and in all.

    Returns:
        The model and the report.

    Raises:
        ModelError: The model can't be read or run, or a tensor has no value.
        DataError: The data can't be read, or does not suit the model.
        OutputError: The output can't be written; nothing is left behind.
        OptionError: The options contradict the model or the data, or there is no such device.
    """
    from onnx_ghn.calibration import calibrate_from_data, calibrate_from_noise, unchanged

    options = options or RunOptions()
    loaded = load(model, max_bytes)
    destination = Destination.of(model, output, "calibrated", in_place=in_place, force=force)
    report = unchanged(loaded, name_of(model))
    start = time.perf_counter()
    if data is None:
        calibrate_from_noise(loaded, options, report, folded=folded, seed=seed)
    else:
        with naming(name_of(model)):
            batches = _batches(loaded, data, options, seed, progress=progress)
        calibrate_from_data(loaded, batches, options, report, folded=folded)
    report.seconds["calibrate"] = time.perf_counter() - start
    destination.save(loaded, shard_size=shard_size, progress=save_progress)
    return loaded, report


def strip(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    options: InitializeOptions | None = None,
    *,
    in_place: bool = False,
    force: bool = False,
    shard_size: int | None = None,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Model, Report]:
    """Take the values of the learnable tensors out of a model: the inverse of `initialize`.

    What `initialize` would set is emptied and marked with its role; everything else stays. What
    `initialize` makes of the skeleton is what it makes of the original, bit for bit.

    Args:
        model: A path, or a model in memory, which is changed in place and not written unless
            `output` is given.
        output: Where to write the skeleton; `<stem>.skeleton.onnx` beside the model where None.
        options: Which tensors are emptied: `include`, `exclude`, `roles` and `plan`; the rest is
            of no account.
        in_place: Overwrite the model's own file.
        force: Overwrite an output that exists.
        shard_size: Write the tensors that stay into data files of at most so many bytes.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the bytes written so far and in all.

    Returns:
        The skeleton and the report.

    Raises:
        ModelError: The model can't be read, or a tensor that has to stay has no value.
        OutputError: The output can't be written; nothing is left behind.
        OptionError: A role or the plan file does not suit the model.
    """
    from onnx_ghn.stripping import strip_model

    loaded = load(model, max_bytes)
    destination = Destination.of(model, output, "skeleton", in_place=in_place, force=force)
    report = strip_model(loaded, options or InitializeOptions())
    report.model = name_of(model)
    destination.save(loaded, shard_size=shard_size, skeleton=True, progress=progress)
    return loaded, report


def evaluate(
    model: ModelLike,
    data: Source,
    options: RunOptions | None = None,
    *,
    batch_statistics: bool = False,
    initialize: InitializeOptions | None = None,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Test how well a model classifies labelled data. Nothing is changed or written.

    Learnable tensors without a value, and only those, are initialised first.

    Args:
        model: A path, or a model in memory. Its first output holds the scores [batch, classes].
        data: A folder of `class/xxx.jpg`, an `.npz` file with `x` and `y`, an iterable of
            (x, y), or a function that gives one.
        options: Size of batches and images, normalisation, device.
        batch_statistics: Let each BatchNormalization use the statistics of the batch, as the
            authors of the GHN papers test networks with predicted parameters.
        initialize: Method, seed and archive for tensors without a value. The seed is that of the
            order of the examples, too.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the examples seen so far and in all.

    Raises:
        ModelError: The model can't be read or run, or gives no class scores.
        DataError: The data can't be read, or does not suit the model.
        OptionError: The options contradict the model or the data, or there is no such device.
        MissingDependencyError: ONNX Runtime, or its CUDA build, is not installed.
    """
    from onnx_ghn.batches import archive_normalisation
    from onnx_ghn.evaluation import (
        run_evaluation,
        warnings_of_missing,
        warnings_of_training_mode,
    )
    from onnx_ghn.model_copy import copy_model
    from onnx_ghn.passes.batch_statistics import BatchStatistics
    from onnx_ghn.passes.initialize import initialize_model
    from onnx_ghn.run.session import open_session

    options = options or RunOptions()
    fill = dataclasses.replace(initialize or InitializeOptions(), missing_only=True)
    loaded = load(model, max_bytes)
    complete = copy_model(loaded)
    report = initialize_model(complete, fill)
    archive = archive_normalisation(fill, report)
    with naming(name_of(model)):
        batches = _batches(complete, data, options, fill.seed, archive, progress)
    warnings = warnings_of_missing(report)
    tested = complete
    if batch_statistics:
        rewrite = BatchStatistics(expose=False)
        result = rewrite(complete)
        tested = result.model
        if not result.modified:
            warnings.append("no BatchNormalization: batch statistics make no difference")
        warnings += batches.warnings_of_statistics()
        warnings += [f"{name} keeps its statistics: {why}" for name, why in rewrite.hidden.items()]
    warnings += warnings_of_training_mode(complete, batch_statistics=batch_statistics)
    session = open_session(tested, device=options.device, threads=options.threads)
    evaluation = run_evaluation(
        session, complete, batches, batch_statistics=batch_statistics, threads=options.threads
    )
    evaluation.model = name_of(model)
    evaluation.initialized = report.count(Status.PREDICTED) + report.count(Status.FALLBACK)
    evaluation.warnings = warnings
    return evaluation


def rank(
    models: ModelPath | Iterable[ModelPath],
    data: Source,
    options: RankOptions | None = None,
    *,
    run: RunOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    save_best: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank networks by how well they do without training.

    Each one gets values for the learnable tensors that have none, is calibrated on the data where
    that set any, and is tested on it; it stays in memory no longer than that. Candidates outside
    the archive's range are ranked and flagged; what is wrong with a single one stands in its
    record.

    Args:
        models: Files, globs, folders, and .txt files that list such; may be empty where the
            options ask for networks from the generator.
        data: A folder of `class/xxx.jpg`, an `.npz` file with `x` and `y`, an iterable of
            (x, y), or a function that gives one.
        options: What to rank by, how to set tensors, and on which processes.
        run: Size of batches and images, normalisation, limit, device.
        out: File to which each record is appended as a JSON line. A candidate that is there is
            not scored again, so that a run that was stopped can go on.
        save_best: Where to write the best candidate as it was tested.
        progress: Called with the candidates that are done and all of them.

    Raises:
        OptionError: Nothing to rank, or options contradict each other.
        DataError: The data is not there.
        ArchiveError: The hypernetwork archive can't be loaded.
        OutputError: `out` belongs to another ranking, or a file can't be written.
        MissingDependencyError: ONNX Runtime or Ray is not installed.
    """
    from onnx_ghn import model_io
    from onnx_ghn.ranking import loop
    from onnx_ghn.ranking.candidates import candidates_of
    from onnx_ghn.ranking.options import RankOptions

    options = options or RankOptions()
    given = [models] if isinstance(models, (str, os.PathLike)) else models
    candidates = candidates_of(given, options)
    if save_best is not None:
        model_io.check_output(Path(save_best), source=None, force=False, in_place=False)
    job = loop.make_job(data, options, run or RunOptions())
    target = None if out is None else Path(out)
    ranking = loop.run_ranking(candidates, job, target, progress)
    if save_best is not None:
        loop.save_best(ranking, candidates, job, Path(save_best))
    return ranking


def _calibrate_fresh(
    data: Source, options: InitializeOptions, run: RunOptions, model: ir.Model, report: Report
) -> None:
    """Calibrate a model that was just initialised."""
    from onnx_ghn.batches import archive_normalisation
    from onnx_ghn.calibration import calibrate_fresh

    archive = archive_normalisation(options, report)
    batches = _batches(model, data, run, options.seed, archive)
    calibrate_fresh(model, batches, run, report)


def _batches(
    model: ir.Model,
    data: Source,
    options: RunOptions,
    seed: int,
    normalisation: Normalisation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Batches:
    from onnx_ghn.batches import make_batches

    return make_batches(
        data, model, options, seed=seed, normalisation=normalisation, progress=progress
    )
