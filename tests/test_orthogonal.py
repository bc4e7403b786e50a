"""Orthogonal matrices: exact, random in every direction, and the same on any number of cores."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn.orthogonal import SMALL_COLUMNS, SMALL_ROWS, orthogonal_rows
from onnx_ghn.random_stream import RandomStream


def haar(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """What QR gives, the reference for how entries are distributed."""
    gaussian = np.random.default_rng(0).standard_normal((columns, rows))
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).T


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 140), st.integers(0, 200), st.integers(0, 2**64))
def test_rows_are_orthonormal(count: int, rows: int, extra: int, seed: int):
    matrices = orthogonal_rows(RandomStream(seed, "w"), count, rows, rows + extra)
    assert matrices.shape == (count, rows, rows + extra)
    products = np.einsum("crk,csk->crs", matrices, matrices, dtype=np.float64)
    assert np.abs(products - np.eye(rows)).max() < 1e-6


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(SMALL_ROWS, 64), (8, SMALL_COLUMNS + 1), (33, 33), (64, 147), (256, 1024), (300, 509)],
)
def test_entries_are_distributed_as_those_of_haar_matrices(rows: int, columns: int):
    ours = orthogonal_rows(RandomStream(3, "w"), 1, rows, columns)[0].astype(np.float64)
    reference = haar(rows, columns)
    scale = np.sqrt(columns)
    tolerance = 8 / np.sqrt(rows * columns)
    for moment in (1, 2, 3, 4):
        expected = np.mean((reference * scale) ** moment)
        assert np.mean((ours * scale) ** moment) == pytest.approx(
            expected, abs=3**moment * tolerance
        )
    for axis in (0, 1):  # no row or column resembles another, not even in magnitude
        spread = [np.std(_similarity(matrix, axis)) for matrix in (ours * scale, reference * scale)]
        assert spread[0] == pytest.approx(spread[1], rel=0.15)


def _similarity(matrix: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    squares = (matrix if axis == 0 else matrix.T) ** 2 - 1
    products = squares @ squares.T / squares.shape[1]
    return products[~np.eye(len(products), dtype=bool)]


def test_two_matrices_of_a_stack_differ():
    first, second = orthogonal_rows(RandomStream(0, "gates"), 2, 64, 64)
    assert np.abs(first @ second.T).max() < 0.8


@pytest.mark.parametrize("threads", ["2", "16"])
def test_bits_do_not_depend_on_blas_threads(threads: str):
    code = (
        "import hashlib; from onnx_ghn.orthogonal import orthogonal_rows as o; "
        "from onnx_ghn.random_stream import RandomStream as S; "
        "d = [o(S(0, 'w'), c, r, n).tobytes() for c, r, n in "
        "[(64, 1, 9), (1, 32, 288), (1, 512, 4608), (2, 1000, 1031)]]; "
        "print(hashlib.sha256(b''.join(d)).hexdigest())"
    )
    hashes = set()
    for count in ("1", threads):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count}
        environment["PYTHONHASHSEED"] = count
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(run.stdout)
    assert len(hashes) == 1
