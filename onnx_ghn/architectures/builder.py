"""Writes a network node by node as an ONNX graph, and knows the shape of each value.

Weights are initializers without bytes: an architecture is a structure, and its values are for a
hypernetwork to predict. Only constants of the structure (axes, shapes, and the neutral statistics
of a BatchNormalization) have values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

OPSET = 21
"""The first version with a GroupNormalization that scales each channel; it also has Gelu."""
IR_VERSION = 10
BATCH = "N"
"""Name of the dynamic batch axis."""

_FLOAT = ir.TensorType(ir.DataType.FLOAT)
_INT = ir.TensorType(ir.DataType.INT64)
_ACTIVATIONS = {
    "relu": "Relu",
    "gelu": "Gelu",
    "hardswish": "HardSwish",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
}
NORMS = ("bn", "ln", "gn", "none")
ACTIVATIONS = (*_ACTIVATIONS, "relu6", "silu")


@dataclass(frozen=True)
class Map:
    """A value: its number, and its shape after the batch axis.

    (channels, side, side) of an image, (tokens, width) of a sequence, (width,) of a vector.
    """

    value: int
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Channels of an image, width of a sequence or vector."""
        return self.shape[0] if len(self.shape) == 3 else self.shape[-1]

    @property
    def side(self) -> int:
        """Rows of an image."""
        return self.shape[1]


@dataclass(frozen=True)
class _Tensor:
    """An initializer: of no value where learnable."""

    name: str
    shape: tuple[int, ...]
    array: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    attributes: Sequence[ir.Attr]
    is_size: bool


class Builder:
    """Collects the nodes of one graph; the ONNX objects are made by `finish`.

    To record is cheap, to make them is not: a network that turns out too large costs little.

    Args:
        norm: Normalisation of the network, one of `NORMS`.
        activation: Its non-linearity, one of `ACTIVATIONS`.

    Attributes:
        macs: Multiply-adds of all convolutions, linear layers and attention so far, per example.
        weights: Elements of all learnable tensors so far.
        layers: Convolutions and linear layers so far.
    """

    def __init__(self, norm: str = "bn", activation: str = "relu") -> None:
        self.norm_kind = norm
        self.activation_kind = activation
        self.macs = 0
        self.weights = 0
        self.layers = 0
        self._values = 0
        self._nodes: list[_Node] = []
        self._tensors: dict[int, _Tensor] = {}
        self._shared: dict[object, int] = {}
        self._image: tuple[int, ...] = ()

    # Plumbing

    def input(self, shape: tuple[int, ...]) -> Map:
        """The graph's input, images of `shape`; asked for once, first."""
        self._image = shape
        return Map(self._number(), shape)

    def finish(self, logits: Map, name: str) -> ir.Model:
        """The model whose output is `logits`."""
        values = {0: _float("input", (BATCH, *self._image))}
        initializers = []
        for number, tensor in self._tensors.items():
            values[number] = _initializer(tensor)
            initializers.append(values[number])
        nodes = []
        for position, node in enumerate(self._nodes):
            title = f"{node.op}_{position}"
            output = "logits" if node.output == logits.value else f"value_{position}"
            values[node.output] = (
                ir.Value(name=output, shape=ir.Shape(node.shape), type=_INT)
                if node.is_size
                else _float(output, (BATCH, *node.shape))
            )
            nodes.append(
                ir.Node(
                    "",
                    node.op,
                    [values[number] for number in node.inputs],
                    node.attributes,
                    outputs=[values[node.output]],
                    name=title,
                )
            )
        graph = ir.Graph(
            [values[0]],
            [values[logits.value]],
            nodes=nodes,
            initializers=initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="onnx-ghn")

    def node(
        self,
        op: str,
        inputs: Sequence[int],
        shape: tuple[int, ...],
        attributes: Sequence[ir.Attr] = (),
        *,
        is_size: bool = False,
    ) -> Map:
        """Append a node with one output, of `shape` after the batch axis.

        Where `is_size`, the output is a tensor's size: integers, without a batch axis.
        """
        output = self._number()
        self._nodes.append(_Node(op, tuple(inputs), output, shape, attributes, is_size))
        return Map(output, shape)

    def weight(self, kind: str, shape: tuple[int, ...]) -> int:
        """A learnable initializer, without a value."""
        self.weights += math.prod(shape)
        return self._tensor(kind, shape)

    def constant(self, array: npt.NDArray[Any]) -> int:
        """An initializer with a value; equal ones are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self._tensor("constant", array.shape, array)
        return self._shared[key]

    def _tensor(
        self, kind: str, shape: tuple[int, ...], array: npt.NDArray[Any] | None = None
    ) -> int:
        number = self._number()
        self._tensors[number] = _Tensor(f"{kind}_{len(self._tensors)}", shape, array)
        return number

    def _number(self) -> int:
        self._values += 1
        return self._values - 1

    # Layers with weights

    def conv(
        self,
        x: Map,
        out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        bias: bool | None = None,
        padded: bool = True,
    ) -> Map:
        """A convolution, padded to the same side; with a bias where no BatchNorm follows."""
        ins, side = x.channels, x.side
        pad = dilation * (kernel - 1) // 2 if padded else 0
        after = (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        self.layers += 1
        inputs = [x.value, self.weight("conv", (out, ins // groups, kernel, kernel))]
        if self.norm_kind != "bn" if bias is None else bias:
            inputs.append(self.weight("bias", (out,)))
        self.macs += out * (ins // groups) * kernel * kernel * after * after
        attributes = _conv_attributes(kernel, stride, groups, dilation, pad)
        return self.node("Conv", inputs, (out, after, after), attributes)

    def linear(self, x: Map, out: int, *, bias: bool = True) -> Map:
        """A dense layer: Gemm on vectors, MatMul and Add on sequences."""
        ins = x.channels
        self.layers += 1
        self.macs += out * ins * (x.shape[0] if len(x.shape) == 2 else 1)
        if len(x.shape) == 1:
            inputs = [x.value, self.weight("linear", (out, ins))]
            if bias:
                inputs.append(self.weight("bias", (out,)))
            return self.node("Gemm", inputs, (out,), _GEMM)
        shape = (*x.shape[:-1], out)
        y = self.node("MatMul", [x.value, self.weight("linear", (ins, out))], shape)
        return self.node("Add", [y.value, self.weight("bias", (out,))], shape) if bias else y

    def norm(self, x: Map) -> Map:
        """The network's normalisation of an image's channels."""
        channels = x.channels
        if self.norm_kind == "none":
            return x
        if self.norm_kind == "ln":
            y = self.transpose(x, (0, 2, 3, 1), (x.side, x.side, channels))
            y = self.layer_norm(y, channels)
            return self.transpose(y, (0, 3, 1, 2), x.shape)
        inputs = [x.value, self.weight("scale", (channels,)), self.weight("shift", (channels,))]
        if self.norm_kind == "gn":
            return self.node("GroupNormalization", inputs, x.shape, _groups_of(channels))
        # Statistics are state: each layer has its own, though all start with equal values.
        inputs.append(self._tensor("mean", (channels,), np.zeros(channels, np.float32)))
        inputs.append(self._tensor("variance", (channels,), np.ones(channels, np.float32)))
        return self.node("BatchNormalization", inputs, x.shape, _EPSILON)

    def layer_norm(self, x: Map, width: int) -> Map:
        """LayerNormalization over the last axis."""
        inputs = [x.value, self.weight("scale", (width,)), self.weight("shift", (width,))]
        return self.node("LayerNormalization", inputs, x.shape, _LAST_AXIS)

    def positions(self, x: Map) -> Map:
        """Add a learnable position table to a sequence."""
        return self.node("Add", [x.value, self.weight("position", (1, *x.shape))], x.shape)

    def class_token(self, x: Map) -> Map:
        """Put a learnable token in front of a sequence."""
        tokens, width = x.shape
        batch = self.node("Shape", [x.value], (1,), _BATCH_AXIS, is_size=True)
        rest = self.constant(np.array([1, width]))
        size = self.node("Concat", [batch.value, rest], (3,), _FIRST_AXIS, is_size=True)
        token = self.weight("token", (1, 1, width))
        token = self.node("Expand", [token, size.value], (1, width)).value
        return self.node("Concat", [token, x.value], (1 + tokens, width), _CHANNEL_AXIS)

    # Layers without weights

    def activation(self, x: Map, kind: str | None = None) -> Map:
        """The network's non-linearity, or that of `kind`."""
        kind = kind or self.activation_kind
        if kind == "silu":
            gate = self.node("Sigmoid", [x.value], x.shape)
            return self.node("Mul", [x.value, gate.value], x.shape)
        if kind == "relu6":
            bounds = [self.constant(np.array(bound, np.float32)) for bound in (0.0, 6.0)]
            return self.node("Clip", [x.value, *bounds], x.shape)
        return self.node(_ACTIVATIONS[kind], [x.value], x.shape)

    def add(self, x: Map, y: Map) -> Map:
        """Sum of two values of one shape."""
        return self.node("Add", [x.value, y.value], x.shape)

    def multiply(self, x: Map, y: Map, shape: tuple[int, ...]) -> Map:
        """Product, broadcast to `shape`."""
        return self.node("Mul", [x.value, y.value], shape)

    def concat(self, parts: Sequence[Map]) -> Map:
        """Concatenation of images along the channels."""
        shape = (sum(part.channels for part in parts), *parts[0].shape[1:])
        return self.node("Concat", [part.value for part in parts], shape, _CHANNEL_AXIS)

    def channels(self, x: Map, start: int, end: int) -> Map:
        """Channels `start` up to `end` of an image."""
        bounds = [self.constant(np.array([number])) for number in (start, end, 1)]
        return self.node("Slice", [x.value, *bounds], (end - start, *x.shape[1:]))

    def shuffle(self, x: Map, groups: int) -> Map:
        """Deal the channels of an image out in turn: each group gets some of every other."""
        each, side = x.channels // groups, x.side
        y = self.reshape(x, (0, groups, each, side, side), (groups, each, side, side))
        y = self.transpose(y, (0, 2, 1, 3, 4), (each, groups, side, side))
        return self.reshape(y, (0, x.channels, side, side), x.shape)

    def pool(self, x: Map, kind: str, kernel: int = 2, stride: int = 2) -> Map:
        """Max or average pooling ("max", "avg"); an odd kernel is padded to the same side."""
        pad = (kernel - 1) // 2 if kernel % 2 else 0
        after = (x.side + 2 * pad - kernel) // stride + 1
        op = "MaxPool" if kind == "max" else "AveragePool"
        return self.node(op, [x.value], (x.channels, after, after), _window(kernel, stride, pad))

    def global_pool(self, x: Map) -> Map:
        """Mean of an image over its pixels, of a sequence over its tokens: a vector."""
        if len(x.shape) == 2:
            axes = self.constant(np.array([1]))
            return self.node("ReduceMean", [x.value, axes], (x.channels,), _DROP_AXES)
        y = self.node("GlobalAveragePool", [x.value], (x.channels, 1, 1))
        return self.node("Flatten", [y.value], (x.channels,), _CHANNEL_AXIS)

    def transpose(self, x: Map, order: tuple[int, ...], shape: tuple[int, ...]) -> Map:
        """Permute all axes, the batch axis included in `order` and left out of `shape`."""
        return self.node("Transpose", [x.value], shape, [ir.AttrInt64s("perm", order)])

    def pick(self, x: Map, index: int) -> Map:
        """Entry `index` of the first axis after the batch axis."""
        inputs = [x.value, self.constant(np.array(index))]
        return self.node("Gather", inputs, x.shape[1:], _CHANNEL_AXIS)

    def reshape(self, x: Map, target: tuple[int, ...], shape: tuple[int, ...]) -> Map:
        """Reshape; `target` as ONNX takes it, where 0 keeps the axis of that position."""
        return self.node("Reshape", [x.value, self.constant(np.array(target))], shape)


_GEMM = (ir.AttrInt64("transB", 1),)
_EPSILON = (ir.AttrFloat32("epsilon", 1e-5),)
_LAST_AXIS = (ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", 1e-5))
_CHANNEL_AXIS = (ir.AttrInt64("axis", 1),)
_FIRST_AXIS = (ir.AttrInt64("axis", 0),)
_BATCH_AXIS = (ir.AttrInt64("start", 0), ir.AttrInt64("end", 1))
_DROP_AXES = (ir.AttrInt64("keepdims", 0),)
_GROUP_WIDTH = 8


@functools.cache
def _conv_attributes(
    kernel: int, stride: int, groups: int, dilation: int, pad: int
) -> tuple[ir.Attr, ...]:
    return (
        ir.AttrInt64s("dilations", (dilation, dilation)),
        ir.AttrInt64("group", groups),
        ir.AttrInt64s("kernel_shape", (kernel, kernel)),
        ir.AttrInt64s("pads", (pad,) * 4),
        ir.AttrInt64s("strides", (stride, stride)),
    )


@functools.cache
def _window(kernel: int, stride: int, pad: int) -> tuple[ir.Attr, ...]:
    return (
        ir.AttrInt64s("kernel_shape", (kernel, kernel)),
        ir.AttrInt64s("pads", (pad,) * 4),
        ir.AttrInt64s("strides", (stride, stride)),
    )


@functools.cache
def _groups_of(channels: int) -> tuple[ir.Attr, ...]:
    """Groups of eight channels; every width in use is a multiple of eight."""
    return (*_EPSILON, ir.AttrInt64("num_groups", max(1, channels // _GROUP_WIDTH)))


def _float(name: str, shape: tuple[int | str, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=_FLOAT)


def _initializer(tensor: _Tensor) -> ir.Value:
    value = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=_FLOAT)
    if tensor.array is not None:
        value.const_value = ir.Tensor(tensor.array, name=tensor.name)
        value.type = ir.TensorType(value.const_value.dtype)
    return value
