"""Decides, before any value is made, how each tensor of a model will end and why.

`inspect` shows a plan; `Initialize` carries it out.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_ghn import auto, fallback
from onnx_ghn.errors import ModelError, OptionError
from onnx_ghn.hypernet.archive import ArchiveInfo
from onnx_ghn.hypernet.predict import reasons_against
from onnx_ghn.measures import measure
from onnx_ghn.options import InitializeOptions
from onnx_ghn.overrides import Request
from onnx_ghn.plan_file import Action
from onnx_ghn.read.graph import Op
from onnx_ghn.read.parameter import Holder, Parameter, Role
from onnx_ghn.read.reading import Reading
from onnx_ghn.report import GraphNode, Outcome, Report, Status

GHN = "ghn"
_CHANGED = (Status.PREDICTED, Status.FALLBACK)
STATISTICS = (Role.RUNNING_MEAN, Role.RUNNING_VARIANCE)


@dataclass(frozen=True)
class Plan:
    """The outcome of each of `Reading.parameters`, in their order, and the decision behind it.

    `shared` holds, for each parameter that gets the values of an earlier one of its tie group, that
    one; `warnings` are of options that select nothing.
    """

    outcomes: tuple[Outcome, ...]
    decision: dict[str, Any]
    shared: Mapping[int, int]
    warnings: tuple[str, ...] = ()

    def indices(self, status: Status) -> list[int]:
        """Indices of the parameters that end so."""
        return [i for i, outcome in enumerate(self.outcomes) if outcome.status is status]


Requests = Mapping[str, Request]
"""What the user says of single tensors, by name."""


def needs_archive(options: InitializeOptions) -> bool:
    """Whether the hypernetwork archive has a say in the plan."""
    return options.method in ("auto", GHN)  # a plan file's `predict` counts under `auto` only


def decide(
    options: InitializeOptions, archive: ArchiveInfo | None, reading: Reading
) -> dict[str, Any]:
    """Which method is used for the model, and why: the report's `decision`.

    Where `auto` predicts, what is predicted may still turn out not to carry a signal.
    """
    decision: dict[str, Any] = {"requested": options.method}
    if archive is not None:
        decision["archive"] = {
            "name": archive.name,
            "sha256": archive.sha256,
            "trained": archive.trained,
        }
    if options.method == "auto":
        config = None if archive is None else archive.config
        tested = config is not None and config.harm is not None
        judgement = auto.judge(config, measure(reading) if tested else None)
        method = GHN if judgement.predict else "classical"
        return decision | {
            "method": method,
            "reason": judgement.reason,
            "evidence": judgement.evidence,
        }
    decision |= {"method": options.method, "reason": "as asked for"}
    if options.method == GHN and archive is not None and not archive.trained:
        decision["reason"] += "; the archive is untrained"
    return decision


def make_plan(
    reading: Reading,
    options: InitializeOptions,
    archive: ArchiveInfo | None,
    requests: Requests | None = None,
    decision: dict[str, Any] | None = None,
) -> Plan:
    """Decide status, method and reason for every float tensor.

    Args:
        reading: What the reader found.
        options: Method and which tensors may be set.
        archive: The hypernetwork archive's description; None where no prediction can be asked for.
        requests: What the user says of single tensors.
        decision: The method for the model, where it is decided already; see `decide`.

    Raises:
        ModelError: A tensor without a value would have to be kept.
        OptionError: What is asked for a tensor can't be done.
    """
    requests = requests or {}
    decision = dict(decision or decide(options, archive, reading))
    method = decision["method"]
    if options.plan is not None and "plan" not in decision:
        decision["plan"] = str(options.plan)
        decision["reason"] += f"; single tensors as {options.plan} says"
    node_of = _nodes_by_parameter(reading)
    against: Sequence[str | None] = [None] * len(reading.parameters)
    if archive is not None:
        against = reasons_against(reading, archive)
    outcomes: list[Outcome] = []
    first_of_tie: dict[tuple[str, tuple[int, ...]], int] = {}
    shared: dict[int, int] = {}
    for index, parameter in enumerate(reading.parameters):
        request = requests.get(parameter.name, Request())
        first = first_of_tie.get(parameter.value_key)
        if first is not None and _reason_to_keep(parameter, request, options) is None:
            made = outcomes[first]
            status, chosen = made.status, made.method
            reason = f"the same numbers as {made.name!r}, to which it is tied: {made.reason}"
        else:
            status, chosen, reason = judge_tensor(
                parameter, request, options, method, against[index]
            )
        outcomes.append(
            Outcome.of(parameter, status, reason, method=chosen, node=node_of.get(index))
        )
        if status in _CHANGED:
            if first is None:
                first_of_tie[parameter.value_key] = index
            else:
                shared[index] = first
    return Plan(tuple(outcomes), decision, shared, tuple(_idle_patterns(reading, options)))


def describe(reading: Reading, plan: Plan, model: str) -> Report:
    """The report of a plan."""
    nodes = []
    if reading.graph is not None:
        for index, slots in enumerate(reading.graph.slots):
            names = tuple(reading.parameters[slot.parameter].name for slot in slots)
            op = Op(reading.graph.op[index]).name.lower()
            nodes.append(GraphNode(index, op, reading.graph.nodes[index], names))
    warnings = list(reading.warnings)
    if reading.graph is None:
        warnings.append(f"no GHN graph: {reading.graph_reason}")
    warnings += [*_broken_ties(reading, plan), *plan.warnings]
    return Report(model, list(plan.outcomes), nodes, plan.decision, warnings)


def judge_tensor(
    parameter: Parameter,
    request: Request,
    options: InitializeOptions,
    method: str,
    against: str | None,
) -> tuple[Status, str | None, str]:
    """Status, method and reason of one tensor.

    Args:
        parameter: What the reader says of it.
        request: What the user says of it.
        options: Which tensors may be set.
        method: Decided for the model.
        against: Why it can't be predicted, None where it can.

    Raises:
        ModelError: It has no value and would have to be kept.
        OptionError: What is asked for it can't be done.
    """
    kept = _reason_to_keep(parameter, request, options)
    if kept is None:
        action = request.action if options.method == "auto" else None
        if action is Action.PREDICT and against is not None:
            raise OptionError(
                f"{request.origin}: tensor {parameter.name!r} can't be predicted ({against}): "
                "make its action 'fallback'"
            )
        predicts = action is Action.PREDICT or (action is None and method == GHN)
        if predicts and against is None:
            return Status.PREDICTED, GHN, parameter.reason
        asked = request.method if action is Action.FALLBACK else None
        chosen, why = fallback.method_for(
            parameter, asked or ("classical" if method == GHN else method)
        )
        if asked not in (None, "classical", chosen) and parameter.role not in fallback.MATRIX_ROLES:
            raise OptionError(
                f"{request.origin}: tensor {parameter.name!r} can't be set by the method "
                f"{asked!r}, which is for weight matrices, not for a {parameter.role}: leave it out"
            )
        clauses = (against if predicts else None, request.correction, why)
        return Status.FALLBACK, chosen, "; ".join(filter(None, clauses))
    if parameter.role in STATISTICS and not parameter.has_value:
        return Status.CALIBRATED, "noise", "running statistic without a value"
    if parameter.has_value or parameter.holder in (Holder.INPUT, Holder.CONSTANT_OF_SHAPE):
        return Status.KEPT, None, kept
    raise ModelError(
        f"tensor {parameter.name!r} has no value in the file and would have to be kept ({kept}): "
        "provide its external data, or let it be set"
    )


def _reason_to_keep(
    parameter: Parameter, request: Request, options: InitializeOptions
) -> str | None:
    """Why the tensor must not be set, or None."""
    asked_for = request.action in (Action.PREDICT, Action.FALLBACK)
    if not parameter.learnable and not asked_for:
        return parameter.reason
    if options.missing_only and parameter.has_value:
        return "has a value, and only missing ones are set"
    if options.include and not _matches(parameter.name, options.include):
        return "matches no --include pattern"
    if _matches(parameter.name, options.exclude):
        return "matches an --exclude pattern"
    if request.action is Action.KEEP:
        return f"{request.origin} says so"
    return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _idle_patterns(reading: Reading, options: InitializeOptions) -> Iterator[str]:
    """Warnings of patterns that match the name of no tensor, as after a slip of the pen."""
    for word, patterns in (("include", options.include), ("exclude", options.exclude)):
        for pattern in patterns:
            if not any(_matches(parameter.name, (pattern,)) for parameter in reading.parameters):
                yield f"--{word} {pattern!r} matches no float tensor: inspect -v lists them"


def _broken_ties(reading: Reading, plan: Plan) -> list[str]:
    """Warnings of tied tensors of which one is kept and another set, as the user chose."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for parameter, outcome in zip(reading.parameters, plan.outcomes, strict=True):
        groups[parameter.tie_group].append(outcome)
    warnings = []
    for outcomes in groups.values():
        kept = [outcome for outcome in outcomes if outcome.status is Status.KEPT]
        changed = [outcome for outcome in outcomes if outcome.status in _CHANGED]
        if kept and changed:
            warnings.append(
                f"tied tensors part: {_names(kept)} stays ({kept[0].reason}) while "
                f"{_names(changed)} gets a new value: choose the same for all of them"
            )
    return warnings


def _names(outcomes: Sequence[Outcome]) -> str:
    return " and ".join(repr(outcome.name) for outcome in outcomes)


def _nodes_by_parameter(reading: Reading) -> dict[int, int]:
    if reading.graph is None:
        return {}
    return {
        slot.parameter: node for node, slots in enumerate(reading.graph.slots) for slot in slots
    }
