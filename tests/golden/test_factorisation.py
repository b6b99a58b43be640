"""The closed forms against the textbook: NumPy's SVD, EASE with its full inverse, and transitions counted by hand."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sparse

from trainer.blocks import factorisation, svd, transitions
from trainer.blocks.block import Block
from trainer.blocks.factorisation import Ease, Factorisation, Spectral, Successors, Transitions
from trainer.blocks.svd import truncated_svd
from trainer.blocks.transitions import lagged
from trainer.data.examples import Lists

ITEMS = 12  # rows, the unknown's included


@pytest.fixture(scope="module")
def world() -> Lists:
    """Forty users with 3 to 7 different items of 11 each."""
    rng = np.random.default_rng(5)
    rows = [rng.choice(np.arange(1, ITEMS), rng.integers(3, 8), replace=False) for _ in range(40)]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Lists(offsets, np.concatenate(rows).astype(np.int32), np.arange(offsets[-1]))


def full_ease(x: np.ndarray, l2: float) -> np.ndarray:
    """Steck 2019, equation 8: B = I - P / diag(P), P the inverse of X'X + l2."""
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("rank", [3, 200])
def test_truncated_svd_is_numpys(rank):
    rng = np.random.default_rng(0)
    # A spectrum that falls, so that leading directions are well apart.
    left, right = (np.linalg.qr(rng.normal(size=(n, 9)))[0] for n in (30, 20))
    dense = left * 0.6 ** np.arange(9) @ right.T
    values, vectors = truncated_svd(sparse.csr_matrix(dense), rank)
    _, exact, rows = np.linalg.svd(dense)
    found = min(rank, 9)  # directions without weight are dropped
    assert values.shape == (found,)
    np.testing.assert_allclose(values, exact[:found], rtol=1e-4)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(found), atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(vectors * rows[:found].T, axis=0)), 1, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_truncated_svd_where_one_user_has_nearly_all(seed):
    """A hundred users of six events, and one of 20,000: more columns than directions, of which those left over are nothing."""
    rng = np.random.default_rng(seed)
    few = sparse.csr_matrix(rng.random((100, 60)) < 0.1, dtype=float)
    many = sparse.csr_matrix((np.arange(25_000) < 20_000)[None], dtype=float)
    matrix = sparse.block_diag([few, many]).tocsr()
    lengths = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    matrix = sparse.diags((lengths / lengths.mean()) ** -0.25) @ matrix
    values, vectors = truncated_svd(matrix, 512)
    wanted = np.linalg.svd(
        (sparse.diags((lengths[:100] / lengths.mean()) ** -0.25) @ few).toarray(), compute_uv=False
    )
    np.testing.assert_allclose(values[1:20], wanted[:19], rtol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-3)


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_ease_at_full_rank_is_ease(world, l2):
    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(Ease(l2=l2))
    ours = history.astype(np.float64) @ candidates.T
    exact = full_ease(world.matrix(ITEMS).toarray(), l2)
    off = ~np.eye(ITEMS, dtype=bool)
    np.testing.assert_allclose(ours[off], exact[off], atol=2e-5)


def test_ease_ranks_unseen_items_as_ease_does(world):
    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(Ease(l2=5.0))
    ours = Block("ease", history, candidates).queries(world) @ candidates.T
    seen = world.matrix(ITEMS).toarray()
    exact = seen @ full_ease(seen, 5.0)
    for user in range(len(world)):
        open_to = np.flatnonzero(seen[user, 1:] == 0) + 1
        order = open_to[np.argsort(-exact[user, open_to])]
        gaps = -np.diff(exact[user, order])
        assert np.array_equal(order, open_to[np.argsort(-ours[user, open_to])]) or gaps.min() < 1e-5


def test_ease_baseline_and_ease_block_agree(world):
    """Two ways to one model: the baseline inverts, the block factorises."""
    from trainer.baselines.ease import solve

    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(Ease(l2=5.0))
    ours = Block("ease", history, candidates).queries(world) @ candidates.T
    matrix = world.matrix(ITEMS)
    empty = Lists(np.zeros(len(world) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
    from trainer.data.examples import Cases

    cases = Cases(np.arange(len(world), dtype=np.int32), world, empty, np.zeros(len(world), np.int64))
    theirs = solve(matrix, 5.0).scores(cases)
    unseen = matrix.toarray()[:, 1:] == 0
    np.testing.assert_allclose(ours[:, 1:][unseen], theirs[:, 1:][unseen], atol=5e-5)


def test_ease_damps_candidates_by_popularity_and_users_by_activity(world):
    plain, (history, damped) = (
        Factorisation(world, ITEMS, ITEMS).tables(settings) for settings in (Ease(), Ease(popularity=0.5))
    )
    degree = np.bincount(world.items, minlength=ITEMS) + 1.0
    np.testing.assert_allclose(damped, plain[1] / np.sqrt(degree)[:, None], rtol=1e-5)
    np.testing.assert_array_equal(history, plain[0])
    lengths = world.lengths
    weighted = (lengths / lengths.mean())[:, None] ** -0.5 * world.matrix(ITEMS).toarray()
    one, two = Factorisation(world, ITEMS, ITEMS).tables(Ease(user_power=0.5, l2=5.0))
    off = ~np.eye(ITEMS, dtype=bool)
    np.testing.assert_allclose((one @ two.T)[off], full_ease(weighted, 5.0)[off], atol=2e-5)


def test_spectral_is_the_damped_svd(world):
    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(Spectral(rank=3, damping=0.4))
    matrix = world.matrix(ITEMS).toarray()
    degree = np.bincount(world.items, minlength=ITEMS) + 1.0
    _, _, rows = np.linalg.svd(world.lengths[:, None] ** -0.5 * matrix * degree**-0.4)
    projector = rows[:3].T @ rows[:3]
    wanted = degree[:, None] ** -0.4 * projector * degree**0.4
    np.testing.assert_allclose(history @ candidates.T, wanted, atol=1e-4)


def test_the_spectral_filter_by_hand(world):
    """A penalty of the median s^2 halves the median direction; popularity then divides the candidates by their degree."""
    settings = Spectral(rank=ITEMS, damping=0.4, penalty=1.0, popularity=0.1)
    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(settings)
    degree = np.bincount(world.items, minlength=ITEMS) + 1.0
    damped = world.lengths[:, None] ** -0.5 * world.matrix(ITEMS).toarray() * degree**-0.4
    _, values, rows = np.linalg.svd(damped)
    values, rows = values[: ITEMS - 1], rows[: ITEMS - 1]  # the unknown's direction has no weight
    passed = values**2 / (values**2 + np.median(values**2))
    wanted = degree[:, None] ** -0.4 * (rows.T * passed @ rows) * degree**0.3
    np.testing.assert_allclose(history @ candidates.T, wanted, atol=1e-4)


def falling(rows=300, columns=80, seed=0):
    """Returns a matrix whose spectrum falls by a tenth from each direction to the next."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, 60)))[0] for n in (rows, columns))
    return left * 0.9 ** np.arange(60) @ right.T


def test_tables_do_not_depend_on_what_was_asked_before(world, monkeypatch):
    monkeypatch.setattr(svd, "OVERSAMPLING", 1)  # the subspace is a part of the whole, and must be looked for
    used, fresh = (Factorisation(world, ITEMS, 4) for _ in range(2))
    used.tables(Ease())
    wanted = Spectral(rank=4, damping=0.5, user_power=0.25)
    for found, expected in zip(used.tables(wanted), fresh.tables(wanted), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_part_by_part_is_the_whole(monkeypatch):
    matrix = sparse.csr_matrix(falling())
    values, vectors = truncated_svd(matrix, 5)
    monkeypatch.setattr(svd, "ROWS", 7)
    parted, again = truncated_svd(matrix, 5)
    np.testing.assert_allclose(parted, values, rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(again * vectors, axis=0)), 1, atol=1e-3)


def test_a_corpus_of_millions_gets_fewer_directions(world, monkeypatch):
    monkeypatch.setattr(factorisation, "MOST_NUMBERS", 4 * ITEMS)
    history, _ = Factorisation(world, ITEMS, ITEMS).tables(Spectral())
    assert history.shape == (ITEMS, 4)


def test_no_more_decompositions_are_held_than_said(world):
    made = Factorisation(world, ITEMS, 4)
    for step in range(3 * factorisation.KEPT):
        made.tables(Spectral(damping=step / 100))
    assert len(made._cache) == factorisation.KEPT


def test_transitions_of_very_many_events_come_from_a_sample_of_the_lists(world, monkeypatch):
    most = len(world.items) // 2
    monkeypatch.setattr(transitions, "MOST_EVENTS", most)
    drawn = transitions._sampled(world)
    assert most - world.lengths.max() < len(drawn.items) <= most
    whole = {tuple(world.items[a:b]) for a, b in zip(world.offsets[:-1], world.offsets[1:], strict=True)}
    assert {
        tuple(drawn.items[a:b]) for a, b in zip(drawn.offsets[:-1], drawn.offsets[1:], strict=True)
    } <= whole


def test_lagged_by_hand(make_lists):
    lists = make_lists([[1, 2, 3], [2, 1]])
    before = lagged(lists, 4, range(1, 3), half_life=1.0).toarray()
    np.testing.assert_array_equal(
        before, [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    )
    after = lagged(lists, 4, range(-1, -3, -1), half_life=1.0).toarray()
    np.testing.assert_array_equal(
        after, [[0, 0, 1, 0.5], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    )
    itself = lagged(lists, 4, range(0, 1), half_life=1.0).toarray()
    np.testing.assert_array_equal(itself, np.eye(4)[lists.items])


def test_lagged_never_crosses_from_one_user_to_the_next(make_lists):
    around = lagged(make_lists([[1], [2], [3]]), 4, range(1, 5), half_life=1.0)
    assert around.nnz == 0


def test_transitions_at_full_rank_are_the_ridge_regression(world):
    """Without damping and at full rank: the ridge of the decayed future on the decayed past, on the span of the future."""
    settings = Transitions(damping=0.0, l2=2.0)
    history, candidates = Factorisation(world, ITEMS, ITEMS).tables(settings)
    past = lagged(world, ITEMS, range(0, 10), 2.0).toarray()
    future = lagged(world, ITEMS, range(-1, -4, -1), 1.0).toarray()
    wanted = np.linalg.solve(past.T @ past + 2.0 * np.eye(ITEMS), past.T @ future)
    np.testing.assert_allclose((history @ candidates.T)[1:, 1:], wanted[1:, 1:], atol=1e-4)


def test_transitions_learn_a_chain(make_lists):
    """Everybody walks 1 2 3 4 5 1 ...: after n comes n + 1."""
    lists = make_lists([[1 + (start + step) % 5 for step in range(8)] for start in range(5)])
    history, candidates = Factorisation(lists, 6, 6).tables(Transitions(l2=0.2))
    asked = Block("t", history, candidates, half_life=0.5).queries(make_lists([[1, 2, 3], [4], [4, 5]]))
    assert (asked @ candidates[1:].T).argmax(axis=1).tolist() == [3, 4, 0]


def test_following_by_hand(make_lists):
    """The next event counts 1, the second 2 ** -1/2, the third 1/2, and nobody's events follow another's."""
    counts = transitions.following(make_lists([[1, 2, 3, 1, 2], [3, 2]]), 4).toarray()
    second = 0.5**0.5
    wanted = np.zeros((4, 4))
    wanted[1, [1, 2, 3]] = [0.5, 1 + 1, second]  # 1 2 3 1 2: 2 is next twice
    wanted[2, [1, 2, 3]] = [second, 0.5, 1]
    wanted[3, [1, 2]] = [1, second + 1]  # and 2 follows 3 at the second user's
    np.testing.assert_allclose(counts, wanted, rtol=1e-6)


def test_successors_are_the_damped_counts_but_for_the_noise_of_the_projection(make_lists):
    """Scores are s_j ** -damping * count_ji * degree_i ** -popularity, off by about rank ** -0.5 of the row's length."""
    lists = make_lists([[1, 2, 3, 1, 2], [3, 2]])
    made = Factorisation(lists, 4, 512)
    history, candidates = made.tables(Successors(damping=1.0, popularity=1.0))
    counts = transitions.following(lists, 4).toarray()
    exact = counts / np.maximum(counts.sum(axis=1), 1)[:, None] / made.degree
    noise = np.linalg.norm(exact, axis=1, keepdims=True) / 512**0.5
    assert (abs(history @ candidates.T - exact) <= 4 * noise + 1e-6).all()


def test_successors_keep_what_no_few_directions_hold():
    """After each item comes one of its own, 300 times after each of 100 and 3 times after the others: those 100 take all 32 directions."""
    rng, rare, items = np.random.default_rng(0), 300, 401
    next_of = np.concatenate([rng.permutation(rare) + 1, rng.permutation(items - 1 - rare) + 1 + rare])
    pairs = np.stack([np.arange(1, items), next_of], axis=1)
    walks = pairs.repeat([3] * rare + [300] * (items - 1 - rare), axis=0).astype(np.int32)
    lists = Lists(np.arange(0, walks.size + 1, 2), walks.ravel(), np.arange(walks.size))
    made = Factorisation(lists, items, 32)

    def found(settings):
        history, candidates = made.tables(settings)
        return ((history @ candidates.T)[1 : rare + 1, 1:].argmax(axis=1) + 1 == next_of[:rare]).mean()

    assert found(Successors()) > 0.9
    assert found(Transitions()) < 0.5


def test_an_event_counts_by_the_logarithm_of_its_weight(make_lists):
    """Users by items: a pair as its heaviest event, and of what comes next, each event times what it counts: log2(1 + weight / mean)."""
    lists = dataclasses.replace(
        make_lists([[1, 2, 1], [2, 0, 3]]), weights=np.array([1, 2, 6, 0.5, 9, 0.5], np.float32)
    )
    fitted = Factorisation(lists, 4, 4)  # the unknown's event is left out, and the mean weight is 2
    two, six, half = np.log2([2, 4, 1.25])
    assert (two, six) == (1, 2)
    wanted = [[0, six, two, 0], [0, 0, half, half]]
    np.testing.assert_allclose(fitted.interactions.toarray(), wanted, rtol=1e-6)
    after = lagged(fitted.lists, 4, range(-1, -3, -1), 1.0, fitted.lists.weights).toarray()
    wanted = [[0, six / 2, two, 0], [0, six, 0, 0], [0] * 4, [0, 0, 0, half], [0] * 4]
    np.testing.assert_allclose(after, wanted, rtol=1e-6)


@pytest.mark.parametrize("settings", [Ease(), Transitions(), Spectral(penalty=10.0)])
def test_only_weights_that_differ_change_a_block(make_events, settings):
    events = make_events([[1, 2, 3, 4], [2, 3, 1], [4, 1, 2]])
    weights = [np.full(10, 7, np.float32), np.where(events.item == 3, 5, 1).astype(np.float32)]
    plain, alike, apart = (
        Factorisation(dataclasses.replace(events, weight=weight).by_user(4), 5, 5).tables(settings)
        for weight in (events.weight, *weights)
    )
    np.testing.assert_array_equal(plain, alike)
    raised = apart[0] @ apart[1].T > plain[0] @ plain[1].T
    assert raised[[1, 2], 3].all()  # what is dear is recommended more


@pytest.mark.parametrize(
    "settings",
    [Ease(), Transitions(), Transitions(symmetric=True), Spectral(), Spectral(penalty=1.0), Successors()],
)
def test_the_unknown_item_has_no_say(settings):
    lists = Lists(np.array([0, 3, 6]), np.array([0, 1, 2, 3, 0, 1], np.int32), np.arange(6))
    history, candidates = Factorisation(lists, 4, 8).tables(settings)
    assert history.dtype == candidates.dtype == np.float32
    np.testing.assert_allclose(history[0], 0, atol=1e-6)
    np.testing.assert_allclose(candidates[0], 0, atol=1e-6)
