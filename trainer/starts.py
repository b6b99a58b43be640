"""What the id embeddings start from: random numbers, or a factorisation of the training events that training then tunes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from trainer.baselines.implicit_library import models, one_blas_thread
from trainer.data.examples import Floats, Prepared
from trainer.memory import require
from trainer.registry import register

Table = npt.NDArray[np.floating]


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
def svd(prepared: Prepared, dimension: int, damping: float = 0.4) -> Tables:
    """Returns the truncated SVD of the interactions, divided by degree ** `damping` on both sides (Halko et al. 2011)."""
    matrix = _matrix(prepared)
    user, item = (np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1.0) ** -damping for axis in (1, 0))
    left, values, right = _svd(sparse.diags(user) @ matrix @ sparse.diags(item), dimension)
    return Tables(right.T * np.sqrt(values), left * np.sqrt(values))


@register("start", "als")
def als(prepared: Prepared, dimension: int, regularization: float = 0.05, iterations: int = 15) -> Tables:
    """Returns the factors of implicit-feedback ALS (Hu et al. 2008), from the `implicit` library."""
    with one_blas_thread():
        model = models("als").AlternatingLeastSquares(
            dimension, regularization=regularization, iterations=iterations, random_state=0
        )
        model.fit(_matrix(prepared), show_progress=False)
    return Tables(np.asarray(model.item_factors), np.asarray(model.user_factors))


@register("start", "item2vec")
def item2vec(prepared: Prepared, dimension: int, window: int = 5, negatives: int = 5) -> Tables:
    """Returns item vectors from their neighbours in the histories (Barkan and Koenigstein 2016).

    Skip-gram with negative sampling factorises the shifted positive pointwise mutual information; its truncated SVD gives the vectors
    without training (Levy and Goldberg 2014). `window`: events to either side; `negatives`: the shift is its logarithm.
    """
    lists, items = prepared.train.by_user(len(prepared.users)), len(prepared.items)
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    places: list[npt.NDArray[np.int32]] = []
    for lag in range(1, window + 1):
        same = owner[lag:] == owner[:-lag]
        places.append(np.stack([lists.items[:-lag][same], lists.items[lag:][same]]))
    pairs = np.concatenate(places, axis=1)
    counts = sparse.csr_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), (items, items))
    near: sparse.coo_matrix = (counts + counts.T).tocoo()
    share = np.maximum(np.asarray(near.sum(axis=0)).ravel(), 1.0)
    information = np.log(near.data * share.sum() / (share[near.row] * share[near.col])) - np.log(negatives)
    kept = information > 0
    positive = sparse.csr_matrix((information[kept], (near.row[kept], near.col[kept])), (items, items))
    left, values, _ = _svd(positive, dimension)
    return Tables(left * np.sqrt(values))


def _matrix(prepared: Prepared) -> sparse.csr_matrix:
    matrix = prepared.train.by_user(len(prepared.users)).matrix(len(prepared.items)).astype(np.float32)
    matrix.data[:] = 1.0
    return matrix


def _svd(matrix: sparse.csr_matrix, dimension: int) -> tuple[Floats, Floats, Floats]:
    """Returns U `[rows, dimension]`, s and V' by scikit-learn's randomised SVD; columns beyond the rank are zeros."""
    from sklearn.utils.extmath import randomized_svd

    rank = min(dimension, *matrix.shape)
    need = 8.0 * 4 * (rank + 10) * sum(matrix.shape)  # two sides, twice, in float64
    require(
        need, f"a start of {rank} factors", "set retrieval.start.name=random or a smaller embedding_dimension"
    )
    left, values, right = randomized_svd(matrix, rank, n_iter=4, random_state=0)
    lacking = dimension - rank
    return (
        np.pad(left, ((0, 0), (0, lacking))),
        np.pad(values, (0, lacking)),
        np.pad(right, ((0, lacking), (0, 0))),
    )
