"""What a request may ask beyond k, which path answers it, and why an item stands where it does."""

import numpy as np
import pytest

LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def users(run) -> list[str]:
    return list(run.prepared.users.values[:20])


@pytest.fixture(scope="module")
def items(run) -> list[str]:
    return list(run.prepared.items.values)


@pytest.fixture(scope="module")
def wish(ask):
    """Asks `recommend_with`: lists and dials of one value for all rows, or one a row; what is not named is no wish."""

    def call(users, k=10, **wishes):
        count = len(users)
        asked = {"history": [[""]], "exclude": [[""]], "allow": [[""]], "category": [[""]]} | {
            "diversity": [0.0], "popularity": [0.0]
        }  # fmt: skip
        asked |= wishes
        columns = {name: value * count if len(value) == 1 else value for name, value in asked.items()}
        signature = "recommend_with_context" if "device" in wishes else "recommend_with"
        return ask(signature, user_id=users, k=[k] * count, **columns)

    return call


def test_without_a_wish_it_is_recommend(ask, wish, users):
    plain = ask("recommend", user_id=[*users, "nobody"], k=[10] * 21, exclude=[[""]] * 21)
    found = wish([*users, "nobody"])
    assert found["item_id"].tolist() == plain["item_id"].tolist()
    np.testing.assert_array_equal(found["score"], plain["score"])
    assert found["path"].tolist() == plain["path"].tolist() == ["known"] * 20 + ["popularity"]


def test_in_context_it_is_recommend_in_context(ask, wish, users):
    context = {"device": ["phone"] * 20, "hour": [7.0] * 20}
    plain = ask("recommend_in_context", user_id=users, k=[10] * 20, exclude=[[""]] * 20, **context)
    found = wish(users, **context)
    assert found["item_id"].tolist() == plain["item_id"].tolist() != wish(users)["item_id"].tolist()
    blank = wish(users, device=[""], hour=[float("nan")])
    assert blank["item_id"].tolist() == wish(users)["item_id"].tolist()


def test_a_wish_that_is_no_number_is_none(wish, users):
    nothing = [float("nan")]
    plain, found = wish(users[:3]), wish(users[:3], diversity=nothing, popularity=nothing)
    assert found["item_id"].tolist() == plain["item_id"].tolist()
    np.testing.assert_array_equal(found["score"], plain["score"])


def test_a_history_stands_for_the_remembered_one(ask, wish, users, items):
    """Row by row: where it holds nothing known, the remembered one stays."""
    history = [[items[4], "", items[9]], ["", "", ""], ["nothing", "", ""]]
    found = wish([users[0], users[1], users[2]], history=history)
    plain = wish(users[:3])
    assert found["item_id"][1:].tolist() == plain["item_id"][1:].tolist()
    assert found["item_id"][0].tolist() != plain["item_id"][0].tolist()
    assert not {items[4], items[9]} & set(found["item_id"][0])
    every = wish([users[0]], k=300, history=[history[0]])["item_id"][0]
    had = ask("history", user_id=[users[0]], k=[300])["item_id"][0]
    assert set(every) - {""} == set(items) - {
        *had,
        items[4],
        items[9],
    }  # what is remembered does not come back
    stranger = wish(["nobody"], history=[[items[4], items[9]]])
    alone = ask("recommend_history", history=[[items[4], items[9]]], k=[10], exclude=[[""]])
    assert stranger["item_id"].tolist() == alone["item_id"].tolist()
    assert stranger["path"].tolist() == alone["path"].tolist() == ["history"]


def test_only_what_is_allowed_comes_back(wish, users, items):
    full = wish(users[:2], k=300)["item_id"]
    some = {*full[0][[3, 50, 200]], *full[1][[7]]}
    found = wish(users[:2], k=10, allow=[[*some, "nothing", ""]])
    for row, everything in zip(found["item_id"], full, strict=True):
        wanted = [item for item in everything if item in some]
        assert row.tolist() == [*wanted, *[""] * (10 - len(wanted))]
    assert (found["score"][found["item_id"] == ""] == LOWEST).all()
    assert set(wish(users[:1], allow=[["nothing"]])["item_id"].ravel()) == {""}
    seen = wish(users[:1], k=300)["item_id"][0]
    had = next(item for item in items if item not in seen)
    assert set(wish(users[:1], allow=[[had]])["item_id"].ravel()) == {""}  # it stands in the history


def test_only_the_categories_asked_for_come_back(run, wish, users, items):
    labels = dict(zip(items, run.prepared.item_features["categories"][1:], strict=True))
    asked = labels[items[0]][0]
    full = wish(users[:2], k=300)["item_id"]
    found = wish(users[:2], k=15, category=[[asked, "", "no such category"], ["", "", ""]])["item_id"]
    wanted = [item for item in full[0] if item and asked in labels[item]][:15]
    assert len(wanted) > 3
    assert found[0].tolist() == [*wanted, *[""] * (15 - len(wanted))]
    assert found[1].tolist() == full[1][:15].tolist()
    assert set(wish(users[:1], category=[["no such category"]])["item_id"].ravel()) == {""}


def test_the_dial_of_popularity_adds_the_log_of_it(run, wish, users, items):
    count = np.bincount(run.prepared.before_test.item, minlength=301)
    popular = dict(zip(items, np.log1p(count[1:]), strict=True))
    plain, more, less = (wish(users, k=300, popularity=[dial]) for dial in (0.0, 0.7, -0.7))
    for row in range(len(users)):
        scores = dict(zip(plain["item_id"][row], plain["score"][row], strict=True))
        for dial, found in ((0.7, more), (-0.7, less)):
            there = found["item_id"][row] != ""
            wanted = [scores[item] + dial * popular[item] for item in found["item_id"][row][there]]
            np.testing.assert_allclose(found["score"][row][there], wanted, rtol=1e-4, atol=1e-4)
            assert (np.diff(found["score"][row][there]) <= 0).all()
    heads = [
        np.mean([popular[item] for row in found["item_id"] for item in row[:10]])
        for found in (less, plain, more)
    ]
    assert heads[0] < heads[1] < heads[2]


@pytest.mark.parametrize("dial", [1e30, 3e38, -3e38])
def test_a_dial_of_popularity_beyond_all_measure_is_the_largest(run, wish, users, items, dial):
    """Scores are numbers, and the order is that of popularity."""
    found = wish(users[:3], k=300, popularity=[dial])
    limit = wish(users[:3], k=300, popularity=[float(np.copysign(1e3, dial))])
    assert np.isfinite(found["score"]).all()
    assert found["item_id"].tolist() == limit["item_id"].tolist()
    count = dict(zip(items, np.bincount(run.prepared.before_test.item, minlength=301)[1:], strict=True))
    for row in found["item_id"].tolist():
        counts = np.array([count[item] for item in row if item])
        assert (np.diff(np.sign(dial) * counts) <= 0).all()


def test_the_dial_of_diversity_makes_lists_less_alike(ask, wish, users):
    def alikeness(found):
        vectors = [ask("embed_items", item_id=row.tolist())["embedding"] for row in found["item_id"]]
        unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in vectors]
        return np.mean([(one @ one.T)[np.triu_indices(10, 1)].mean() for one in unit])

    plain, some, most = (wish(users, diversity=[dial]) for dial in (0.0, 0.4, 0.9))
    assert alikeness(plain) > alikeness(some) > alikeness(most)
    for row in range(len(users)):
        assert most["item_id"][row][0] == plain["item_id"][row][0]
        assert len(set(most["item_id"][row])) == 10 and "" not in most["item_id"][row]
    mixed = wish(users[:2], diversity=[0.0, 0.9])
    assert mixed["item_id"].tolist() == [plain["item_id"][0].tolist(), most["item_id"][1].tolist()]


def test_a_diverse_list_of_everything_holds_everything_once(wish, users):
    """More than the pool that is reordered, with places that hold nothing at the end."""
    plain, found = (wish(users[:2], k=300, diversity=[dial])["item_id"] for dial in (0.0, 0.5))
    assert (np.sort(found, axis=1) == np.sort(plain, axis=1)).all()
    assert ((found == "") == (plain == "")).all()


def test_which_path_answers(run, ask, wish, items):
    prepared = run.prepared
    untrained = prepared.users.values[prepared.users.trained]
    some = {"user_id": ["nobody", "nobody", untrained, prepared.users.values[0]], "k": [5] * 4}
    found = ask(
        "recommend_in_context",
        **some,
        exclude=[[""]] * 4,
        device=["phone", "", "", ""],
        hour=[float("nan"), float("nan"), 3.0, 3.0],
    )
    assert found["path"].tolist() == ["context", "popularity", "features", "known"]
    assert ask("recommend", **some, exclude=[[""]] * 4)["path"].tolist() == [
        "popularity", "popularity", "features", "known"
    ]  # fmt: skip
    histories = ask("recommend_history", history=[[items[0]], ["nothing"]], k=[5] * 2, exclude=[[""]] * 2)
    assert histories["path"].tolist() == ["history", "popularity"]
    assert wish([untrained], history=[[items[3]]])["path"].tolist() == ["history"]


def test_who_brings_nothing_gets_the_popular(run, ask, items):
    count = np.bincount(run.prepared.before_test.item, minlength=301)[1:]
    found = ask("recommend", user_id=["nobody"], k=[300], exclude=[[""]])["item_id"][0]
    counts = [count[items.index(item)] for item in found]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_retrieve_is_the_first_stage(ask, users):
    """Without stages after it, it is what is recommended."""
    asked = {"user_id": users, "k": [50] * 20, "exclude": [[""]] * 20}
    found, plain = ask("retrieve", **asked), ask("recommend", **asked)
    assert found["item_id"].tolist() == plain["item_id"].tolist()
    queries, first = ask("embed_users", user_id=users)["embedding"], found["item_id"][:, 0].tolist()
    scores = np.sum(queries * ask("embed_items", item_id=first)["embedding"], axis=1)
    np.testing.assert_allclose(found["score"][:, 0], scores, rtol=1e-4)


def test_similar_users_are_others_by_the_cosine_of_what_tells_them_apart(run, ask):
    users = list(run.prepared.users.values[: run.prepared.users.trained])
    found = ask("similar_users", user_id=users, k=[len(users)] * len(users))
    vectors = run.retrieval.retriever.points(ask("embed_users", user_id=users)["embedding"]).numpy()
    assert not vectors[:, -1].any()  # popularity
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    place = {user: row for row, user in enumerate(users)}
    for row, user in enumerate(users):
        others, scores = found["user_id"][row], found["score"][row]
        assert sorted(others[:-1]) == sorted(set(users) - {user})
        assert others[-1] == "" and scores[-1] == LOWEST
        cosines = unit[[place[other] for other in others[:-1]]] @ unit[row]
        np.testing.assert_allclose(scores[:-1], cosines, atol=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_similar_users_of_an_unknown_one_are_none(run, ask):
    untrained = run.prepared.users.values[run.prepared.users.trained]
    found = ask("similar_users", user_id=["nobody", untrained, ""], k=[3, 2, 3])
    assert found["user_id"].tolist() == [[""] * 3] * 3
    assert (found["score"] == LOWEST).all()


@pytest.fixture(scope="module")
def explained(ask, users):
    """Each user's best item, explained."""
    best = ask("retrieve", user_id=users, k=[1] * 20, exclude=[[""]] * 20)
    return best, ask("explain", user_id=users, item_id=best["item_id"][:, 0].tolist(), history=[[""]] * 20)


def test_an_explanation_adds_up_to_the_score(explained):
    best, found = explained
    np.testing.assert_allclose(found["score"], best["score"][:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["part_score"].sum(axis=1), found["score"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["history_part_score"].sum(axis=2), found["history_score"], atol=1e-4)


def test_a_block_is_the_sum_of_what_the_events_add(explained):
    _, found = explained
    parts = found["part"][0].tolist()
    assert parts[0] == "towers" and parts[-1] == "popularity" and len(parts) > 2
    for place in range(1, len(parts) - 1):
        summed = found["history_part_score"][:, :, place].sum(axis=1)
        np.testing.assert_allclose(summed, found["part_score"][:, place], rtol=1e-3, atol=1e-4)
    assert not found["history_part_score"][:, :, -1].any()


def test_an_event_counts_for_what_the_score_loses_without_it(ask, users, explained):
    """Within the towers, of the events that they read: asked again with the history that lacks one."""
    best, found = explained
    past = [item for item in found["history"][3] if item]
    item = best["item_id"][3, 0]
    for place in (len(past) - 1, len(past) - 4):
        shorter = past[:place] + past[place + 1 :]
        again = ask("explain", user_id=[users[3]], item_id=[item], history=[shorter])
        lost = found["part_score"][3, 0] - again["part_score"][0, 0]
        if len(past) <= 10:  # else an older event moves into what the towers read
            np.testing.assert_allclose(found["history_part_score"][3, place, 0], lost, rtol=1e-3, atol=1e-5)
    assert found["history_part_score"][3, :, 0].any()


def test_the_history_explained_is_the_one_remembered(ask, users, explained):
    _, found = explained
    past = ask("history", user_id=users, k=[1000] * 20)["item_id"]
    for explained_row, row in zip(found["history"].tolist(), past.tolist(), strict=True):
        assert [item for item in explained_row if item] == [item for item in row if item][::-1]


def test_features_count_for_what_the_score_loses_without_them(ask, users, explained):
    _, found = explained
    names = found["feature"][0].tolist()
    assert {"query.id", "query.history", "query.segment", "query.age", "query.device", "query.hour"} < set(
        names
    )
    assert {"item.id", "item.categories", "item.year", "item.title"} < set(names)
    assert found["feature_score"].shape == (20, len(names))
    blank = [names.index("query.device"), names.index("query.hour")]
    np.testing.assert_allclose(found["feature_score"][:, blank], 0, atol=1e-5)
    told = ("query.id", "query.history", "query.segment", "item.id", "item.categories")
    assert all(np.abs(found["feature_score"][:, names.index(name)]).max() > 1e-3 for name in told)


def test_an_item_that_is_unknown_has_nothing_to_explain(ask, users):
    found = ask("explain", user_id=users[:1], item_id=["nothing"], history=[[""]])
    assert found["score"].tolist() == [LOWEST]
    assert not found["part_score"].any() and not found["feature_score"].any()
    assert not found["history_score"].any()
