"""The form in which a model takes images: name, element type, layout and sizes of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_ghn.errors import ModelError

NCHW = "NCHW"
NHWC = "NHWC"

_CHANNELS = (1, 3, 4)
"""Sizes of an axis that speak for channels where nothing in the graph does."""

_ELEMENTWISE = frozenset(
    {"Identity", "Cast", "Add", "Sub", "Mul", "Div", "Pad", "Clip", "BatchNormalization"}
)
_LAYOUT_OF_PERMUTATION = {(0, 3, 1, 2): NHWC, (0, 2, 3, 1): NCHW}


@dataclass(frozen=True)
class InputForm:
    """What a model's only input takes.

    Attributes:
        name: Name of the input.
        dtype: Element type.
        shape: Size of each axis; None where it is dynamic.
        layout: "NCHW" or "NHWC" for four axes, else "".
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    layout: str = ""

    @property
    def batch(self) -> int | None:
        """Examples of a batch; None where any number runs."""
        return self.shape[0]

    @property
    def channels(self) -> int | None:
        """Channels of an image; None where the input is none or leaves it open."""
        return self.shape[self.layout.index("C")] if self.layout else None

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Rows and columns of an image; None where the input leaves them open."""
        if not self.layout:
            return None, None
        return self.shape[self.layout.index("H")], self.shape[self.layout.index("W")]


def input_form(model: ir.Model) -> InputForm:
    """Find the form of the input that has to be fed.

    The layout is what the first Conv or Transpose behind the input says, else what the sizes
    say, else NCHW.

    Raises:
        ModelError: There is not exactly one input, or it takes no tensor of numbers with a batch.
    """
    given = model.graph.initializers
    inputs = [value for value in model.graph.inputs if value.name not in given]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"labelled data feeds a model with one input; this one's are: {names}")
    (value,) = inputs
    if value.dtype is None or not (value.dtype.is_floating_point() or value.dtype.is_integer()):
        raise ModelError(f"input {value.name!r} takes no tensor of numbers")
    if value.shape is None or len(value.shape) < 2:
        raise ModelError(f"input {value.name!r} has no batch axis, or its shape is not declared")
    sizes = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    dtype = np.dtype(value.dtype.numpy())
    if len(sizes) != 4:
        return InputForm(str(value.name), dtype, sizes)
    layout, channels = _consumers_say(value)
    layout = layout or _sizes_say(sizes)
    axis = layout.index("C")
    filled = (*sizes[:axis], sizes[axis] or channels, *sizes[axis + 1 :])
    return InputForm(str(value.name), dtype, filled, layout)


def _consumers_say(value: ir.Value) -> tuple[str, int | None]:
    """Layout ("" where unknown) and channels, from the first node that tells."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop(0)
        for node, index in current.uses():
            if node.op_type == "Transpose":
                order = tuple(node.attributes.get_ints("perm", ()))
                if order in _LAYOUT_OF_PERMUTATION:
                    return _LAYOUT_OF_PERMUTATION[order], None
            if node.op_type == "Conv" and index == 0:
                kernel = node.inputs[1]
                size = kernel.shape[1] if kernel is not None and kernel.shape is not None else None
                groups = node.attributes.get_int("group", 1)
                return NCHW, size * groups if isinstance(size, int) else None
            if node.op_type in _ELEMENTWISE and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return "", None


def _sizes_say(sizes: tuple[int | None, ...]) -> str:
    return NHWC if sizes[3] in _CHANNELS and sizes[1] not in _CHANNELS else NCHW
