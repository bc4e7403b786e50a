"""`onnx_ghn.finetune`: a path or an `ir.Model` and labelled data in, the trained model out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from onnx_ghn import model_io
from onnx_ghn.batches import Batches, archive_normalisation, make_batches
from onnx_ghn.checkpoint_file import CheckpointError
from onnx_ghn.data import DataError, Source
from onnx_ghn.errors import OptionError, OutputError
from onnx_ghn.evaluation import check_classes, warnings_of_missing, warnings_of_training_mode
from onnx_ghn.finetuning.checkpoint import Checkpoint, RunFiles, load_checkpoint
from onnx_ghn.finetuning.feed import Feed
from onnx_ghn.finetuning.group import joined
from onnx_ghn.finetuning.options import FinetuneOptions
from onnx_ghn.finetuning.result import FinetuneResult
from onnx_ghn.finetuning.trainer import Show, Trainer
from onnx_ghn.finetuning.validation import TorchRunner, Validator, class_scores
from onnx_ghn.finetuning.weights import Weights
from onnx_ghn.model_files import Destination, ModelLike, load, name_of, naming
from onnx_ghn.options import NOISE, InitializeOptions, RunOptions
from onnx_ghn.report import Report, Status
from onnx_ghn.torch_device import check_device


def finetune(
    model: ModelLike,
    data: Source,
    output: str | os.PathLike[str] | None = None,
    options: FinetuneOptions | None = None,
    *,
    val: Source | None = None,
    run: RunOptions | None = None,
    initialize: InitializeOptions | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    max_bytes: int | None = None,
    progress: Show | None = None,
) -> FinetuneResult:
    """Train the learnable tensors of a model on labelled data by gradient descent, in torch.

    Names, order, layout and element types of the initializers stay, and so do the nodes: see
    `FinetuneResult.changes` for what holding a value needed. BatchNormalization normalises by the
    batch, and its running statistics move by its momentum, as in torch's train mode. Learnable
    tensors without a value, and only those, are initialised first.

    Args:
        model: A path, or a model in memory, which is changed in place and not written unless
            `output` is given. Its first output holds the scores [batch, classes].
        data: A folder of `class/xxx.jpg`, an `.npz` file with `x` and `y`, an iterable of
            (x, y), or a function that gives one.
        output: Where to write the result; `<stem>.finetuned.onnx` beside the model where None.
        options: How to train.
        val: Data for validation; where None, a share of `data` is held out.
        run: Size of batches and images, normalisation, limit of the training data, device.
            `threads` is not used: those of torch are in `options`.
        initialize: Method and archive for tensors without a value. The seed is that of the order
            of the examples, too.
        folder: Where checkpoint, log and picture of the loss go; `<stem of the output>.finetune`
            beside the output where None, and nowhere where nothing is written.
        resume: Go on from the checkpoint in the folder, even if the run came to its end but
            `options` now asks for more. Everything else has to be as it was.
        force: Overwrite an output and a run that exist.
        max_bytes: Refuse a model whose tensors take more.
        progress: Called with the updates that are done, all of them, and the newest measurements
            ("loss", "top1").

    Returns:
        The trained model with the loss of each step and the validations.

    Raises:
        ModelError: The model can't be read, has nothing to train, or gives no class scores; or
            the loss is not finite.
        UnsupportedOperatorError: An operator has no counterpart in torch; names the node.
        DataError: The data can't be read, or does not suit the model.
        OptionError: The options contradict the model or the data, or there is no such device.
        OutputError: The output can't be written.
        CheckpointError: There is nothing to go on from, or it is of another run.
        KeyboardInterrupt: By SIGINT or SIGTERM, after the state was saved in the folder.
    """
    options, run = options or FinetuneOptions(), run or RunOptions()
    fill = dataclasses.replace(initialize or InitializeOptions(), missing_only=True)
    check_device(run.device)
    destination = Destination.of(model, output, "finetuned", in_place=False, force=force or resume)
    target = destination.target
    files = _files(folder, target, resume=resume, force=force)
    checkpoint = load_checkpoint(files.state) if resume and files is not None else None
    loaded = load(model, max_bytes)
    name = name_of(model) or "the model"
    report = _fill(loaded, fill)
    with joined(run.device) as group, naming(name):
        training, held = _data(loaded, data, val, run, options, fill, report)
        weights = Weights(loaded, options, group.device)
        group.same([*weights.leaves, *weights.statistics.values()])
        _check_scores(loaded, weights, training, group.device)
        feed = Feed(
            training,
            seed=fill.seed,
            crop=options.crop,
            flip=options.flip,
            rank=group.rank,
            world=group.size,
        )
        about = {
            "model": name,
            "options": options.to_json(),
            "run": dataclasses.asdict(run),
            "seed": fill.seed,
            "examples": len(training.data),
            "batch": feed.size,
        }
        validator = None if held is None else Validator(loaded, held, group.device)
        trainer = Trainer(
            loaded,
            weights,
            feed,
            validator,
            options,
            group,
            files=files,
            about=about,
            show=progress if group.rank == 0 else None,
        )
        if checkpoint is not None:
            assert files is not None
            _check_same(checkpoint, about, files.state)
            trainer.resume(checkpoint)
        before = trainer.step
        with _writing(files):
            if files is not None and group.rank == 0:
                files.folder.mkdir(parents=True, exist_ok=True)
            trainer.train()
        best = trainer.history.best
        if trainer.best is not None and best is not None:
            weights.load(trainer.best)
        weights.store()
        model_io.clear_provenance(loaded)
        training.record_normalisation(loaded)
        if group.rank == 0:
            destination.save(loaded)
    return FinetuneResult(
        model=loaded,
        name=name,
        output=target,
        steps=trainer.step,
        losses=trainer.history.losses,
        rates=trainer.history.rates,
        validations=trainer.history.validations,
        written=best.step if trainer.best is not None and best is not None else trainer.step,
        stopped_early=trainer.stopped_early and trainer.step < trainer.total,
        trained=tuple(trained.name for trained in weights.trained),
        elements=weights.elements,
        frozen=weights.frozen,
        statistics=tuple(weights.statistics),
        initialized=report.count(Status.PREDICTED) + report.count(Status.FALLBACK),
        images_per_second=(trainer.step - before) * feed.size / trainer.seconds
        if trainer.seconds
        else 0.0,
        device=str(group.device),
        input=training.to_json(),
        log=None if files is None else files.log,
        picture=None if files is None else files.picture,
        changes=report.changes + weights.changes,
        warnings=_warnings(loaded, report, weights, training),
    )


def _files(
    folder: str | os.PathLike[str] | None, target: Path | None, *, resume: bool, force: bool
) -> RunFiles | None:
    """Where the run is kept, None where nowhere."""
    if folder is None and target is None:
        if resume:
            raise OptionError("resuming needs the folder of the run, or the output that it makes")
        return None
    if folder is not None:
        files = RunFiles(Path(folder))
    else:
        assert target is not None
        files = RunFiles.beside(target)
    try:
        exists = files.state.exists()
    except OSError as error:  # a name that is too long, say
        raise OutputError(f"can't write into {files.folder}: {error.strerror}") from error
    if exists and not resume and not force:
        raise OptionError(
            f"{files.folder} holds a run: go on with --resume, begin anew with --force, or name "
            "another folder"
        )
    return files


@contextlib.contextmanager
def _writing(files: RunFiles | None) -> Iterator[None]:
    """Let an error of the disk say what could not be written."""
    try:
        yield
    except OSError as error:
        where = "" if files is None else f" in {files.folder}"
        raise OutputError(f"can't keep the run{where}: {error.strerror or error}") from error


def _fill(model: ir.Model, options: InitializeOptions) -> Report:
    """Initialise the learnable tensors without a value; equal channels would stay so."""
    from onnx_ghn.passes.initialize import initialize_model

    noise = NOISE if options.noise is None else options.noise
    return initialize_model(model, dataclasses.replace(options, noise=noise))


def _data(
    model: ir.Model,
    source: Source,
    val: Source | None,
    run: RunOptions,
    options: FinetuneOptions,
    fill: InitializeOptions,
    report: Report,
) -> tuple[Batches, Batches | None]:
    """Training data, and validation data where there is some."""
    known = archive_normalisation(fill, report)
    whole = make_batches(source, model, run, seed=fill.seed, normalisation=known)
    data = whole.data
    held = None
    if val is not None:
        all_of_it = dataclasses.replace(run, limit=0)
        validation = make_batches(val, model, all_of_it, seed=fill.seed, normalisation=known)
        named = not all(name.isdigit() for name in (*data.classes, *validation.data.classes))
        if named and data.classes != validation.data.classes:
            raise DataError(
                f"{validation.data.source}: its classes are not those of {data.source}: "
                f"{_difference(data.classes, validation.data.classes)}"
            )
        held = validation
    elif options.hold_out:
        data, rest = data.split(options.hold_out)
        if len(rest):
            held = Batches(rest, whole.form, run, normalisation=whole.normalisation)
    if not len(data):
        raise DataError(f"{data.source}: nothing is left to train on once --hold-out is taken away")
    training = Batches(data, whole.form, run, seed=fill.seed, normalisation=whole.normalisation)
    return training, held


def _difference(wanted: tuple[str, ...], found: tuple[str, ...], most: int = 5) -> str:
    """The names that are in one and not in the other."""
    parts = []
    for what, names, others in (("lacks", wanted, found), ("has", found, wanted)):
        only = [repr(name) for name in names if name not in others]
        if only:
            parts.append(f"{what} {', '.join(only[:most])}{', ...' * (len(only) > most)}")
    return " and ".join(parts)


def _check_scores(
    model: ir.Model, weights: Weights, batches: Batches, device: torch.device
) -> None:
    """Run a batch, so that an unsuitable model is refused before anything else is done."""
    feeds, _ = next(iter(batches.labelled()))
    runner = TorchRunner(model, device)
    runner.parameters = weights.parameters()
    name = runner.outputs[0]
    (array,) = runner.run(feeds, [name]).values()
    examples = len(feeds[batches.form.name])
    check_classes(batches, class_scores((torch.from_numpy(array),), name, examples).shape[1])


def _check_same(checkpoint: Checkpoint, about: dict[str, Any], path: Path) -> None:
    """Check that the numbers of a run's batches mean what they meant."""
    for key, what in (("seed", "seed"), ("examples", "training examples"), ("batch", "batch size")):
        if checkpoint.about[key] != about[key]:
            raise CheckpointError(
                f"{path}: is of a run with another {what} ({checkpoint.about[key]}, now "
                f"{about[key]}): resume it with the same data and options"
            )


def _warnings(model: ir.Model, report: Report, weights: Weights, batches: Batches) -> list[str]:
    warnings = warnings_of_missing(report)
    if weights.tracked:
        warnings += batches.warnings_of_statistics()
    for warning in warnings_of_training_mode(model, batch_statistics=False):
        if "Dropout" not in warning:
            warnings.append(warning)
    dropouts = sum(node.op_type == "Dropout" for node in model.graph.all_nodes())
    if dropouts:
        warnings.append(f"{dropouts} Dropout node(s) dropped nothing during training")
    return warnings + weights.warnings
