"""What the id embeddings start from: random numbers, or a factorisation of the training events that training then tunes."""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from trainer.baselines.implicit_library import models, one_blas_thread
from trainer.data.examples import Floats, Prepared
from trainer.errors import UserError
from trainer.memory import require
from trainer.registry import register

Table = npt.NDArray[np.floating]
PAIR = 64.0  # bytes that a pair of neighbours takes: its rows, and their counts in three forms
SMALLER = "a smaller retrieval.embedding_dimension needs less"

logger = logging.getLogger("trainer")


@dataclass(frozen=True)
class Tables:
    """Rows to start from: `items` `[items, dimension]`, and `users` `[users, dimension]` where the factorisation has them."""

    items: Table
    users: Table | None = None


@register("start", "random")
def random(prepared: Prepared, dimension: int) -> None:
    """Returns nothing: the rows start random."""
    del prepared, dimension


@register("start", "svd")
def svd(prepared: Prepared, dimension: int, damping: float = 0.4) -> Tables | None:
    """Returns the truncated SVD of the interactions, divided by degree ** `damping` on both sides (Halko et al. 2011)."""
    matrix = _matrix(prepared)
    if not _fits(_of_svd(matrix, dimension), "svd", SMALLER):
        return None
    user, item = (np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1.0) ** -damping for axis in (1, 0))
    left, values, right = _svd(sparse.diags(user) @ matrix @ sparse.diags(item), dimension)
    return Tables(right.T * np.sqrt(values), left * np.sqrt(values))


@register("start", "als")
def als(
    prepared: Prepared, dimension: int, regularization: float = 0.05, iterations: int = 15
) -> Tables | None:
    """Returns the factors of implicit-feedback ALS (Hu et al. 2008), from the `implicit` library."""
    library, matrix = models("als", "retrieval.start.name=als"), _matrix(prepared)
    if not _fits(8.0 * dimension * (sum(matrix.shape) + dimension), "als", SMALLER):
        return None
    with one_blas_thread():
        model = library.AlternatingLeastSquares(
            dimension, regularization=regularization, iterations=iterations, random_state=0
        )
        model.fit(matrix, show_progress=False)
    return Tables(np.asarray(model.item_factors), np.asarray(model.user_factors))


@register("start", "item2vec")
def item2vec(prepared: Prepared, dimension: int, window: int = 5, negatives: int = 5) -> Tables | None:
    """Returns item vectors from their neighbours in the histories (Barkan and Koenigstein 2016).

    Skip-gram with negative sampling factorises the shifted positive pointwise mutual information; its truncated SVD gives the vectors
    without training (Levy and Goldberg 2014). `window`: events to either side; `negatives`: the shift is its logarithm.
    """
    lists, items = prepared.train.by_user(len(prepared.users)), len(prepared.items)
    most = float((lists.lengths * np.minimum(window, lists.lengths)).sum())
    if not _fits(PAIR * most, "item2vec", "a smaller retrieval.start.window needs less"):
        return None
    owner = lists.owners
    places: list[npt.NDArray[np.int32]] = []
    for lag in range(1, min(window + 1, max(int(lists.lengths.max()), 2))):
        same = owner[lag:] == owner[:-lag]
        places.append(np.stack([lists.items[:-lag][same], lists.items[lag:][same]]))
    pairs = np.concatenate(places, axis=1)
    counts = sparse.csr_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), (items, items))
    near: sparse.coo_matrix = (counts + counts.T).tocoo()
    share = np.maximum(np.asarray(near.sum(axis=0)).ravel(), 1.0)
    information = np.log(near.data * share.sum() / (share[near.row] * share[near.col])) - np.log(negatives)
    kept = information > 0
    positive = sparse.csr_matrix((information[kept], (near.row[kept], near.col[kept])), (items, items))
    if not _fits(_of_svd(positive, dimension), "item2vec", SMALLER):
        return None
    left, values, _ = _svd(positive, dimension)
    return Tables(left * np.sqrt(values))


def _matrix(prepared: Prepared) -> sparse.csr_matrix:
    matrix = prepared.train.by_user(len(prepared.users)).matrix(len(prepared.items)).astype(np.float32)
    matrix.data[:] = 1.0
    return matrix


def _of_svd(matrix: sparse.csr_matrix, dimension: int) -> float:
    """Returns the bytes that `_svd` takes in float64: two sides, twice, and filled up with zeros."""
    return 8.0 * sum(matrix.shape) * (4 * (min(dimension, *matrix.shape) + 10) + dimension)


def _fits(size: float, name: str, advice: str) -> bool:
    """Returns whether `size` bytes are free; says so in a line where they are not, and that the rows start random."""
    try:
        require(size, f"retrieval.start.name={name}", f"the embeddings start random ({advice})")
    except UserError as error:
        logger.warning("%s", error)
        return False
    return True


def _svd(matrix: sparse.csr_matrix, dimension: int) -> tuple[Floats, Floats, Floats]:
    """Returns U `[rows, dimension]`, s and V' by scikit-learn's randomised SVD; columns beyond the rank are zeros."""
    from sklearn.utils.extmath import randomized_svd

    rank = min(dimension, *matrix.shape)
    left, values, right = randomized_svd(matrix, rank, n_iter=4, random_state=0)
    lacking = dimension - rank
    return (
        np.pad(left, ((0, 0), (0, lacking))),
        np.pad(values, (0, lacking)),
        np.pad(right, ((0, lacking), (0, 0))),
    )
