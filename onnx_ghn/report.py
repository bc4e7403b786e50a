"""What was done to each float tensor of a model, and why. Tables for people, JSON for machines."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ghn.read.parameter import Parameter

FORMAT = 1
"""Version of every JSON object that the tool prints."""


class Status(enum.StrEnum):
    """How a tensor ended."""

    PREDICTED = "predicted"
    FALLBACK = "fallback"
    CALIBRATED = "calibrated"
    KEPT = "kept"
    REMOVED = "removed"
    """By `strip`, which leaves type, shape and role."""


INITIALIZED = (Status.PREDICTED, Status.FALLBACK, Status.CALIBRATED, Status.KEPT)
"""How a tensor may end in `initialize`."""


@dataclass(frozen=True)
class Outcome:
    """One float tensor: what it is, what happened to it, and why."""

    name: str
    shape: tuple[int, ...]
    dtype: ir.DataType
    role: str
    learnable: bool
    node: int | None
    status: Status
    method: str | None
    reason: str
    source: str | None = None

    @classmethod
    def of(
        cls,
        parameter: Parameter,
        status: Status,
        reason: str,
        *,
        method: str | None = None,
        node: int | None = None,
    ) -> Outcome:
        """The outcome for what the reader says of a tensor; `node` is that of the GHN graph."""
        return cls(
            name=parameter.name,
            shape=parameter.shape,
            dtype=parameter.dtype,
            role=str(parameter.role),
            learnable=parameter.learnable,
            node=node,
            status=status,
            method=method,
            reason=reason,
            source=parameter.source,
        )

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    def to_json(self) -> dict[str, Any]:
        """The entry under `initializers` in the JSON report."""
        entry = {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.name.lower(),
            "role": self.role,
            "node": self.node,
            "status": str(self.status),
            "method": self.method,
            "reason": self.reason,
        }
        if self.source is not None:
            entry["source"] = self.source
        return entry


@dataclass(frozen=True)
class GraphNode:
    """A node of the GHN graph as the report shows it."""

    id: int
    op: str
    name: str
    initializers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry under `nodes` in the JSON report."""
        return {
            "id": self.id,
            "op": self.op,
            "name": self.name,
            "initializers": list(self.initializers),
        }


@dataclass
class Report:
    """The outcome for a whole model.

    Attributes:
        model: Path or name of the model.
        outcomes: One entry for every float tensor, learnable or not, in node order.
        nodes: The GHN graph's nodes in topological order.
        decision: Which method was used and why, with the archive's identity.
        warnings: What the user should know; each one sentence.
        changes: What was changed besides values (nodes replaced, IR version raised).
        data: What calibration fed the model; empty where there was no data.
        seconds: Wall time of the stages, for display only; not part of the JSON object.
    """

    model: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    nodes: list[GraphNode] = field(default_factory=list)
    decision: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Number of tensors that ended so."""
        return sum(outcome.status is status for outcome in self.outcomes)

    def has_findings(self) -> bool:
        """Whether there is a warning, or a learnable tensor that was left as it was."""
        return bool(self.warnings) or any(
            outcome.learnable and outcome.status is Status.KEPT for outcome in self.outcomes
        )

    def summary(self) -> dict[str, Any]:
        """Counts of tensors and elements by status, and of learnable ones."""
        elements: Counter[Status] = Counter()
        for outcome in self.outcomes:
            elements[outcome.status] += outcome.elements
        learnable = [outcome for outcome in self.outcomes if outcome.learnable]
        shown = [status for status in Status if status in INITIALIZED or elements[status]]
        return {
            "tensors": {str(status): self.count(status) for status in shown},
            "elements": {str(status): elements[status] for status in shown},
            "learnable_tensors": len(learnable),
            "learnable_elements": sum(outcome.elements for outcome in learnable),
        }

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `inspect --format json` and `init --format json`."""
        report = {
            "format": FORMAT,
            "model": self.model,
            "nodes": [node.to_json() for node in self.nodes],
            "initializers": [outcome.to_json() for outcome in self.outcomes],
            "decision": self.decision,
            "summary": self.summary(),
            "warnings": self.warnings,
            "changes": self.changes,
        }
        if self.data:
            report["data"] = self.data
        return report
