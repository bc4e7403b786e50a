"""Normalisation: scales and shifts that stand beside a norm, and norms that have none."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_ghn.read.constants import has_value, root_tensor
from onnx_ghn.read.context import MEANS, NORMS, PASSING, ahead, behind, comes_from
from onnx_ghn.read.dataflow import DataFlow
from onnx_ghn.read.finding import Finding, Use, keep
from onnx_ghn.read.layout import Transpose
from onnx_ghn.read.marks import Mark, mark_of
from onnx_ghn.read.parameter import Role
from onnx_ghn.read.slots import Slot

_TO_DENOMINATOR = PASSING | {"Sqrt", "Add", "Pow", "Reciprocal", "Max", "Clip", "Mul", "Abs", "Sub"}
_MAX_BYTES = 16 << 20


def normalised(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether `value` has just been normalised, by an operator or a decomposed form.

    The decomposed forms are x / sqrt(mean(x^2) + eps), x * rsqrt(...), and those of GroupNorm
    (InstanceNormalization between two Reshapes).
    """
    node = behind(flow, value)
    if node is None:
        return False
    if node.op_type in NORMS:
        return True
    if node.op_type == "Div":
        return is_denominator(flow, node.inputs[1])
    if node.op_type == "Mul" and len(node.inputs) == 2:
        return any(is_inverse_deviation(flow, operand) for operand in node.inputs)
    return False


def is_denominator(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether `value` is a root of a mean of squares (or a norm): what a norm divides by."""
    node = comes_from(
        flow,
        value,
        lambda n: n.op_type in ("Sqrt", "Pow", "ReduceL2"),
        PASSING | {"Max", "Clip", "Add"},
    )
    if node is None:
        return False
    if node.op_type == "ReduceL2":
        return True
    return (
        comes_from(flow, node.inputs[0], lambda n: n.op_type in MEANS, _TO_DENOMINATOR) is not None
    )


def is_inverse_deviation(flow: DataFlow, value: ir.Value | None) -> bool:
    """Whether `value` is 1 / sqrt(mean(x^2) + eps), by Reciprocal, Div or Pow."""
    node = behind(flow, value)
    if node is None:
        return False
    if node.op_type == "Reciprocal":
        return is_denominator(flow, node.inputs[0])
    if node.op_type == "Div" and not flow.is_data(node.inputs[0]):
        return is_denominator(flow, node.inputs[1])
    if node.op_type == "Pow":
        return (
            comes_from(flow, node.inputs[0], lambda n: n.op_type in MEANS, _TO_DENOMINATOR)
            is not None
        )
    return False


def scaled(flow: DataFlow, value: ir.Value | None, *, by_table: bool = False) -> bool:
    """Whether `value` is a normalised value times a learned scale: a shift may follow.

    Args:
        flow: The data flow.
        value: The value.
        by_table: Whether the scale must have more than one axis, as a shift that has more does:
            what follows a scale of channels is a table of positions.
    """
    node = behind(flow, value)
    if node is None or node.op_type != "Mul" or len(node.inputs) != 2:
        return False
    for index in (0, 1):
        if flow.is_param(node.inputs[index]) and not flow.is_signal(node.inputs[index]):
            signal = node.inputs[1 - index]
            if by_table and sum(size != 1 for size in flow.shape(node.inputs[index]) or ()) < 2:
                return False
            return normalised(flow, signal) or is_inverse_deviation(flow, signal)
        inner = behind(flow, node.inputs[index])
        # x * (rsqrt(...) * scale), the order of TensorFlow
        if inner is not None and inner.op_type == "Mul" and len(inner.inputs) == 2:
            for k in (0, 1):
                if flow.is_param(inner.inputs[k]) and is_inverse_deviation(
                    flow, inner.inputs[1 - k]
                ):
                    return True
    return False


def slot_finding(flow: DataFlow, use: Use, slot: Slot) -> Finding:
    """The finding on a scale, shift or statistic in the slot of a norm operator."""
    node = use.node
    reason = f"input {use.index} of {node.op_type}"
    if slot.role in (Role.RUNNING_MEAN, Role.RUNNING_VARIANCE):
        if use.origin.path and not flow.is_signal(node.inputs[0]):
            return _standardised_copy(flow, use)
        return Finding(slot.role, False, reason, neutral=slot.neutral, decisive=True)
    found = Finding(slot.role, True, reason, neutral=slot.neutral, decisive=True)
    if node.op_type == "BatchNormalization" and not flow.is_signal(node.inputs[0]):
        return _standardised(flow, use, found)
    if node.op_type == "InstanceNormalization":
        return _instance(flow, use, found)
    return _unless_filler(flow, use, found)


def _standardised(flow: DataFlow, use: Use, found: Finding) -> Finding:
    """Weight standardisation: BatchNormalization over a kernel instead of data."""
    if found.role is Role.NORM_SHIFT:
        return keep("shift of a weight standardisation, which has none to learn")
    if _is_unlike_parameters(flow, use) and is_filled(use.origin.root, 1.0):
        return keep("fills the scale of a weight standardisation without gain")
    neutral, layer = 1.0, None
    if not any(node.op_type == "Mul" for node in use.origin.path):
        # The exporter has multiplied the gain with two constants: the 1/sqrt(fan-in) of the
        # standardised kernel, and what makes up for the activation before the layer.
        shape = flow.shape(use.node.inputs[0])
        if shape is not None and len(shape) == 3 and shape[2] > 0:
            neutral = float(shape[2]) ** -0.5
        layers = (node for node in ahead(flow, use.node.outputs[0]) if node.op_type == "Conv")
        layer = next(layers, None)
    return Finding(
        Role.NORM_SCALE,
        True,
        "gain of a weight standardisation",
        neutral=neutral,
        decisive=True,
        layer=layer,
    )


def _standardised_copy(flow: DataFlow, use: Use) -> Finding:
    """A second copy of a standardised kernel, from which its mean and variance are computed.

    Constant folding stores the kernel once as BatchNormalization takes it, (1, out, fan-in), and
    once more, transposed, for the statistics: the two are one parameter.
    """
    kernels = flow.origins(use.node.inputs[0])
    means = [node for node in use.origin.path if node.op_type == "ReduceMean"]
    own = flow.shape(use.origin.root)
    if len(kernels) != 1 or kernels[0].root is use.origin.root or own is None or not means:
        return keep("statistics of a kernel")
    kernel = kernels[0].root
    theirs = flow.shape(kernel)
    axes = flow.constants.axes(means[0])
    if axes is None or theirs is None or len(theirs) != 3 or len(own) != 3:
        return keep("statistics of a computed kernel")
    turned = 1 in {axis % 3 for axis in axes}
    permutation = Transpose((0, 2, 1) if turned else (0, 1, 2))
    if tuple(theirs[axis] for axis in permutation.permutation) != own:
        return keep("statistics of another kernel")
    return Finding(
        Role.CONV,
        True,
        "a copy of a standardised kernel",
        decisive=True,
        copy=(kernel, permutation),
    )


def _instance(flow: DataFlow, use: Use, found: Finding) -> Finding:
    """InstanceNormalization that stands for GroupNorm has ones and zeros in its slots."""
    before = flow.producer(use.node.inputs[0])
    after = ahead(flow, use.node.outputs[0])
    affine = bool(after) and all(
        node.op_type == "Mul" and any(flow.is_param(v) for v in node.inputs) for node in after
    )
    if affine or (before is not None and before.op_type == "Reshape"):
        return keep("fills the slot of an InstanceNormalization that stands for a GroupNorm")
    return _unless_filler(flow, use, found)


def _has_affine_after(flow: DataFlow, node: ir.Node) -> bool:
    """Whether the output is scaled and then shifted by vectors: the scale inside is a filler."""
    after = ahead(flow, node.outputs[0])
    if len(after) != 1 or after[0].op_type != "Mul" or not any(map(flow.is_param, after[0].inputs)):
        return False
    last = ahead(flow, after[0].outputs[0])
    return len(last) == 1 and last[0].op_type == "Add" and any(map(flow.is_param, last[0].inputs))


def _unless_filler(flow: DataFlow, use: Use, found: Finding) -> Finding:
    """Keep what an exporter writes for a norm without affine parameters.

    A fresh model has ones and zeros in its learnable norms, too, so the values alone tell
    nothing: a filler must also stand where this exporter does not put parameters.
    """
    alone = len(use.node.inputs) == 2
    if alone and _has_affine_after(flow, use.node) and mark_of(use.origin.root) is None:
        return keep("fills the scale of a norm whose scale and shift stand after it")
    if _is_unlike_parameters(flow, use) and is_filled(use.origin.root, found.neutral):
        return keep("fills the input of a norm without affine parameters")
    return found


def _is_unlike_parameters(flow: DataFlow, use: Use) -> bool:
    """Whether the exporter would have stored a parameter otherwise than this tensor.

    That is without its mark in a file that marks its parameters, or as a Constant node in a file
    that has initializers for its kernels and matrices.
    """
    root = use.origin.root
    if use.origin.path:
        return False
    if flow.marks_parameters:
        return mark_of(root) is not Mark.PARAMETER
    node = root.producer()
    return node is not None and node.op_type == "Constant" and flow.stores_weights


def is_fixed_kernel(use: Use) -> bool:
    """Whether a depthwise kernel holds the same numbers, not all equal, for every channel."""
    shape = use.shape
    if shape is None or len(shape) < 3 or shape[0] < 2 or shape[1] != 1:
        return False
    if use.origin.path or math.prod(shape[2:]) < 2:
        return False
    array = stored_array(use.origin.root)
    if array is None or array.shape != shape:
        return False
    return bool(np.all(array == array[:1])) and float(np.ptp(array)) > 0.0


def is_filled(value: ir.Value, number: float) -> bool:
    """Whether a stored tensor holds `number` everywhere. False where the bytes are absent."""
    array = stored_array(value)
    return array is not None and bool(np.all(array == number))


def stored_array(value: ir.Value) -> np.ndarray | None:
    """The stored values as float64, or None where they are absent or above 16 MB."""
    tensor = root_tensor(value)
    if tensor is None or tensor.size == 0 or tensor.nbytes > _MAX_BYTES or not has_value(value):
        return None
    try:
        return tensor.numpy().astype(np.float64)
    except (OSError, ValueError, RuntimeError):  # external data that is not there
        return None
