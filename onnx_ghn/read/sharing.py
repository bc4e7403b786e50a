"""Ties: one parameter that a file stores as several tensors gets one value in all of them.

A tie needs a proof. Structure proves it where one tensor only gives the statistics by which
another is standardised; values prove it between an embedding and an output layer of its shape, and
a skeleton's mark where the values are gone.
Equal values elsewhere prove nothing: the layers of a fresh network are often copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_ghn.read import skeleton_marks
from onnx_ghn.read.layout import Layout, Transpose
from onnx_ghn.read.norms import stored_array
from onnx_ghn.read.parameter import Holder, Parameter, Role

_SAMPLE = 4096


def tie(
    parameters: Sequence[Parameter], copies: Mapping[str, tuple[str, Transpose]]
) -> tuple[Parameter, ...]:
    """Put the copies of a parameter into one tie group, named after its first member.

    Args:
        parameters: All parameters, in node order.
        copies: Name of a copy -> name of the tensor that it copies, and the permutation.
    """
    index = {parameter.name: k for k, parameter in enumerate(parameters)}
    result = list(parameters)
    for name, (source, permutation) in copies.items():
        if source not in index or name not in index:
            continue
        model, copy = result[index[source]], result[index[name]]
        result[index[name]] = replace(
            copy,
            role=model.role,
            logical_shape=model.logical_shape,
            layout=Layout((*model.layout.steps, permutation)),
            fan_in=model.fan_in,
            groups=model.groups,
            blocks=model.blocks,
            gain=model.gain,
        )
        _join(result, index[source], index[name])
    _tie_heads(result)
    _tie_marked(result)
    return tuple(result)


def _join(parameters: list[Parameter], one: int, other: int) -> None:
    first, second = sorted((one, other))
    name = parameters[first].tie
    parameters[second] = replace(parameters[second], tie=name)


def _tie_heads(parameters: list[Parameter]) -> None:
    """Tie output layers to embeddings that hold the same numbers."""
    tables = [k for k, p in enumerate(parameters) if p.role is Role.EMBEDDING and _is_stored(p)]
    for head, parameter in enumerate(parameters):
        if parameter.role is not Role.LINEAR or not _is_stored(parameter):
            continue
        for table in tables:
            fits = parameters[table].logical_shape == parameter.logical_shape
            if fits and _is_same(parameters[table], parameter):
                _join(parameters, table, head)
                break


def _tie_marked(parameters: list[Parameter]) -> None:
    """Tie what was tied before its values were taken out of the file."""
    index = {parameter.name: k for k, parameter in enumerate(parameters)}
    for copy, parameter in enumerate(parameters):
        first = index.get(skeleton_marks.tie_of(parameter.value), copy)
        if first != copy and parameters[first].logical_shape == parameter.logical_shape:
            _join(parameters, first, copy)


def _is_stored(parameter: Parameter) -> bool:
    return parameter.learnable and parameter.has_value and parameter.holder is not Holder.IDENTITY


def _is_same(one: Parameter, other: Parameter) -> bool:
    left, right = stored_array(one.value), stored_array(other.value)
    if left is None or right is None:
        return False
    left, right = one.layout.to_logical(left), other.layout.to_logical(right)
    step = max(1, left.shape[0] * left.shape[1] // _SAMPLE)
    sample = left.flat[::step]
    if not np.array_equal(sample, right.flat[::step]) or np.ptp(sample) == 0:
        return False
    return bool(np.array_equal(left, right))
