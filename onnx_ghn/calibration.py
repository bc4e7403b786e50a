"""Calibration as a report tells it: which tensors were set, from what, and why others were not."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnx_ghn.batches import Batches
from onnx_ghn.errors import ModelError
from onnx_ghn.options import RunOptions
from onnx_ghn.passes.calibrate import Calibrate
from onnx_ghn.read.parameter import Holder
from onnx_ghn.read.reading import read_model
from onnx_ghn.report import Outcome, Report, Status

LEFT = "left as it was"
"""How a note begins that says why a tensor was not set."""

NORMS = frozenset(
    {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}
)


def unchanged(model: ir.Model, name: str) -> Report:
    """The report of a complete model in which nothing was changed so far.

    Raises:
        ModelError: A tensor has no value.
    """
    outcomes = []
    for parameter in read_model(model).parameters:
        if not parameter.has_value and parameter.holder is not Holder.CONSTANT_OF_SHAPE:
            raise ModelError(
                f"{name}: tensor {parameter.name!r} has no value, which calibration needs: "
                "initialise the model first, or let init --calibrate do both"
            )
        reason = "calibration sets running statistics only"
        outcomes.append(Outcome.of(parameter, Status.KEPT, reason))
    return Report(name, outcomes)


def calibrate_from_noise(
    model: ir.Model, options: RunOptions, report: Report, *, folded: bool, seed: int
) -> None:
    """Set running statistics from seeded unit noise; arguments as for `calibrate_from_data`."""
    calibrate = Calibrate(seed=seed, folded=folded, device=options.device, threads=options.threads)
    calibrate(model)
    report.warnings.append("calibrated from noise: statistics of real data will differ")
    _update(model, report, calibrate.notes, "noise")


def calibrate_fresh(model: ir.Model, batches: Batches, options: RunOptions, report: Report) -> None:
    """Calibrate from data what was just initialised; arguments as for `calibrate_from_data`."""
    # Scaling a Conv that was kept would undo its training.
    kept = any(outcome.learnable and outcome.status is Status.KEPT for outcome in report.outcomes)
    calibrate_from_data(model, batches, options, report, folded=not kept)


def calibrate_from_data(
    model: ir.Model, batches: Batches, options: RunOptions, report: Report, *, folded: bool
) -> None:
    """Set running statistics from data, and record in the model how its images are normalised.

    Args:
        model: Changed in place; every tensor has a value.
        batches: The data.
        options: Device and threads.
        report: Its outcomes and warnings are brought up to date.
        folded: Whether to scale Convs that may hold a folded BatchNormalization.
    """
    calibrate = Calibrate(batches, folded=folded, device=options.device, threads=options.threads)
    calibrate(model)
    batches.record_normalisation(model)
    report.data = batches.to_json()
    report.warnings += batches.warnings_of_statistics()
    _update(model, report, calibrate.notes, "data")


def lacks_norms(model: ir.Model) -> bool:
    """Whether a model has Convs and no normalisation: some exporters fold it into the Convs."""
    kinds = {node.op_type for node in model.graph.all_nodes()}
    return "Conv" in kinds and kinds.isdisjoint(NORMS)


def _update(model: ir.Model, report: Report, notes: dict[str, str], method: str) -> None:
    """Bring the outcomes of a report up to date with what a calibration noted."""
    if not notes:
        hint = "; if the exporter folded it into the Convs, export it so that it stays"
        report.warnings.append(
            f"nothing to calibrate: the model has no BatchNormalization{hint * lacks_norms(model)}"
        )
    report.outcomes = [_updated(outcome, notes, method) for outcome in report.outcomes]
    for name, note in notes.items():
        if note.startswith(LEFT):
            report.warnings.append(f"{name}: {note}")


def _updated(outcome: Outcome, notes: dict[str, str], method: str) -> Outcome:
    note = notes.get(outcome.name)
    if note is None:
        return outcome
    if note.startswith(LEFT):
        return dataclasses.replace(outcome, reason=f"{outcome.reason}; {note}")
    if outcome.learnable:  # a folded Conv: what set it before still shows
        status = Status.CALIBRATED if outcome.status is Status.KEPT else outcome.status
        return dataclasses.replace(outcome, status=status, reason=f"{outcome.reason}; {note}")
    return dataclasses.replace(outcome, status=Status.CALIBRATED, method=method, reason=note)
