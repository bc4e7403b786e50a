"""The outcome of a rule on one use of a tensor: role, verdict, reason."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_ghn.read.constants import Shape
from onnx_ghn.read.dataflow import Origin
from onnx_ghn.read.layout import Transpose
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.slots import Form


@dataclass(frozen=True)
class Use:
    """One use of a root tensor: it reaches input `index` of `node` by `origin.path`.

    Attributes:
        node: The node that computes with it.
        index: The input where it arrives.
        origin: The root and the nodes passed.
        shape: The shape of the operand as it arrives, None where unknown.
        own: The shape of the root.
        main: Whether the root gives the elements of the operand (a kernel), rather than
            scaling or shifting them (the gain of a normalised kernel).
    """

    node: ir.Node
    index: int
    origin: Origin
    shape: Shape | None
    own: Shape | None
    main: bool


@dataclass(frozen=True)
class Finding:
    """What a rule says of one use of a tensor.

    Attributes:
        role: What the tensor does there.
        learnable: Whether it may be set, as far as this use is concerned.
        reason: One clause for the report.
        form: How the operand lies, hence its logical shape.
        neutral: The do-nothing value, as in `Parameter`.
        decisive: Whether this use alone makes a tensor a weight, whatever else it does: a slot.
        copy: The root of which this tensor is a copy, and the permutation that makes the copy.
        layer: For the gain of a normalised kernel that nothing else scales, the layer that takes
            the kernel: the gain has to make up for the non-linearity before it.
    """

    role: Role
    learnable: bool
    reason: str
    form: Form = Form.VECTOR
    neutral: float = 0.0
    decisive: bool = False
    copy: tuple[ir.Value, Transpose] | None = None
    layer: ir.Node | None = None


def keep(reason: str, role: Role = Role.CONSTANT) -> Finding:
    """The finding that a tensor is not to be changed."""
    return Finding(role, False, reason)


def name_of(node: ir.Node) -> str:
    """How a reason names a node."""
    return f"{node.op_type} {node.name}" if node.name else node.op_type
