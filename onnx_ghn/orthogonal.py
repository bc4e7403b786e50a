"""Random orthogonal matrices without LAPACK: the same bits on any number of cores, and fast.

A QR decomposition's last bits change with the number of BLAS threads, and it costs ten times as
much. Small matrices are made by Gram-Schmidt, which is QR without LAPACK. Large ones are products
of random structured matrices that are orthogonal by construction: circulants, random signs and
Hartley transforms, computed by FFT. Their entries and the dependence between these can't be told
from those of Haar-distributed matrices (Yu et al., "Orthogonal random features", 2016;
Choromanski et al., "The unreasonable effectiveness of structured random orthogonal embeddings",
2017).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_ghn.random_stream import RandomStream

SMALL_ROWS, SMALL_COLUMNS = 32, 2048
"""Largest matrix for Gram-Schmidt. Structured matrices need some size to be well mixed."""

CHUNK = 1 << 16
"""Elements that are transformed together, so that they stay in the cache."""


def orthogonal_rows(
    stream: RandomStream, count: int, rows: int, columns: int
) -> npt.NDArray[np.float32]:
    """`count` independent matrices with orthonormal rows; `rows <= columns`.

    Returns:
        float32 [count, rows, columns].
    """
    if rows == 1 or (rows <= SMALL_ROWS and columns <= SMALL_COLUMNS):
        return _gram_schmidt(stream.normal((count, rows, columns)))
    matrices = np.empty((count, rows, columns), np.float32)
    for matrix in matrices:
        _fill_structured(stream, matrix)
    return matrices


def _gram_schmidt(matrices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Orthonormalise the rows of each matrix in [count, rows, columns], in place."""
    for row in range(matrices.shape[1]):
        done = matrices[:, :row].astype(np.float64)
        vector = matrices[:, row].astype(np.float64)
        for _ in range(2):  # the second sweep removes what rounding left in the first
            # einsum, unlike matmul, does not call BLAS.
            shadow = np.einsum("crk,ck->cr", done, vector)
            vector -= np.einsum("cr,crk->ck", shadow, done)
        matrices[:, row] = vector / np.sqrt(np.einsum("ck,ck->c", vector, vector))[:, None]
    return matrices


def _fill_structured(stream: RandomStream, matrix: npt.NDArray[np.float32]) -> None:
    """Fill [rows, n] with random rows of `C S1 H S2 H` (circulant, signs, Hartley)."""
    rows, n = matrix.shape
    # A circulant is orthogonal where its spectrum has modulus one everywhere.
    spectrum = np.exp(2j * np.pi * stream.uniform(n // 2 + 1))
    spectrum[0] = 1.0
    if n % 2 == 0:
        spectrum[-1] = 1.0
    generator = np.fft.irfft(spectrum, n)
    shifts = stream.permutation(n)[:rows]
    # Each Hartley transform multiplies norms by sqrt(n).
    signs = [stream.signs(n) / np.sqrt(n) for _ in range(2)]
    positions = np.arange(n)
    step = max(1, CHUNK // n)
    for start in range(0, rows, step):
        chunk = generator[(positions - shifts[start : start + step, None]) % n]
        for sign in signs:
            chunk = _hartley(chunk * sign)
        matrix[start : start + step] = chunk


def _hartley(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Discrete Hartley transform of each row: sum over x of a(x) (cos + sin)(2 pi x k / n)."""
    n = rows.shape[-1]
    spectrum = np.fft.rfft(rows)
    half = n // 2 + 1
    result = np.empty_like(rows)
    np.subtract(spectrum.real, spectrum.imag, out=result[:, :half])
    # The other half of the spectrum of real numbers mirrors the first, conjugated.
    mirrored = spectrum[:, 1 : n - half + 1]
    np.add(mirrored.real, mirrored.imag, out=result[:, : half - 1 : -1])
    return result
