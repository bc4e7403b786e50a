"""How the reader came to its verdict on one tensor, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnx_ghn.errors import OnnxGhnError, OptionError
from onnx_ghn.hypernet.archive import ArchiveInfo
from onnx_ghn.hypernet.predict import reasons_against
from onnx_ghn.options import InitializeOptions
from onnx_ghn.overrides import Request, unknown_tensor
from onnx_ghn.plan import make_plan
from onnx_ghn.read.graph import Op
from onnx_ghn.read.layout import Reshape, Step
from onnx_ghn.read.marks import mark_of
from onnx_ghn.read.parameter import Parameter
from onnx_ghn.read.reading import Reading
from onnx_ghn.report import FORMAT


@dataclass(frozen=True)
class Explanation:
    """Everything that is known of one tensor.

    Attributes:
        parameter: What the reader says of it.
        mark: What the exporter says it is, "" where it says nothing.
        tied: Names of the other tensors of its tie group.
        node: The node of the GHN graph that holds it, "" where none does.
        against: Why the archive can't predict it; None where it can.
        outcome: Status, method and reason under the given options; the error where there is none.
    """

    parameter: Parameter
    mark: str
    tied: tuple[str, ...]
    node: str
    against: str | None
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `inspect --why NAME --format json`."""
        parameter = self.parameter
        return {
            "format": FORMAT,
            "name": parameter.name,
            "shape": list(parameter.shape),
            "dtype": parameter.dtype.name.lower(),
            "holder": str(parameter.holder),
            "source": parameter.source,
            "has_value": parameter.has_value,
            "role": str(parameter.role),
            "learnable": parameter.learnable,
            "reason": parameter.reason,
            "mark": self.mark,
            "sites": [
                {"node": site.node.name or "", "op": _operator(site.node), "input": site.index}
                for site in parameter.sites
            ],
            "logical_shape": list(parameter.logical_shape),
            "layout": [_step(step) for step in parameter.layout.steps],
            "fan_in": parameter.fan_in,
            "gain": parameter.gain,
            "groups": parameter.groups,
            "blocks": parameter.blocks,
            "depth_scale": parameter.depth_scale,
            "neutral": parameter.neutral,
            "tied": list(self.tied),
            "ghn_node": self.node,
            "predictable": self.against is None,
            "against_prediction": self.against,
            "outcome": self.outcome,
        }


def explain(
    reading: Reading,
    name: str,
    options: InitializeOptions,
    archive: ArchiveInfo,
    requests: Mapping[str, Request],
) -> Explanation:
    """Explain the verdict on a tensor.

    Args:
        reading: What the reader found.
        name: The tensor.
        options: Which method is asked for, and which tensors may be set.
        archive: The hypernetwork archive whose prediction is in question.
        requests: What the user says of single tensors.

    Raises:
        OptionError: There is no such tensor.
    """
    index = next((k for k, p in enumerate(reading.parameters) if p.name == name), None)
    if index is None:
        raise OptionError(f"--why: {unknown_tensor(name, reading)}")
    parameter = reading.parameters[index]
    against = reasons_against(reading, archive)[index]
    try:
        found = make_plan(reading, options, archive, requests).outcomes[index]
        method = f" ({found.method})" if found.method else ""
        outcome = f"{found.status}{method}: {found.reason}"
    except OnnxGhnError as error:
        outcome = f"error: {error}"
    tied = tuple(p.name for p in reading.parameters if p.tie == parameter.tie and p.name != name)
    mark = mark_of(parameter.value)
    return Explanation(
        parameter=parameter,
        mark="" if mark is None else mark.value,
        tied=tied,
        node=_ghn_node(reading, index),
        against=against,
        outcome=outcome,
    )


def _ghn_node(reading: Reading, index: int) -> str:
    if reading.graph is None:
        return ""
    for node, slots in enumerate(reading.graph.slots):
        for slot in slots:
            if slot.parameter == index:
                return f"{node} {Op(reading.graph.op[node]).name.lower()}, its {slot.part}"
    return ""


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _step(step: Step) -> str:
    """One step from the logical to the stored tensor."""
    if isinstance(step, Reshape):
        return f"reshape {list(step.before)} to {list(step.after)}"
    return f"transpose {list(step.permutation)}"
