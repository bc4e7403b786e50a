"""Weight slots: which input of which operator takes which role. Data, one entry a slot.

A slot is evidence by itself: what stands in it is a weight, whatever its name or its values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import onnx_ir as ir

from onnx_ghn.read.parameter import Role

MICROSOFT = "com.microsoft"

FLOAT_TYPES = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)

QUANTIZED_TYPES = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.INT32,
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E5M2,
    }
)

REARRANGING = frozenset(
    {
        "Identity",
        "Cast",
        "CastLike",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "DequantizeLinear",
    }
)
"""Operators that keep every element of their first input, in another shape, order or type."""


class Form(enum.StrEnum):
    """How the operand of a slot lies, hence how its logical shape is found."""

    KERNEL = "kernel"
    """Conv: (out, in / groups, *kernel)."""
    KERNEL_TRANSPOSED = "kernel_transposed"
    """ConvTranspose: (in, out / groups, *kernel)."""
    MATRIX = "matrix"
    """Right operand of MatMul: (..., in, out)."""
    MATRIX_LEFT = "matrix_left"
    """Left operand of MatMul: (..., out, in)."""
    GEMM = "gemm"
    """Gemm's B: (out, in) if transB, else (in, out)."""
    EINSUM = "einsum"
    """Any operand of Einsum: the contracted letters are the inputs."""
    VECTOR = "vector"
    """One number a channel."""
    TABLE = "table"
    """(rows, dim)."""
    CHANNEL_TABLE = "channel_table"
    """(channels, height, width)."""
    GATES = "gates"
    """(directions, gates x hidden, in)."""
    GATE_BIAS = "gate_bias"
    """(directions, 2 x gates x hidden), input biases first."""


MATRICES = frozenset(
    {Form.KERNEL, Form.KERNEL_TRANSPOSED, Form.MATRIX, Form.MATRIX_LEFT, Form.GEMM, Form.EINSUM}
)
"""Forms of weights that mix channels: what follows them may carry a bias."""


@dataclass(frozen=True)
class Slot:
    """Input `index` of operator `op` holds a tensor of role `role`, laid out as `form`."""

    op: str
    index: int
    role: Role
    form: Form
    domain: str = ""
    neutral: float = 0.0
    learnable: bool = True


def _norm(op: str, scale: int, shift: int | None, domain: str = "") -> list[Slot]:
    slots = [Slot(op, scale, Role.NORM_SCALE, Form.VECTOR, domain, neutral=1.0)]
    if shift is not None:
        slots.append(Slot(op, shift, Role.NORM_SHIFT, Form.VECTOR, domain))
    return slots


def _linear(op: str, weight: int, bias: int | None, form: Form, domain: str = "") -> list[Slot]:
    role = Role.CONV if form is Form.KERNEL else Role.LINEAR
    role = Role.CONV_TRANSPOSE if form is Form.KERNEL_TRANSPOSED else role
    slots = [Slot(op, weight, role, form, domain)]
    if bias is not None:
        slots.append(Slot(op, bias, Role.BIAS, Form.VECTOR, domain))
    return slots


def _recurrent(op: str, peephole: int | None = None, domain: str = "") -> list[Slot]:
    slots = [
        Slot(op, 1, Role.RECURRENT_INPUT, Form.GATES, domain),
        Slot(op, 2, Role.RECURRENT_HIDDEN, Form.GATES, domain),
        Slot(op, 3, Role.RECURRENT_BIAS, Form.GATE_BIAS, domain),
    ]
    if peephole is not None:
        slots.append(Slot(op, peephole, Role.RECURRENT_BIAS, Form.VECTOR, domain))
    return slots


SLOTS: tuple[Slot, ...] = (
    *_linear("Conv", 1, 2, Form.KERNEL),
    *_linear("ConvTranspose", 1, 2, Form.KERNEL_TRANSPOSED),
    *_linear("DeformConv", 1, 3, Form.KERNEL),
    *_linear("FusedConv", 1, 2, Form.KERNEL, MICROSOFT),
    *_linear("NhwcConv", 1, 2, Form.KERNEL, MICROSOFT),
    *_linear("Gemm", 1, 2, Form.GEMM),
    *_linear("FusedGemm", 1, 2, Form.GEMM, MICROSOFT),
    *_linear("MatMul", 1, None, Form.MATRIX),
    *_linear("FusedMatMul", 1, None, Form.MATRIX, MICROSOFT),
    Slot("BiasGelu", 1, Role.BIAS, Form.VECTOR, MICROSOFT),
    Slot("FastGelu", 1, Role.BIAS, Form.VECTOR, MICROSOFT),
    Slot("BiasSoftmax", 1, Role.RELATIVE_POSITION, Form.VECTOR, MICROSOFT),
    Slot("Attention", 1, Role.LINEAR, Form.MATRIX, MICROSOFT),
    Slot("Attention", 2, Role.BIAS, Form.VECTOR, MICROSOFT),
    Slot("MultiHeadAttention", 3, Role.BIAS, Form.VECTOR, MICROSOFT),
    *_norm("BatchNormalization", 1, 2),
    Slot("BatchNormalization", 3, Role.RUNNING_MEAN, Form.VECTOR, learnable=False),
    Slot("BatchNormalization", 4, Role.RUNNING_VARIANCE, Form.VECTOR, neutral=1.0, learnable=False),
    *_norm("InstanceNormalization", 1, 2),
    *_norm("GroupNormalization", 1, 2),
    *_norm("GroupNorm", 1, 2, MICROSOFT),
    *_norm("LayerNormalization", 1, 2),
    *_norm("RMSNormalization", 1, None),
    *_norm("SimplifiedLayerNormalization", 1, None),
    *_norm("SimplifiedLayerNormalization", 1, None, MICROSOFT),
    *_norm("SkipLayerNormalization", 2, 3, MICROSOFT),
    Slot("SkipLayerNormalization", 4, Role.BIAS, Form.VECTOR, MICROSOFT),
    *_norm("SkipSimplifiedLayerNormalization", 2, None, MICROSOFT),
    Slot("SkipSimplifiedLayerNormalization", 3, Role.BIAS, Form.VECTOR, MICROSOFT),
    Slot("EmbedLayerNormalization", 2, Role.EMBEDDING, Form.TABLE, MICROSOFT),
    Slot("EmbedLayerNormalization", 3, Role.POSITION, Form.TABLE, MICROSOFT),
    Slot("EmbedLayerNormalization", 4, Role.EMBEDDING, Form.TABLE, MICROSOFT),
    *_norm("EmbedLayerNormalization", 5, 6, MICROSOFT),
    *_recurrent("LSTM", 7),
    *_recurrent("GRU"),
    *_recurrent("RNN"),
    *_recurrent("DynamicQuantizeLSTM", domain=MICROSOFT),
    Slot("PRelu", 1, Role.PRELU_SLOPE, Form.VECTOR),
    Slot("QLinearConv", 3, Role.CONV, Form.KERNEL),
    Slot("QLinearConv", 8, Role.BIAS, Form.VECTOR),
    Slot("QLinearMatMul", 3, Role.LINEAR, Form.MATRIX),
    Slot("QGemm", 3, Role.LINEAR, Form.GEMM, MICROSOFT),
    Slot("QGemm", 6, Role.BIAS, Form.VECTOR, MICROSOFT),
    Slot("MatMulInteger", 1, Role.LINEAR, Form.MATRIX),
    Slot("ConvInteger", 1, Role.CONV, Form.KERNEL),
    Slot("DynamicQuantizeMatMul", 1, Role.LINEAR, Form.MATRIX, MICROSOFT),
    Slot("MatMulIntegerToFloat", 1, Role.LINEAR, Form.MATRIX, MICROSOFT),
)

_TABLE = {(slot.domain, slot.op, slot.index): slot for slot in SLOTS}
assert len(_TABLE) == len(SLOTS), "a slot is entered twice"


def find(node: ir.Node, index: int) -> Slot | None:
    """The weight slot at input `index` of `node`, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return _TABLE.get((domain, node.op_type, index))
