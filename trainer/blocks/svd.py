"""The truncated SVD of a large sparse matrix, in memory that does not grow with its rows."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sparse

from trainer.data.examples import Floats

OVERSAMPLING = 32  # columns beyond the rank that the subspace carries (Halko et al. 2011)
ITERATIONS = 4  # on flat spectra, as of many small communities, a fifth of the accuracy hangs on them
ROWS = 65_536  # of the matrix at a time
SLICES = 8  # of a product, for the threads


def truncated_svd(
    matrix: Any, rank: int, iterations: int = ITERATIONS
) -> tuple[npt.NDArray[np.float64], Floats]:
    """Returns the leading singular values `[r]` and right singular vectors `[columns, r]` of a sparse matrix, r <= rank.

    Randomised subspace iteration (Halko et al. 2011), always from random directions: a start from the directions of a matrix much alike
    finds those again, and misses the new ones. Directions without weight are dropped.
    """
    matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    parts = [(part, part.T.tocsr()) for part in _parts(matrix)]
    columns = min(rank + OVERSAMPLING, *matrix.shape)
    span = np.random.default_rng(0).standard_normal((matrix.shape[1], columns), dtype=np.float32)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        if columns == min(matrix.shape):
            iterations = 0  # the subspace is the whole space
        for _ in range(iterations):
            span = _gram_product(parts, span, threads)
            span = _well_conditioned(span)
        basis = _orthonormal(_gram_product(parts, span, threads))
        image = basis.T @ _gram_product(parts, basis, threads)
    values, vectors = np.linalg.eigh(np.asarray(image + image.T, np.float64) / 2)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    kept = values > 1e-6 * max(values.max(initial=0), 1e-12)
    return np.sqrt(values[kept]), basis @ vectors[:, kept].astype(np.float32)


def _well_conditioned(span: Floats) -> Floats:
    """Returns a basis `[n, r]` of the same subspace: orthogonal enough until the next product, in a quarter of QR's time."""
    return np.asarray(
        scipy.linalg.lu(span, permute_l=True, overwrite_a=True, check_finite=False)[0], np.float32
    )


def _orthonormal(span: Floats) -> Floats:
    """Returns an orthonormal basis `[n, r]` by Cholesky's way to QR, twice (Yamamoto et al. 2015): matrix products, 1.6 times as fast."""
    basis = _well_conditioned(span)
    try:
        for _ in range(2):
            gram = (basis.T @ basis).astype(np.float64)
            factor: Any = scipy.linalg.cholesky(gram, lower=True, check_finite=False).astype(np.float32)
            basis = scipy.linalg.solve_triangular(factor, basis.T, lower=True, check_finite=False).T
    # fewer directions than columns: one user with far more events than all others
    except np.linalg.LinAlgError:
        basis = np.asarray(scipy.linalg.qr(basis, mode="economic", check_finite=False)[0], np.float32)
    return basis


def _parts(matrix: sparse.csr_matrix) -> Iterator[sparse.csr_matrix]:
    for start in range(0, max(matrix.shape[0], 1), ROWS):
        yield matrix[start : start + ROWS]


def _gram_product(
    parts: list[tuple[sparse.csr_matrix, sparse.csr_matrix]], right: Floats, threads: ThreadPoolExecutor
) -> Floats:
    """Returns matrix' matrix right `[columns, r]`, one part of the matrix's rows after the other."""
    total = np.zeros((parts[0][0].shape[1], right.shape[1]), np.float32)
    for part, transposed in parts:
        total += _product(transposed, _product(part, right, threads), threads)
    return total


def _product(matrix: sparse.csr_matrix, right: Floats, threads: ThreadPoolExecutor) -> Floats:
    """Returns the product of a sparse and a dense matrix: SciPy's own, which takes one core, on slices of like weight."""
    right = np.ascontiguousarray(right)
    cuts = np.searchsorted(matrix.indptr, np.linspace(0, matrix.nnz, SLICES + 1))
    cuts[0], cuts[-1] = 0, matrix.shape[0]
    found = np.empty((matrix.shape[0], right.shape[1]), np.float32)

    def fill(first: int, last: int) -> None:
        found[first:last] = matrix[first:last] @ right

    list(threads.map(fill, cuts[:-1], cuts[1:]))
    return found
