"""Which torch function executes an operator: by domain, name and opset version.

An operator is registered as a *builder*. The compiler calls it once for each node; the builder
reads the attributes and returns the function that runs at every call:

    @operator("Flatten", since=1)
    def _flatten(node: NodeView) -> Kernel:
        axis = node.attributes.get_int("axis", 1)
        return lambda x: ...

The function takes the node's inputs by position, None where an optional input is absent. It
returns a tensor, or a tuple of tensors where the node declares more than one output.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnx_ghn.errors import UnsupportedOperatorError

Kernel = Callable[..., Any]


class Placement(enum.Enum):
    """Where an operator runs. It only matters when the model runs on an accelerator."""

    DATA = "data"
    """Where its inputs are: on the host where all of them are there, else on the device."""
    HOST = "host"
    """On the host: a small computation whose result other operators need as numbers."""
    METADATA = "metadata"
    """Reads only the shape of a tensor wherever that is, and gives a host tensor."""


@dataclass(frozen=True)
class RunOptions:
    """What changes the meaning of operators, for a whole model.

    Attributes:
        batch_statistics: BatchNormalization normalises with the statistics of the batch.
        recorded: Where BatchNormalization puts (mean, unbiased variance) of each batch under
            the names of its two statistics inputs, or None to record nothing.
        tracked: Names of running means. The BatchNormalization that takes one normalises with
            the statistics of the batch, and moves its running statistics in place.
    """

    batch_statistics: bool = False
    recorded: dict[tuple[str, str], tuple[Any, Any]] | None = None
    tracked: frozenset[str] = frozenset()


@dataclass(slots=True)
class NodeView:
    """What a builder sees of a node, to read only (frozen would take longer to make).

    Attributes:
        node: The node.
        version: Opset version of its domain in the model.
        options: Options of the run.
        constant: The value of an input that never changes and has at most 64 elements, as a
            Python number or nested list; None for all others.
        blocks: The compiled subgraphs, by attribute name.
    """

    node: ir.Node
    version: int
    options: RunOptions = field(default_factory=RunOptions)
    constant: Callable[[int], Any] = lambda index: None
    blocks: Mapping[str, Kernel] = field(default_factory=dict)

    @property
    def attributes(self) -> Any:
        """Attributes of the node, with `get_int(name, default)` and its siblings."""
        return self.node.attributes

    def has_input(self, index: int) -> bool:
        """Whether the optional input at `index` is there."""
        inputs = self.node.inputs
        return index < len(inputs) and inputs[index] is not None

    def wants(self, index: int) -> bool:
        """Whether something reads the output at `index`."""
        outputs = self.node.outputs
        if index >= len(outputs):
            return False
        return bool(outputs[index].uses()) or outputs[index].is_graph_output()

    @property
    def output_count(self) -> int:
        """Number of declared outputs."""
        return len(self.node.outputs)

    def input_name(self, index: int) -> str:
        """Name of an input that is there."""
        value = self.node.inputs[index]
        return (value.name if value is not None else None) or ""

    def unsupported(self, what: str) -> UnsupportedOperatorError:
        """The error that says which use of the operator is not supported."""
        return UnsupportedOperatorError(f"{describe(self.node)}, opset {self.version}: {what}")


Builder = Callable[[NodeView], Kernel]


def _none_unused(node: NodeView) -> Sequence[int]:
    return ()


@dataclass(frozen=True)
class Operator:
    """A registered operator.

    Attributes:
        since: First opset version with this meaning.
        build: Makes the function for one node.
        python: Positions of the inputs that the function takes as Python numbers or lists.
        placement: Where it runs.
        many: The function always returns a tuple, even for a single output.
        unused: Positions of the inputs that the function ignores for a node; they need no value.
    """

    since: int
    build: Builder
    python: Sequence[int] = ()
    placement: Placement = Placement.DATA
    many: bool = False
    unused: Callable[[NodeView], Sequence[int]] = _none_unused


_REGISTRY: dict[tuple[str, str], list[Operator]] = {}


def operator(
    name: str,
    *,
    since: int,
    domain: str = "",
    python: Sequence[int] = (),
    placement: Placement = Placement.DATA,
    many: bool = False,
    unused: Callable[[NodeView], Sequence[int]] = _none_unused,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder for an operator from opset version `since` on.

    Raises:
        ValueError: The same domain, name and version are registered already.
    """

    def register(build: Builder) -> Builder:
        versions = _REGISTRY.setdefault((domain, name), [])
        if any(entry.since == since for entry in versions):
            raise ValueError(f"operator {domain}::{name} version {since} is registered twice")
        versions.append(Operator(since, build, python, placement, many, unused))
        versions.sort(key=lambda entry: -entry.since)
        return build

    return register


def direct(name: str, kernel: Kernel, *, since: int = 1, domain: str = "") -> None:
    """Register a function that needs nothing from the node: the operator is that function."""
    operator(name, since=since, domain=domain)(lambda node: kernel)


def find(node: ir.Node, version: int) -> Operator:
    """The newest registered version of a node's operator that is not above `version`.

    Raises:
        UnsupportedOperatorError: There is none.
    """
    for entry in _REGISTRY.get((canonical_domain(node.domain), node.op_type), ()):
        if entry.since <= version:
            return entry
    raise UnsupportedOperatorError(
        f"{describe(node)}, opset {version}: the interpreter has no such operator; "
        "run the model with ONNX Runtime, or rewrite this node"
    )


def canonical_domain(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain


def registered() -> list[tuple[str, str, int]]:
    """(domain, name, first version) of all that is registered, sorted."""
    return sorted((*key, entry.since) for key, versions in _REGISTRY.items() for entry in versions)


def describe(node: ir.Node) -> str:
    """A node as messages name it: name, domain, operator."""
    domain = canonical_domain(node.domain) or "ai.onnx"
    return f"node {node.name or _first_output(node)!r} ({domain}::{node.op_type})"


def _first_output(node: ir.Node) -> str:
    return next((value.name for value in node.outputs if value.name), "")
