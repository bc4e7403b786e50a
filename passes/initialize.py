"""Sets every learnable initializer of a model: predicted by a hypernetwork, or classically."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import onnx_ir as ir

import onnx_ghn
from onnx_ghn import fallback
from onnx_ghn.drawing import (
    Draw,
    complete_copy,
    lazy,
    needs_ir_version_4,
    scale,
    set_value,
    statistic,
)
from onnx_ghn.errors import OnnxGhnError
from onnx_ghn.hypernet.archive import Archive, ArchiveInfo, load_archive, read_info
from onnx_ghn.hypernet.predict import PredictedWeight, predict
from onnx_ghn.hypernet.refine import RefinedPrediction, Refinement
from onnx_ghn.model_io import record_provenance
from onnx_ghn.options import InitializeOptions
from onnx_ghn.overrides import read_as_asked
from onnx_ghn.plan import GHN, Plan, Requests, describe, make_plan, needs_archive
from onnx_ghn.read import skeleton_marks
from onnx_ghn.read.parameter import Holder, Role
from onnx_ghn.read.reading import Reading
from onnx_ghn.report import INITIALIZED, Report, Status
from onnx_ghn.signal_check import Signal, corrections, measure_signal

META = "onnx_ghn"
"""Key in `ir.Value.meta` and `ir.Model.meta`; memory only, never serialised."""

Calibration = Callable[[ir.Model, Report], None]
"""Sets the running statistics of a complete model and brings its report up to date."""


class Initialize(ir.passes.InPlacePass):
    """Set the learnable initializers of a model, each lazily evaluated when it is saved.

    Idempotent: the same options give the same bits, and a second run on the same model object
    changes nothing, unless somebody replaced a tensor in between. Structure, names, inputs and
    outputs stay as they are; a Constant, ConstantOfShape or Identity node that gave a parameter
    becomes an initializer of the same name, and a parameter that was a graph input gets an
    initializer.

    Run it before passes that merge equal tensors or fold constants (de-duplication of
    initializers, onnxscript's optimizer): placeholders that are equal are not tied.

    Attributes:
        options: What is set, and how.
        report: The outcome of each tensor after a run.

    Examples:
        >>> import onnx_ir as ir
        >>> from onnx_ghn import InitializeOptions
        >>> from onnx_ghn.passes import Initialize
        >>> model = ir.from_onnx_text('''
        ... <ir_version: 10, opset_import: ["" : 21]>
        ... net (float[n, 3] x) => (float[n, 2] y)
        ... <float[2, 3] weight = {0, 0, 0, 0, 0, 0}, float[2] bias = {0, 0}>
        ... { y = Gemm <transB = 1> (x, weight, bias) }
        ... ''')
        >>> initialize = Initialize(InitializeOptions(method="classical", seed=1))
        >>> initialize(model).modified
        True
        >>> for outcome in initialize.report.outcomes:
        ...     print(outcome.name, outcome.role, outcome.status, outcome.method)
        weight linear fallback orthogonal
        bias bias fallback constant
        >>> initialize(model).modified
        False
    """

    def __init__(
        self,
        options: InitializeOptions | None = None,
        *,
        archive: Archive | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Make the pass.

        Args:
            options: Method, seed and selection; the defaults where None.
            archive: An archive that is loaded already; otherwise `options.hypernet`, or the
                archive that ships, is loaded when a prediction is needed.
            calibration: Called once all tensors are set. Where None, running statistics that have
                no value are estimated from noise, and the others stay.
        """
        self.options = options or InitializeOptions()
        self.report: Report | None = None
        self._archive = archive
        self._calibration = calibration

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Read, plan, predict and inject.

        Raises:
            ModelError: A tensor without a value can't be set nor kept.
            ArchiveError: The hypernetwork archive can't be loaded.
            OptionError: A given role or the plan file does not suit the model.
        """
        start = time.perf_counter()
        reading, requests = read_as_asked(model, self.options)
        read = time.perf_counter()
        plan = make_plan(reading, self.options, self._describe_archive(), requests)
        draws = self._draws(reading, plan)
        by_auto = self.options.method == "auto" and plan.decision["method"] == GHN
        if by_auto and plan.indices(Status.PREDICTED):
            plan, draws = self._check(model, reading, requests, plan, draws)
        report = describe(reading, plan, model.graph.name or "")
        calibrated = plan.indices(Status.CALIBRATED)
        runs = bool(calibrated) or self._calibration is not None
        modified = self._inject(model, reading, plan, draws, report, cache=runs)
        modified = modified or self._calibration is not None
        predicted = time.perf_counter()
        report.seconds = {"read": read - start, "predict": predicted - read}
        if self._calibration is not None:
            self._calibration(model, report)
        elif calibrated:
            self._calibrate(model, reading, calibrated, report)
        if runs:
            report.seconds["calibrate"] = time.perf_counter() - predicted
        if modified:
            if self._calibration is None:
                self._warn_of_stale_statistics(reading, plan, report)
            self._record(model, report)
        self.report = report
        model.meta[META] = report
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Check each tensor that the pass set against what the model says of it.

        Raises:
            PostconditionError: A learnable tensor has no value, or one of another shape or type.
        """
        for graph in model.graphs():
            for value in graph.initializers.values():
                mark = value.meta.get(META)
                if mark is None:
                    continue
                tensor = value.const_value
                if tensor is None or tensor.dtype != (value.dtype or tensor.dtype):
                    raise ir.passes.PostconditionError(f"{value.name!r} has no value of its type")
                shape = value.shape
                if shape is not None and shape.is_static() and shape != tensor.shape:
                    raise ir.passes.PostconditionError(
                        f"{value.name!r} is declared as {shape} but has a value of {tensor.shape}"
                    )

    def _describe_archive(self) -> ArchiveInfo | None:
        """The archive's description, read without torch; None where it can't matter."""
        if not needs_archive(self.options):
            return None
        if self._archive is not None:
            return self._archive.info
        return read_info(self.options.hypernet)

    def _draws(self, reading: Reading, plan: Plan) -> dict[int, Draw]:
        """For each parameter that is set, the function that makes its logical values.

        The members of a tie group share the function of the first one, hence its values.
        """
        draws: dict[int, Draw] = {}
        predicted = [index for index in plan.indices(Status.PREDICTED) if index not in plan.shared]
        if predicted:
            options = self.options
            archive = self._archive or load_archive(
                options.hypernet, engine=options.engine, device=options.device
            )
            prediction = predict(reading, archive, indices=predicted, seed=options.seed)
            refined = None
            if options.noise_level or options.orthogonal:
                refinement = Refinement(options.noise_level, options.orthogonal)
                refined = RefinedPrediction(prediction, refinement)
            for index in predicted:
                if refined is not None:
                    draws[index] = partial(refined.tensor, index)
                elif prediction.is_weight(index):
                    draws[index] = PredictedWeight(prediction, index)
                else:
                    draws[index] = partial(prediction.tensor, index)
        for index in plan.indices(Status.FALLBACK):
            if index not in plan.shared:
                parameter, method = reading.parameters[index], plan.outcomes[index].method
                assert method is not None
                draws[index] = partial(fallback.draw, parameter, method, self.options.seed)
        return draws | {index: draws[first] for index, first in plan.shared.items()}

    def _check(
        self,
        model: ir.Model,
        reading: Reading,
        requests: Requests,
        plan: Plan,
        draws: dict[int, Draw],
    ) -> tuple[Plan, dict[int, Draw]]:
        """Rule (c) of `auto`: what was predicted must carry a signal, else it is not used."""

        def run(draws: Mapping[int, Draw]) -> Signal:
            complete = complete_copy(model, reading, plan, draws)
            predicted = plan.indices(Status.PREDICTED)
            return measure_signal(complete, reading.parameters, predicted, self.options.seed)

        signal = run(draws)
        check = signal.to_json()
        decision = plan.decision | {"check": check}
        if signal.skipped:
            decision["reason"] += f"; its signal was not checked: {signal.skipped}"
        if signal.skipped or signal.well_scaled:
            return dataclasses.replace(plan, decision=decision), draws
        fault = "badly scaled" if signal.finite else "not finite"
        if signal.finite:
            scaled = scale(draws, dict(corrections(signal, reading.parameters)))
            again = run(scaled)
            check["rescaled"] = again.to_json()
            if again.well_scaled:
                decision["reason"] += "; its signal was badly scaled: each layer was rescaled"
                return dataclasses.replace(plan, decision=decision), scaled
        decision["method"] = "classical"
        decision["reason"] = f"predicted weights give a signal that is {fault}"
        decision.pop("plan", None)  # noted anew
        plan = make_plan(reading, self.options, self._describe_archive(), requests, decision)
        return plan, self._draws(reading, plan)

    def _inject(
        self,
        model: ir.Model,
        reading: Reading,
        plan: Plan,
        draws: dict[int, Draw],
        report: Report,
        *,
        cache: bool,
    ) -> bool:
        """Put lazy tensors into the model; true where anything changed."""
        modified = False
        replaced: Counter[Holder] = Counter()
        for index, parameter in enumerate(reading.parameters):
            outcome = plan.outcomes[index]
            mark = (plan.decision.get("archive"), self.options, outcome.method, outcome.role)
            tensor: ir.TensorProtocol
            if outcome.status is Status.CALIBRATED:
                tensor = statistic(parameter)
            elif index in draws:
                # A predicted tensor is made again in less time than it is worth in memory.
                again = outcome.status is Status.PREDICTED and not self.options.orthogonal
                tensor = lazy(parameter, draws[index], cache=cache and not again)
            else:
                continue
            if parameter.value.meta.get(META) == _Mark(mark, parameter.value.const_value):
                continue
            value = set_value(parameter, tensor)
            skeleton_marks.unmark(value)
            value.meta[META] = _Mark(mark, tensor)
            replaced[parameter.holder] += 1
            modified = True
        for holder in (Holder.CONSTANT, Holder.CONSTANT_OF_SHAPE, Holder.IDENTITY):
            if replaced[holder]:
                report.changes.append(
                    f"{replaced[holder]} {holder} node(s) replaced by initializers of the same name"
                )
        if replaced[Holder.INPUT]:
            report.changes.append(f"{replaced[Holder.INPUT]} graph input(s) given an initializer")
        if modified and needs_ir_version_4(model):
            report.changes.append(f"IR version raised from {model.ir_version} to 4")
            model.ir_version = 4
        return modified

    def _calibrate(
        self, model: ir.Model, reading: Reading, indices: list[int], report: Report
    ) -> None:
        """Estimate the statistics that have no value from seeded unit noise."""
        from onnx_ghn.passes.calibrate import Calibrate

        names = {reading.parameters[index].name for index in indices}
        try:
            Calibrate(seed=self.options.seed, only=names)(model)
        except OnnxGhnError as error:
            # The model is complete and valid all the same; only the statistics are a guess.
            report.warnings.append(f"running statistics stay at mean 0, variance 1: {error}")

    @staticmethod
    def _warn_of_stale_statistics(reading: Reading, plan: Plan, report: Report) -> None:
        kept = sum(
            reading.parameters[index].role in (Role.RUNNING_MEAN, Role.RUNNING_VARIANCE)
            for index in plan.indices(Status.KEPT)
        )
        changed = plan.indices(Status.PREDICTED) or plan.indices(Status.FALLBACK)
        if kept and changed:
            report.warnings.append(
                f"{kept} running statistics were kept and belong to the earlier weights: "
                "estimate them anew from data before the model is used"
            )

    def _record(self, model: ir.Model, report: Report) -> None:
        """Provenance into the model's metadata."""
        provenance: dict[str, Any] = {
            "version": onnx_ghn.__version__,
            "method": report.decision["method"],
            "seed": self.options.seed,
        }
        archive = report.decision.get("archive")
        if archive and report.count(Status.PREDICTED):
            provenance |= {"archive": archive["name"], "archive_sha256": archive["sha256"]}
        for status in INITIALIZED:
            provenance[str(status)] = report.count(status)
        record_provenance(model, provenance)


def initialize_model(
    model: ir.Model,
    options: InitializeOptions | None = None,
    *,
    archive: Archive | None = None,
    calibration: Calibration | None = None,
) -> Report:
    """Run `Initialize` on a model, in place, and return its report. Arguments as for the pass."""
    initialize = Initialize(options, archive=archive, calibration=calibration)
    initialize(model)
    assert initialize.report is not None  # `call` has set it
    return initialize.report


class _Mark:
    """What set a value, and to which tensor: equal only while that very tensor is there."""

    def __init__(self, source: tuple[Any, ...], tensor: ir.TensorProtocol | None) -> None:
        self.source = source
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Mark) and self.tensor is other.tensor and self.source == other.source
        )

    __hash__ = None  # type: ignore[assignment]
