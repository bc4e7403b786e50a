"""Marks that exporters and strippers leave in a file, which are trusted where they are."""

from __future__ import annotations

import ast
import enum
import re

import onnx_ir as ir

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
_WEIGHTLESS = "TRT_WEIGHTLESS"
"""What polygraphy's weight-strip writes into the doc string of a tensor that it empties."""

_ARITHMETIC = frozenset(
    {
        *("abs", "add", "arange", "clamp", "clamp_min", "cumsum", "div", "einsum", "eq", "full"),
        *("full_like", "log", "mul", "neg", "ones", "ones_like", "pow", "reciprocal", "sqrt"),
        *("sub", "sum", "where", "zeros", "zeros_like"),
    }
)
_LAYERS = frozenset(
    {
        *("conv2d", "cos", "exp", "gelu", "layer_norm", "linear", "matmul", "native_layer_norm"),
        *("relu", "rsqrt", "scaled_dot_product_attention", "sigmoid", "sin", "softmax", "tanh"),
    }
)
"""Operators that never compute indices: a looked-up table that went through one is no parameter."""
_LOOKUPS = frozenset({"embedding", "index", "index_select", "select", "gather"})


class Mark(enum.Enum):
    """What the exporter says a tensor is."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    COMPUTED = "computed"
    """Folded from an expression that computes: its value is no parameter's."""


def mark_of(value: ir.Value) -> Mark | None:
    """The mark of torch.export, of onnxscript's constant folding or of polygraphy, or None."""
    kind = value.metadata_props.get(_KIND, "")
    if kind.endswith("PARAMETER") or _is_weightless(value):
        return Mark.PARAMETER
    if kind.endswith(("BUFFER", "CONSTANT_TENSOR")):
        return Mark.BUFFER
    folded = value.metadata_props.get(_FOLDED)
    if folded and _is_computed(value.name or "", folded):
        return Mark.COMPUTED
    return None


def _is_weightless(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and (tensor.doc_string or "").startswith(_WEIGHTLESS)


def _is_computed(name: str, folded: str) -> bool:
    """Whether a folded tensor is the result of arithmetic: its sources are named after operators.

    A table that is looked up by computed indices is still the table.
    """
    try:
        sources = ast.literal_eval(folded)
    except (ValueError, SyntaxError):
        return False
    operators = {re.sub(r"(_default)?[_\d]*$", "", str(source)) for source in (*sources, name)}
    if operators & _LAYERS:
        return True
    return bool(operators & _ARITHMETIC) and not operators & _LOOKUPS
