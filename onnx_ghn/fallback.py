"""Classical initialisers, chosen by what a tensor does: for what no hypernetwork predicts.

One rule covers every weight: an output unit that sums `fan_in` products keeps the variance of its
input when the weights have variance `gain / fan_in`, where gain makes up for the non-linearity
before the weight (He et al., "Delving deep into rectifiers", 2015). Weight matrices are
orthogonal at that variance (Saxe et al., "Exact solutions to the nonlinear dynamics of learning",
2014), group by group and gate by gate; above `LARGE` elements they are normal at the same
variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ModelError, OptionError
from onnx_ghn.orthogonal import orthogonal_rows
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.read.context import NORMS
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.residual import LAYER_SCALE, closes_branch

LARGE = 1 << 24
"""Elements above which a matrix is drawn as independent normals, at the speed of memory."""

TABLE_STD = 0.02
"""Of embeddings, positions and tokens, as in BERT and ViT."""

TRUNCATION = 2.0
"""Where the normal distribution of tables is cut, in standard deviations."""

PRELU_SLOPE = 0.25
"""He et al., 2015."""

INVERSE_TEMPERATURE = math.log(1 / 0.07)
"""Logarithm of CLIP's first logit scale (Radford et al., 2021), for scales behind an Exp."""

FORGET_BIAS = 1.0
"""Keeps an LSTM's memory at the start of training (Jozefowicz et al., 2015)."""

MATRIX_METHODS = ("orthogonal", "kaiming", "lecun", "xavier", "normal")
"""What a user may ask for; applies to weight matrices, all else stays classical."""

_OTHER_METHODS = ("constant", "forget-bias")

MATRIX_ROLES = frozenset(
    {Role.CONV, Role.CONV_TRANSPOSE, Role.LINEAR, Role.RECURRENT_INPUT, Role.RECURRENT_HIDDEN}
)
_TABLE_ROLES = frozenset({Role.EMBEDDING, Role.POSITION, Role.TOKEN, Role.RELATIVE_POSITION})
_PRODUCTS = frozenset(
    {"MatMul", "Gemm", "Conv", "Einsum", "LSTM", "GRU", "RNN", "FusedMatMul", "Attention"}
)
_DEVIATIONS = frozenset({"Sqrt", "ReduceL2"})
"""What a norm divides by, where it is written out."""
_TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Unsqueeze", "Clip", "Min", "Max"})
_NEUTRAL_ROLES = frozenset({Role.BIAS, Role.NORM_SCALE, Role.NORM_SHIFT, Role.RECURRENT_BIAS})


@dataclass(frozen=True)
class _Matrices:
    """A weight as `count` matrices of `rows` output units and `columns` inputs, stacked."""

    count: int
    rows: int
    columns: int


def method_for(parameter: Parameter, method: str = "classical") -> tuple[str, str]:
    """The initialiser for a tensor and, as one clause for the report, why.

    Args:
        parameter: What the reader says of the tensor.
        method: "classical" to choose by role, or one of `MATRIX_METHODS` for weight matrices.

    Returns:
        The method's name ("orthogonal", "kaiming", "lecun", "xavier", "normal", "constant",
        "forget-bias") and the reason.

    Raises:
        OptionError: There is no such method.
        ModelError: The tensor is no parameter (a constant or quantised weight).
    """
    role = parameter.role
    choices = ("classical", *MATRIX_METHODS)
    if method not in choices and (role in MATRIX_ROLES or method not in _OTHER_METHODS):
        raise OptionError(
            f"no initialiser for a {role} is called {method!r}: choose one of {', '.join(choices)}"
        )
    if role in MATRIX_ROLES:
        scale = f"gain {parameter.gain:g}, fan-in {parameter.fan_in}"
        if parameter.depth_scale != 1.0:
            scale += f", depth scale {parameter.depth_scale:.3g}"
        if method not in ("classical", "orthogonal"):
            return method, f"{role}, asked for; {scale}"
        if math.prod(parameter.logical_shape) > LARGE:
            return "kaiming", f"{role} of more than {LARGE:,} elements; {scale}"
        return "orthogonal", f"{role}; {scale}"
    if role in _TABLE_ROLES or role is Role.OTHER:
        why = "" if _table_std(parameter) == TABLE_STD else ", as no norm follows"
        return "normal", f"{role}; standard deviation {_table_std(parameter):g}{why}"
    if role is Role.RECURRENT_BIAS and _forget_gates(parameter) is not None:
        return "forget-bias", f"{role}; {FORGET_BIAS:g} for the forget gate, 0 for the others"
    return "constant", f"{role}; {_constant(parameter):.5g}"


def draw(
    parameter: Parameter,
    method: str = "classical",
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """The values of a tensor in its logical shape.

    Needs memory for the result and at most `LARGE` elements besides. The same arguments give the
    same bits, whatever else is drawn and however many cores there are.

    Args:
        parameter: What the reader says of the tensor. Tied tensors share their random numbers.
        method: What `method_for` took or what it gave.
        seed: Any integer.
        dtype: What the values, which are made in float32, are rounded to.

    Returns:
        An array of `parameter.logical_shape`.

    Raises:
        OptionError: There is no such method.
        ModelError: The tensor is no parameter (a constant or quantised weight).
    """
    name, _ = method_for(parameter, method)
    shape = parameter.logical_shape
    if name == "constant":
        return np.full(shape, np.float32(_constant(parameter)), dtype)
    if name == "forget-bias":
        return _recurrent_bias(parameter).astype(dtype, copy=False)
    stream = RandomStream(seed, parameter.tie_group)
    if name == "orthogonal":
        return _orthogonal(parameter, stream).astype(dtype, copy=False)
    if name == "normal":
        if parameter.role in MATRIX_ROLES:
            std = TABLE_STD * parameter.depth_scale
        else:
            std = _table_std(parameter)
        offset = parameter.neutral if parameter.role is Role.OTHER else 0.0
        return stream.normal(shape, TRUNCATION, std=std, mean=offset, dtype=dtype)
    return stream.normal(shape, std=math.sqrt(_variance(parameter, name)), dtype=dtype)


def _variance(parameter: Parameter, method: str) -> float:
    """Variance of the elements of a weight matrix."""
    fan_in = max(1, parameter.fan_in)
    depth = parameter.depth_scale**2
    if method == "lecun":
        return depth / fan_in
    if method == "xavier":
        matrices = _matrices(parameter)
        kernel = 1
        if parameter.role in (Role.CONV, Role.CONV_TRANSPOSE):
            kernel = math.prod(parameter.logical_shape[2:])
        return depth * 2 / (fan_in + max(1, matrices.rows * kernel))
    return depth * parameter.gain / fan_in


def _orthogonal(parameter: Parameter, stream: RandomStream) -> npt.NDArray[np.float32]:
    matrices = _matrices(parameter)
    long, short = max(matrices.rows, matrices.columns), min(matrices.rows, matrices.columns)
    values = orthogonal_rows(stream, matrices.count, short, long)
    # Orthonormal vectors of length n have elements of variance 1 / n.
    values *= math.sqrt(_variance(parameter, "orthogonal") * long)
    if matrices.rows > matrices.columns:
        values = np.ascontiguousarray(values.swapaxes(1, 2))
    return values.reshape(parameter.logical_shape)


def _matrices(parameter: Parameter) -> _Matrices:
    """How a weight divides into matrices that act independently of each other."""
    shape = parameter.logical_shape
    size = math.prod(shape)
    if parameter.role in (Role.RECURRENT_INPUT, Role.RECURRENT_HIDDEN):
        units = math.prod(shape[:-1])  # directions and gates are stacked before the input axis
    else:
        units = shape[0] if len(shape) > 1 else 1
    if size == 0:
        return _Matrices(0, 0, 0)
    count = parameter.groups * parameter.blocks
    if count < 1 or units % count:
        count = 1
    return _Matrices(count, units // count, size // units)


def _constant(parameter: Parameter) -> float:
    """The value of a tensor that starts out the same everywhere."""
    role = parameter.role
    if role in _NEUTRAL_ROLES:
        return parameter.neutral
    if role is Role.LAYER_SCALE:
        sites = [site.node for site in parameter.sites]
        return LAYER_SCALE if not sites or closes_branch(sites) else 1.0
    if role is Role.PRELU_SLOPE:
        return PRELU_SLOPE
    if role is Role.LOGIT_SCALE:
        return INVERSE_TEMPERATURE if _reaches_exp(parameter) else 1.0
    if role is Role.RUNNING_MEAN:
        return 0.0
    if role is Role.RUNNING_VARIANCE:
        return 1.0
    raise ModelError(
        f"tensor {parameter.name!r} is a {role}, which no initialiser can make up: "
        "give the model with this tensor's values"
    )


def _table_std(parameter: Parameter) -> float:
    """0.02 for what a norm will scale or a head shares; 1 for embeddings that weights take as is.

    The weights behind a table count on an input of variance 1, as they do everywhere else.
    """
    if parameter.role is not Role.EMBEDDING or not parameter.sites:
        return TABLE_STD
    pending = [site.node for site in parameter.sites]
    seen = set(pending)
    while pending:
        node = pending.pop()
        if node.op_type in _PRODUCTS:
            if any(node is site.node for site in parameter.sites):
                return TABLE_STD
            continue
        if node.op_type in NORMS or node.op_type in _DEVIATIONS:
            return TABLE_STD
        for successor in node.successors():
            if successor not in seen:
                seen.add(successor)
                pending.append(successor)
    return 1.0


def _reaches_exp(parameter: Parameter) -> bool:
    """Whether the tensor is the logarithm of a scale: an Exp at its site, before or soon after."""
    nodes = [site.node for site in parameter.sites]
    for site in parameter.sites:
        operand = site.node.inputs[site.index]
        before = operand.producer() if operand is not None else None
        nodes += [before] if before is not None else []
    for _ in range(4):
        if any(node.op_type == "Exp" for node in nodes):
            return True
        nodes = [
            successor
            for node in nodes
            if node.op_type in _TRANSPARENT
            for output in node.outputs
            for successor in output.consumers()
        ]
    return False


def _forget_gates(parameter: Parameter) -> tuple[int, int] | None:
    """(directions, hidden size) of a bias that is input 3 of an LSTM, as it is stored."""
    directions, width = (parameter.shape[0], parameter.shape[-1]) if parameter.shape else (0, 0)
    for site in parameter.sites:
        if site.node.op_type == "LSTM" and site.index == 3 and len(parameter.shape) == 2:
            hidden = site.node.attributes.get_int("hidden_size", width // 8)
            # A bias that is assembled from several tensors does not say which gate is where.
            return (directions, hidden) if hidden * 8 == width else None
    return None


def _recurrent_bias(parameter: Parameter) -> npt.NDArray[np.float32]:
    """ONNX adds a bias for the input and one for the state: gates i, o, f, c, twice over."""
    gates = _forget_gates(parameter)
    assert gates is not None
    values = np.zeros((gates[0], 2, 4, gates[1]), np.float32)
    values[:, 0, 2] = FORGET_BIAS
    return parameter.layout.to_logical(values.reshape(parameter.shape))
