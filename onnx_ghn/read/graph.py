"""The graph of canonical GHN nodes: the fifteen primitives of DeepNets-1M and their edges."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VOCABULARY = {"name": "ghn", "version": 1}


class Op(enum.IntEnum):
    """The vocabulary of GHN-2 and GHN-3, in its published order."""

    MAX_POOL = 0
    AVG_POOL = 1
    SEP_CONV = 2
    DIL_CONV = 3
    CONV = 4
    MSA = 5
    CSE = 6
    SUM = 7
    CONCAT = 8
    INPUT = 9
    BIAS = 10
    BN = 11
    LN = 12
    POS_ENC = 13
    GLOB_AVG = 14


class Part(enum.StrEnum):
    """Which of a node's decoder outputs a parameter takes."""

    WEIGHT = "weight"
    """Matrix or kernel of conv, sep_conv, dil_conv, linear; the table of pos_enc."""
    SCALE = "scale"
    """Scale of a bn or ln node (vector decoder, row 0)."""
    SHIFT = "shift"
    """Shift of a bn or ln node, or the vector of a bias node (vector decoder, row 1)."""


ATTRIBUTES = (
    "groups",
    "stride",
    "dilation",
    "output_side",
    "is_head",
    "in_channels",
    "out_channels",
    "is_linear",
)
"""Columns of `GhnGraph.attributes`; 0 where unknown or meaningless. Sides are pixels."""


@dataclass(frozen=True)
class Slot:
    """A parameter predicted from a node: index into `Reading.parameters`, and the part."""

    parameter: int
    part: Part


@dataclass(frozen=True, eq=False)
class GhnGraph:
    """An architecture in the canonical vocabulary. Knows nothing of any hypernetwork.

    Attributes:
        op: int64[N], the primitives (`Op`).
        shape: int64[N, 4], (out, in per group, kh, kw) of the node's weight, (1, 1, kh, kw) of a
            pooling window, (1, D, s, s) of a position table, 0 where there is none.
        attributes: int64[N, A], columns `ATTRIBUTES`.
        distance: uint8[N, N], 1 = edge, 2..cutoff = shortest directed path (virtual edge), else 0.
        slots: For each node, the parameters that are predicted from it.
        nodes: For each node, the name of the ONNX node it stands for ("" for the input).

    Nodes are in topological order, the input first, and that order depends on the structure
    alone, never on names.
    """

    op: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int64]
    attributes: npt.NDArray[np.int64]
    distance: npt.NDArray[np.uint8]
    slots: tuple[tuple[Slot, ...], ...]
    nodes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.op)
