"""Tiles to tensors: repeat by index modulo, or put channels at their places; scale by fan-in.

One definition for numpy (the pass) and torch (training, differentiable): the functions use only
indexing, multiplication and reshape. Elementwise squashes and the resizing of kernels happened
in the decoder: they commute with tiling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.random_stream import RandomStream

Array = Any
"""A float numpy array or torch tensor; what comes out is of the kind that went in."""

TOKEN_STD = 0.02
"""Standard deviation of a position table's rows for class and distillation tokens."""


def scale(shape: tuple[int, ...]) -> float:
    """Factor that gives a predicted weight the variance its fan-in asks for.

    √(β / fan-in), with β = 1 for depthwise kernels and kernels wider than high, else 2.

    Args:
        shape: (out, in per group, *kernel).
    """
    narrow = len(shape) > 2 and (shape[1] == 1 or (len(shape) > 3 and shape[-2] < shape[-1]))
    return math.sqrt((1 if narrow else 2) / math.prod(shape[1:]))


def fit_weight(
    tile: Array,
    shape: tuple[int, ...],
    *,
    transposed: bool = False,
    dtype: npt.DTypeLike | None = None,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
) -> Array:
    """Tile and scale a weight.

    Args:
        tile: [o', i', *kernel], or [o', i', kh, kw] with the same number of kernel positions; for
            a kernel of three axes that of the last two, which is the same at each step of the
            first.
        shape: (out, in per group, *kernel) of the result.
        transposed: Lay a matrix out in memory as its transpose, which many files hold.
        dtype: Type of the result, for numpy; the tile's where None. The scaled tile is rounded to
            it before it is repeated, which gives the same bits as after and is many times faster.
        rows: Place of each output channel (`onnx_ghn.read.channels`); None: they count from zero.
        columns: Place of each input channel.

    Returns:
        The array with result[o, i] = tile[rows[o] mod o', columns[i] mod i'] * scale(shape).
    """
    if len(shape) == 5:
        tile = _repeat(tile[:, :, None], shape[2], axis=2)
    tile = tile * scale(shape)
    if dtype is not None:
        tile = tile.astype(dtype, copy=False)
    if transposed:
        tile = tile.reshape(tile.shape[:2])
        return _repeat(_repeat(tile.T, shape[0], 1, rows), shape[1], 0, columns).T
    return _repeat(_repeat(tile, shape[1], 1, columns), shape[0], 0, rows).reshape(shape)


def fit_vector(tile: Array, shape: tuple[int, ...], rows: Sequence[int] | None = None) -> Array:
    """Tile a scale, shift or bias: tile [m'] -> result[k] = tile[rows[k] mod m']."""
    return _repeat(tile, shape[0], 0, rows)


def fit_positions(tile: Array, shape: tuple[int, ...], stream: RandomStream) -> Array:
    """Make a position table of a grid; it isn't scaled.

    Args:
        tile: [1, d', s, s].
        shape: (rows, dim), perhaps after leading ones. The rows beyond s * s stand for tokens
            that have no place in the grid; they come first, and are drawn.
        stream: Where they are drawn from.
    """
    rows, dim = math.prod(shape[:-1]), shape[-1]
    grid = tile[0].reshape(tile.shape[1], -1)
    table = _repeat(grid, dim, axis=0).T
    tokens = drawn_tokens((rows - table.shape[0], dim), stream)
    if isinstance(table, np.ndarray):
        return np.concatenate([tokens, table]).reshape(shape)
    import torch

    return torch.cat([torch.from_numpy(tokens).to(table), table]).reshape(shape)


def drawn_tokens(size: tuple[int, int], stream: RandomStream) -> npt.NDArray[np.float64]:
    """Rows (tokens, dim) of a position table that have no place in its grid."""
    return TOKEN_STD * stream.normal(size)


def _repeat(array: Array, count: int, axis: int, places: Sequence[int] | None = None) -> Array:
    """Make an axis `count` long: elements repeat by index modulo, or are cut off.

    Where there are places, element k is that of places[k] modulo the axis.
    """
    if isinstance(array, np.ndarray) and axis == 0 and places is None:
        # One copy of the whole array at a time runs at the speed of memory.
        repeated = np.empty((count, *array.shape[1:]), array.dtype)
        whole = count - count % len(array)
        repeated[:whole].reshape(-1, *array.shape)[...] = array
        repeated[whole:] = array[: count - whole]
        return repeated
    index = (np.arange(count) if places is None else np.asarray(places)) % array.shape[axis]
    if isinstance(array, np.ndarray):
        # Plain indexing takes three times as long; mode="clip" spares a buffered copy.
        return np.take(array, index, axis=axis, mode="clip")
    import torch

    return array.index_select(axis, torch.from_numpy(index).to(array.device))
