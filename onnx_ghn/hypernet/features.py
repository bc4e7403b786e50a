"""The node features that an archive asks for: rows of shape embeddings, or plain numbers.

The tables are those of GHN-2 and GHN-3, from "Parameter Prediction for Unseen Deep
Architectures" (Knyazev et al., 2021): a channel number or kernel side is snapped to the nearest
table entry, and the row after the last stands for "no shape".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.columns import COLUMNS as COLUMNS_OF_NUMBERS
from onnx_ghn.hypernet.config import COLUMNS, NetworkConfig
from onnx_ghn.read.graph import GhnGraph

IntArray = npt.NDArray[np.int64]


def channel_table(classes: int) -> IntArray:
    """Channel numbers that have an embedding of their own, ascending."""
    sizes = {1, 3, classes, *range(8, 64, 8), *range(64, 4096, 16), *range(4096, 8193, 32)}
    return np.array(sorted(sizes), np.int64)


def side_table(side: int) -> IntArray:
    """Kernel sides that have an embedding of their own, ascending; `side` is the decoder's."""
    return np.array(sorted({*range(1, max(12, side), 2), 14, 16}), np.int64)


def features(
    graph: GhnGraph, network: NetworkConfig, columns: tuple[str, ...] = COLUMNS
) -> IntArray:
    """The features of every node of a graph.

    Args:
        graph: The architecture.
        network: Sizes of the hypernetwork; they fix the tables.
        columns: The archive's columns.

    Returns:
        int64[N, F], one column for each name in `columns`.

    Raises:
        ArchiveError: The archive asks for a column that this tool can't make.
    """
    channels, sides = channel_table(network.classes), side_table(network.side)
    shapeless = (graph.shape == 0).all(axis=1)
    shape = np.maximum(graph.shape, 1)  # a vector of n channels has the shape (n, 1, 1, 1)
    made = {
        "op": graph.op,
        "out_channels": _rows(channels, shape[:, 0], {4: 8, 5: 8, 6: 8, 7: 8}, shapeless),
        "in_channels": _rows(channels, shape[:, 1], {4: 8, 5: 8, 6: 8, 7: 8}, shapeless),
        "kernel_height": _rows(sides, shape[:, 2], {2: 3}, shapeless),
        "kernel_width": _rows(sides, shape[:, 3], {2: 3}, shapeless),
    }
    made |= {
        name: COLUMNS_OF_NUMBERS[name](graph) for name in columns if name in COLUMNS_OF_NUMBERS
    }
    unknown = [name for name in columns if name not in made]
    if unknown:
        raise ArchiveError(f"the archive asks for unknown node features: {', '.join(unknown)}")
    return np.stack([made[name] for name in columns], axis=1)


def _rows(
    table: IntArray, sizes: IntArray, exceptions: dict[int, int], shapeless: npt.NDArray[np.bool_]
) -> IntArray:
    """Row of the entry nearest to each size, the smaller one of two; the row past the end if none.

    `exceptions` sends a size that the table lacks to an entry that isn't the nearest.
    """
    known = set(table.tolist())
    snapped = sizes.copy()
    for size, entry in exceptions.items():
        if size not in known:
            snapped[sizes == size] = entry
    rows = np.abs(table[None, :] - snapped[:, None]).argmin(axis=1)
    return np.where(shapeless, len(table), rows).astype(np.int64)
