"""Sides of feature maps in pixels, where a file doesn't declare the shapes of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ghn.read.dataflow import DataFlow

_SLIDING = frozenset({"Conv", "FusedConv", "MaxPool", "AveragePool", "LpPool"})
_TO_ONE = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
_KEEPING = frozenset(
    [
        *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"),
        *("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish"),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Softplus", "Exp", "Sqrt"),
        *("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow", "Neg", "Abs", "Concat"),
        *("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"),
    ]
)


class Sides:
    """The last side of NCHW values: declared, or computed from the sides before."""

    def __init__(self, flow: DataFlow) -> None:
        self._flow = flow
        self._sides: dict[ir.Value, int] = {}

    def of(self, value: ir.Value | None) -> int:
        """The side of a value in pixels; 0 where it is unknown or the value is no map."""
        if value is None:
            return 0
        value = self._flow.resolve(value)
        if value not in self._sides:
            self._sides[value] = self._declared(value)
        return self._sides[value]

    def of_input(self) -> int:
        """The side of the images that the model takes; 0 where unknown or it takes none."""
        shapes = [v.shape for v in self._flow.model.graph.inputs if self._flow.is_signal(v)]
        # The third axis is rows of pixels in NCHW and columns of them in NHWC.
        sides = [shape[2] for shape in shapes if shape is not None and shape.rank() == 4]
        return max((side for side in sides if isinstance(side, int)), default=0)

    def visit(self, node: ir.Node) -> None:
        """Compute the sides of a node's outputs; its inputs were visited before."""
        output = node.outputs[0]
        if self._declared(output) or (output.shape is not None and output.shape.rank() != 4):
            return
        side = 0
        if node.op_type in _SLIDING:
            side = self._slide(node)
        elif node.op_type in _TO_ONE:
            side = 1
        elif node.op_type in _KEEPING:
            side = max(map(self.of, filter(self._flow.is_signal, node.inputs)), default=0)
        self._sides[output] = side

    def _declared(self, value: ir.Value) -> int:
        shape = value.shape
        if shape is None:
            return 0
        side = shape[-1] if shape.rank() == 4 else 0
        return side if isinstance(side, int) and side > 0 else 0

    def _slide(self, node: ir.Node) -> int:
        """Places of a window that slides over a map (ONNX: ceil only where ceil_mode says so)."""
        side = self.of(node.inputs[0])
        kernel = node.attributes.get_ints("kernel_shape", [])
        if not kernel and len(node.inputs) > 1:
            kernel = self._flow.shape(node.inputs[1]) or ()
        if not side or not kernel:
            return 0
        stride = int(node.attributes.get_ints("strides", [1])[-1])
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if mode.startswith("SAME"):
            return -(-side // stride)
        pads = node.attributes.get_ints("pads", []) if mode == "NOTSET" else []
        reach = int(node.attributes.get_ints("dilations", [1])[-1]) * (int(kernel[-1]) - 1) + 1
        room = side + (int(pads[len(pads) // 2 - 1] + pads[-1]) if pads else 0) - reach
        if node.attributes.get_int("ceil_mode", 0):
            room += stride - 1
        return max(0, room // stride + 1)
