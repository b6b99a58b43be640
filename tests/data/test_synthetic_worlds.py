"""What each small world claims of itself, checked with models of a few lines that know nothing of its making."""

import numpy as np
import pytest

from trainer import registry
from trainer.data.prepare import prepare
from trainer.data.synthetic.chain import Chain
from trainer.data.synthetic.groups import Communities, TwoTastes, draw_events
from trainer.data.synthetic.plain import expected_scores
from trainer.errors import UserError
from trainer.settings import DataSettings

WORLDS = {"chain": Chain, "two_tastes": TwoTastes, "communities": Communities}


def world(name, **settings):
    return prepare(WORLDS[name](**settings).load(), DataSettings())


def hit_rate(scores, cases, k):
    """Returns the share of `cases` whose positive is among the k best of `scores` `[cases, items]`, history masked."""
    scores = scores.copy()
    scores[:, 0] = -np.inf
    scores[np.repeat(np.arange(len(cases)), cases.history.lengths), cases.history.items] = -np.inf
    target = cases.positives.items
    own = scores[np.arange(len(target)), target][:, None]
    return ((scores >= own).sum(1) <= k).mean()


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_is_a_source_without_repeats_in_order_of_time(name):
    data = registry.build("source", name, {}).load()
    frame = data.interactions.frame
    assert data.name == name
    assert not frame.select("user_id", "item_id").is_duplicated().any()
    users = WORLDS[name]().users
    assert frame["user_id"].n_unique() == users
    prepared = prepare(data, DataSettings())
    assert len(prepared.test) == len(prepared.validation) == users  # no positive was had before
    assert prepared.best_reachable == data.best_reachable
    steps = np.diff(prepared.everything.timestamp)[np.diff(prepared.everything.user) == 0]
    assert (steps > 0).all()  # so that no tie hides the order


@pytest.mark.parametrize("name", WORLDS)
def test_one_seed_one_world(name):
    small = {"users": 50}
    first, again, other = (WORLDS[name](**small, seed=seed).load().fingerprint() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", WORLDS)
def test_blocks_of_users_leave_no_seam(name, monkeypatch):
    monkeypatch.setattr("trainer.data.synthetic.plain.AT_ONCE", 10_000)
    frame = WORLDS[name](users=300).load().interactions.frame
    assert frame["user_id"].n_unique() == 300
    assert frame["user_id"].is_sorted()


@pytest.mark.parametrize("name", WORLDS)
def test_ids_tell_nothing(name):
    """An item's number and the next one's have nothing to do with each other."""
    frame = WORLDS[name]().load().interactions.frame
    number = frame["item_id"].str.slice(1).cast(int).to_numpy()
    assert abs(np.corrcoef(number[:-1], number[1:])[0, 1]) < 0.05


def test_expected_scores_of_a_worked_example():
    # One case: 2 likely items with .8 together, and 2 others. Ranks 1 and 2 have .4 each, ranks 3 and 4 have .1.
    best = expected_scores(np.array([2]), np.array([0.8]), np.array([2]))
    assert best["recall@1"] == best["ndcg@1"] == pytest.approx(0.4)
    assert best["recall@5"] == best["hit_rate@5"] == pytest.approx(1)
    assert best["mrr"] == pytest.approx(0.4 + 0.4 / 2 + 0.1 / 3 + 0.1 / 4)
    discounts = 1 / np.log2([2, 3, 4, 5])
    assert best["ndcg@10"] == pytest.approx(discounts @ [0.4, 0.4, 0.1, 0.1])


def test_no_case_has_less_than_none_left():
    best = expected_scores(np.array([1, 3]), np.array([1.0, 0.5]), np.array([0, 1]))
    assert best["recall@1"] == pytest.approx((1 + 0.5 / 3) / 2)
    assert best["recall@5"] == pytest.approx(1)


@pytest.fixture(scope="module")
def chain():
    return world("chain")


def successors(prepared):
    """Returns how often each item follows each `[items, items]`, in training and validation."""
    events, counts = prepared.before_test, np.zeros((len(prepared.items), len(prepared.items)))
    same = np.diff(events.user) == 0
    np.add.at(counts, (events.item[:-1][same], events.item[1:][same]), 1)
    return counts


def test_chain_the_last_item_says_what_comes_next(chain):
    follows = successors(chain)
    history = chain.test.history
    last = history.items[history.offsets[1:] - 1]
    best = chain.best_reachable["hit_rate@5"]
    assert best == pytest.approx(0.95, abs=0.002)
    likely = follows / np.maximum(follows.sum(1, keepdims=True), 1)
    found = hit_rate((likely + 0.1 * likely @ likely)[last], chain.test, 5)
    assert found == pytest.approx(best, abs=4 * np.sqrt(best * (1 - best) / len(chain.test)))


def test_chain_the_set_of_all_items_does_not(chain):
    """The best linear reading of the history as a set, learned on half of the users: it cannot tell which run goes on."""
    items, lists = len(chain.items), chain.before_test.by_user(len(chain.users))
    sets, following = [], []
    for user in range(1, len(chain.users), 2):
        events = lists.items[lists.offsets[user] : lists.offsets[user + 1]]
        had = np.tril(np.ones((len(events), len(events)), np.float32), -1)[1:]
        rows = np.zeros((len(events) - 1, items), np.float32)
        rows[:, events] = had
        sets.append(rows)
        following.append(events[1:])
    x, y = np.concatenate(sets), np.concatenate(following)
    target = np.zeros((items, items), np.float32)
    np.add.at(target.T, y, x)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(items, dtype=np.float32), target)
    others = chain.test.take(np.flatnonzero(chain.test.user % 2 == 0))
    found = hit_rate(others.history.matrix(items).toarray() @ weights, others, 5)
    assert 0.2 < found < 0.5 * chain.best_reachable["hit_rate@5"]


def test_chain_all_items_are_equally_frequent(chain):
    counts = np.bincount(chain.everything.item)[1:]
    assert counts.std() < 1.5 * np.sqrt(counts.mean())  # no wider than chance
    assert chain.test.history.lengths.min() + 1 >= 20
    assert chain.test.history.lengths.max() + 1 == 40


def test_chain_of_noise_alone_is_not_to_be_foreseen():
    prepared = world("chain", noise=1.0, users=500)
    assert prepared.best_reachable["hit_rate@5"] < 0.01
    last = prepared.test.history.items[prepared.test.history.offsets[1:] - 1]
    assert hit_rate(successors(prepared)[last], prepared.test, 5) < 0.05


def one_vector(tastes, groups, dimension, rng, steps=400, temperature=0.1):
    """Returns cosines `[users, groups]` of a vector a user and a vector a group, after gradient descent on both.

    The loss is softmax with the user's own groups as equal targets; Adam's steps.
    """
    users = len(tastes)
    wanted = np.zeros((users, groups))
    wanted[np.arange(users)[:, None], tastes] = 1 / tastes.shape[1]
    both = [rng.normal(size=(rows, dimension)) for rows in (users, groups)]
    first, second = ([np.zeros_like(x) for x in both] for _ in range(2))
    for step in range(1, steps + 1):
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in both]
        query, group = (x / length for x, length in zip(both, lengths, strict=True))
        odds = np.exp(query @ group.T / temperature)
        slope = (odds / odds.sum(1, keepdims=True) - wanted) / temperature
        for i, (unit, pull) in enumerate(((query, slope @ group), (group, slope.T @ query))):
            gradient = (pull - unit * (pull * unit).sum(1, keepdims=True)) / lengths[i]
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.99 * second[i] + 0.01 * gradient**2
            size = np.sqrt(second[i] / (1 - 0.99**step)) + 1e-8
            both[i] = both[i] - 0.05 * first[i] / (1 - 0.9**step) / size
    query, group = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in both)
    return query @ group.T, group


def test_two_tastes_one_short_vector_cannot_hold_both():
    """Told the truth, and with the best vectors it can find, a single vector of 4 numbers is far below two of them."""
    settings = TwoTastes(users=400)
    user, item, own = draw_events(settings, range(400), np.random.default_rng(0))
    group = item // settings.group_items
    tastes = np.array([np.unique(group[(user == one) & own]) for one in range(400)])
    assert tastes.shape == (400, 2)
    cosine, vectors = one_vector(tastes, settings.groups, 4, np.random.default_rng(1))
    two = (vectors[tastes] @ vectors.T).max(axis=1)
    single, double = (recall(scores, user, item, settings) for scores in (cosine, two))
    assert double > 0.75
    assert double > 1.3 * single


def recall(scores, user, item, settings):
    """Returns the mean share of a user's items still to be had that are among the first 20, groups by score."""
    had = np.zeros((scores.shape[0], settings.groups), np.int64)
    np.add.at(had, (user, item // settings.group_items), 1)
    mine = had >= 3  # noise seldom draws thrice from a group
    left = settings.group_items - had
    order = np.argsort(-scores, axis=1)
    left, mine = np.take_along_axis(left, order, 1), np.take_along_axis(mine, order, 1)
    room = np.clip(20 - (np.cumsum(left, axis=1) - left), 0, left)
    return ((room * mine).sum(1) / (left * mine).sum(1)).mean()


def test_communities_far_neighbours_know_more_than_near_ones():
    """Steps over the graph of users and items: the first is what counts of pairs know, further ones are propagation."""
    prepared = world("communities")
    matrix = prepared.before_test.by_user(len(prepared.users)).matrix(len(prepared.items)).toarray()[1:]
    of_user, of_item = matrix.sum(1, keepdims=True), np.maximum(matrix.sum(0), 1)
    share = matrix / np.sqrt(of_user) / np.sqrt(of_item)
    step = share.T @ share
    queries = prepared.test.history.matrix(len(prepared.items)).toarray() / np.sqrt(of_item)
    near = queries @ step
    far = near @ step @ step @ step
    first, further = (hit_rate(scores, prepared.test, 20) for scores in (near, far))
    assert further > 1.25 * first
    assert further < prepared.best_reachable["recall@20"] * 1.1
    assert np.median(matrix.sum(1)) == 3  # events of a user before the test


@pytest.mark.parametrize("name", ["two_tastes", "communities"])
def test_groups_noise_is_of_other_groups_and_as_much_as_asked(name):
    settings = WORLDS[name]()
    user, item, own = draw_events(settings, range(2_000), np.random.default_rng(3))
    assert 1 - own.mean() == pytest.approx(settings.noise, abs=0.01)
    group = item // settings.group_items
    mine = {(one, two) for one, two in zip(user[own], group[own], strict=True)}
    assert not mine & {(one, two) for one, two in zip(user[~own], group[~own], strict=True)}
    counts = np.bincount(item, minlength=settings.groups * settings.group_items)
    assert counts.std() < 1.5 * np.sqrt(counts.mean())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("chain", {"items": 50}, "data.source.items=50 is too few"),
        ("chain", {"shortest": 30, "longest": 20}, "data.source.shortest=30 is more than"),
        ("chain", {"noise": 2}, "data.source.noise=2"),
        ("two_tastes", {"tastes": 60}, "data.source.tastes=60 leaves no other"),
        ("communities", {"events": 60}, "data.source.events=60 leaves nothing to find"),
    ],
)
def test_worlds_that_cannot_be(name, settings, message):
    with pytest.raises(UserError, match=message):
        registry.build("source", name, settings, "data.source")
