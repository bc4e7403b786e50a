"""Roles that the user gives to tensors: they go before every rule and every exporter's mark."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx_ghn.read import slots
from onnx_ghn.read.finding import Finding, Use
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.slots import Form

FIXED_ROLES = frozenset({Role.RUNNING_MEAN, Role.RUNNING_VARIANCE, Role.QUANTIZED, Role.CONSTANT})
"""Roles of what is never initialised."""

_WEIGHTS = frozenset({Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR})
_TABLES = frozenset({Role.EMBEDDING, Role.POSITION, Role.TOKEN, Role.RELATIVE_POSITION})
_SCALES = frozenset({Role.NORM_SCALE, Role.LAYER_SCALE, Role.LOGIT_SCALE})


@dataclass(frozen=True)
class GivenRole:
    """A role from the user.

    Attributes:
        role: What the tensor does.
        origin: Who says so: an option or a file.
        settable: Whether the user means the tensor to be set, too.
    """

    role: Role
    origin: str
    settable: bool = True

    @property
    def reason(self) -> str:
        """The reason of a verdict that rests on it."""
        return f"its role is given by {self.origin}"


def as_given(given: GivenRole, found: Finding, use: Use | None) -> Finding:
    """What the reader found, corrected by the user; unchanged where they agree.

    It is unchanged, too, where the role is one that only the reader can find, a statistic's say.

    Args:
        given: What the user says.
        found: What the reader says.
        use: The use of the tensor that decided.
    """
    role = given.role
    if role is found.role and (found.learnable or not given.settable):
        return found
    if role is not found.role and role in FIXED_ROLES and role is not Role.CONSTANT:
        return found
    return replace(
        found,
        role=role,
        learnable=role not in FIXED_ROLES,
        reason=given.reason,
        form=found.form if role is found.role else _form(role, found, use),
        neutral=found.neutral if role is found.role else float(role in _SCALES),
        copy=None,
    )


def _form(role: Role, found: Finding, use: Use | None) -> Form:
    """How a tensor of a given role lies: as its slot says, else as a torch module holds it."""
    slot = slots.find(use.node, use.index) if use is not None else None
    if role in _WEIGHTS:
        if slot is not None and slot.form in slots.MATRICES:
            return slot.form
        if use is not None and use.node.op_type == "Einsum":
            return Form.EINSUM
        if use is not None and use.node.op_type in ("MatMul", "FusedMatMul", "Gemm"):
            return Form.MATRIX if use.index else Form.MATRIX_LEFT
        return Form.KERNEL
    if role in (Role.RECURRENT_INPUT, Role.RECURRENT_HIDDEN):
        return Form.GATES if slot is not None and slot.form is Form.GATES else Form.KERNEL
    if role is Role.RECURRENT_BIAS and slot is not None and slot.form is Form.GATE_BIAS:
        return slot.form
    if role in _TABLES:
        return found.form if found.form is Form.CHANNEL_TABLE else Form.TABLE
    return Form.VECTOR
