"""What the reader says of one float tensor of a model: verdict, role, layout, ties, sites."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_ghn.read.layout import Layout


class Role(enum.StrEnum):
    """What a tensor does in the network. The value is what reports print."""

    # Learnable roles.
    CONV = "conv"
    CONV_TRANSPOSE = "conv_transpose"
    LINEAR = "linear"
    BIAS = "bias"
    NORM_SCALE = "norm_scale"
    NORM_SHIFT = "norm_shift"
    EMBEDDING = "embedding"
    POSITION = "position"
    TOKEN = "token"
    RELATIVE_POSITION = "relative_position"
    LAYER_SCALE = "layer_scale"
    RECURRENT_INPUT = "recurrent_input"
    RECURRENT_HIDDEN = "recurrent_hidden"
    RECURRENT_BIAS = "recurrent_bias"
    PRELU_SLOPE = "prelu_slope"
    LOGIT_SCALE = "logit_scale"
    OTHER = "other"
    # Roles of tensors that are never initialised.
    RUNNING_MEAN = "running_mean"
    RUNNING_VARIANCE = "running_variance"
    QUANTIZED = "quantized"
    CONSTANT = "constant"


class Holder(enum.StrEnum):
    """What in the file gives the tensor, hence what the pass has to replace."""

    INITIALIZER = "initializer"
    """An initializer, with bytes, external bytes, or none."""
    INPUT = "input"
    """A graph input without initializer that feeds a weight slot."""
    CONSTANT = "constant"
    """The output of a Constant node."""
    CONSTANT_OF_SHAPE = "constant_of_shape"
    """The output of a ConstantOfShape (or Random*) node with a static shape."""
    IDENTITY = "identity"
    """The output of an Identity by which an exporter de-duplicated equal initializers."""


@dataclass(frozen=True)
class Site:
    """One use of a tensor: input `index` of `node`, after what lies between is seen through."""

    node: ir.Node
    index: int


@dataclass(frozen=True, eq=False)
class Parameter:
    """One float tensor of the model, learnable or not.

    Attributes:
        name: Its name in the file (for `Holder.IDENTITY` the Identity's output name).
        value: The `ir.Value` that carries it; `value.name == name`.
        holder: What in the file gives it.
        shape: Physical shape, as stored.
        dtype: Stored element type.
        role: What it does in the network.
        learnable: Whether initialisation may set it.
        reason: Why the reader came to its verdict, one clause, for the report.
        logical_shape: (out, in per group, *kernel) for weights, (features,) for vectors,
            (rows, dim) for embeddings and positions: as a torch module would hold it.
        layout: Turns a tensor of `logical_shape` into one of `shape`, and back.
        fan_in: True fan-in of one output unit (in per group x kernel), 1 for vectors.
        groups: Convolution groups.
        blocks: Independent matrices stacked along the logical out axis (packed q, k, v: 3;
            LSTM gates: 4 for each direction; a recurrent bias: twice that, input biases first).
        gain: Inverse of the estimated second moment of what this weight multiplies: 2 after ReLU,
            2.35 after GELU, 1 after linear, norm or input, less after sums of signals.
        neutral: The do-nothing value: 1 for a norm scale, 0 for one used as `1 + w`, for biases.
        depth_scale: 1, or `1/sqrt(n)` for the last projection of a residual branch in a
            pre-norm transformer of n residual branches (two a block).
        tie: Name of the first parameter of its tie group (its own where nothing is tied).
        source: For `Holder.IDENTITY`, the initializer behind it.
        has_value: Whether the file holds bytes for it. Never evidence for a verdict.
        sites: Where it is used, in node order. The first decides role and prediction.
    """

    name: str
    value: ir.Value
    holder: Holder
    shape: tuple[int, ...]
    dtype: ir.DataType
    role: Role
    learnable: bool
    reason: str
    logical_shape: tuple[int, ...]
    layout: Layout
    fan_in: int = 1
    groups: int = 1
    blocks: int = 1
    gain: float = 1.0
    neutral: float = 0.0
    depth_scale: float = 1.0
    tie: str = ""
    source: str | None = None
    has_value: bool = True
    sites: Sequence[Site] = field(default=())

    @property
    def tie_group(self) -> str:
        """Name of the first parameter of its tie group, itself where `tie` is empty."""
        return self.tie or self.name

    @property
    def value_key(self) -> tuple[str, tuple[int, ...]]:
        """What the parameters that have one value have in common: tie group, logical shape."""
        return self.tie_group, self.logical_shape
