"""Take the learnable tensors' values out of a model: what `initialize` would set, and only that.

The skeleton that is left has every type, shape and name, and the values of all other tensors.
`initialize` makes of it what it makes of the original.
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir

from onnx_ghn.errors import ModelError
from onnx_ghn.model_io import clear_provenance
from onnx_ghn.model_io.tensors import holds_bytes
from onnx_ghn.options import InitializeOptions
from onnx_ghn.overrides import read_as_asked
from onnx_ghn.plan import describe, make_plan
from onnx_ghn.read import skeleton_marks
from onnx_ghn.read.parameter import Holder, Parameter
from onnx_ghn.report import Outcome, Report, Status

_STORED = (Holder.INITIALIZER, Holder.CONSTANT)
"""Holders with values of their own; the others compute, copy or receive theirs."""


def strip_model(model: ir.Model, options: InitializeOptions) -> Report:
    """Empty the learnable tensors of a model and mark each with its role.

    An emptied tensor keeps type and shape. Tensors that had no value before stay without.

    Args:
        model: Changed in place; a Constant node that held a weight becomes an initializer.
        options: Which tensors: its `include`, `exclude`, `roles` and `plan`.

    Returns:
        What was removed, and why the rest was not.

    Raises:
        ModelError: A tensor that has to stay has no value.
        OptionError: A role or the plan file does not suit the model.
    """
    from onnx_ghn.drawing import needs_ir_version_4, set_value

    selection = InitializeOptions(
        method="classical",
        include=options.include,
        exclude=options.exclude,
        roles=options.roles,
        plan=options.plan,
    )
    reading, requests = read_as_asked(model, selection)
    plan = make_plan(reading, selection, None, requests)
    report = describe(reading, plan, model.graph.name or "")
    report.decision = {}
    replaced: Counter[Holder] = Counter()
    for index, parameter in enumerate(reading.parameters):
        removed = plan.outcomes[index].status is Status.FALLBACK and parameter.holder in _STORED
        if removed:
            value = set_value(parameter, _empty(parameter.name, parameter.dtype, parameter.shape))
            skeleton_marks.mark(value, parameter)
            replaced[parameter.holder] += 1
        report.outcomes[index] = _outcome(parameter, plan.outcomes[index], removed=removed)
    _empty_missing(model)
    if replaced[Holder.CONSTANT]:
        report.changes.append(
            f"{replaced[Holder.CONSTANT]} constant node(s) replaced by initializers of the same "
            "name"
        )
    if needs_ir_version_4(model):
        report.changes.append(f"IR version raised from {model.ir_version} to 4")
        model.ir_version = 4
    clear_provenance(model)
    return report


def _outcome(parameter: Parameter, planned: Outcome, *, removed: bool) -> Outcome:
    status = Status.REMOVED if removed else Status.KEPT
    if removed or planned.status is Status.KEPT:
        reason = parameter.reason if removed else planned.reason
    elif planned.status is Status.CALIBRATED:
        reason = "running statistic without a value"
    else:
        reason = f"the file holds no value of its own for it ({parameter.holder})"
    return Outcome.of(parameter, status, reason, node=planned.node)


def _empty_missing(model: ir.Model) -> None:
    """Make tensors whose data is missing plainly empty: no reference to a file that isn't there.

    Raises:
        ModelError: One is no float tensor, hence nothing that could be filled again.
    """
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if holds_bytes(tensor):
                continue
            dtype = value.dtype if tensor is None else tensor.dtype
            shape = value.shape if tensor is None else tensor.shape
            if dtype is None or not dtype.is_floating_point() or not isinstance(shape, ir.Shape):
                raise ModelError(
                    f"tensor {name!r} is no weight, and its data is missing: provide its external "
                    "data, a skeleton needs it, too"
                )
            value.const_value = _empty(name, dtype, tuple(int(size) for size in shape.numpy()))


def _empty(name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
    """A tensor of type and shape without a value, as a file can hold it."""
    proto = onnx.TensorProto(name=name, data_type=dtype.value, dims=shape)
    return ir.serde.TensorProtoTensor(proto)
