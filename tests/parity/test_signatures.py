"""What each signature does at its edges: unknown ids, any k, any exclude list, no row at all."""

import numpy as np
import pytest
import tensorflow as tf

LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(scope="session")
def items(run) -> list[str]:
    return list(run.prepared.items.values)


@pytest.fixture(scope="session")
def users(run) -> list[str]:
    return list(run.prepared.users.values)


def test_an_unknown_user_gets_a_full_list(ask, items):
    found = ask("recommend", user_id=["nobody", "", "☃"], k=[10] * 3, exclude=[[""]] * 3)
    assert (found["item_id"] != "").all()
    assert found["item_id"][0].tolist() == found["item_id"][1].tolist() == found["item_id"][2].tolist()
    assert ask("history", user_id=["nobody"], k=[5])["item_id"].tolist() in ([[]], [[""] * 5])
    everything = ask("recommend", user_id=["nobody"], k=[len(items)], exclude=[[""]])["item_id"][0]
    assert sorted(everything) == sorted(items)


def test_an_unknown_user_equals_an_empty_history(ask):
    nobody = ask("recommend", user_id=["nobody"], k=[10], exclude=[[""]])
    nothing = ask("recommend_history", history=[[""]], k=[10], exclude=[[""]])
    assert nobody["item_id"].tolist() == nothing["item_id"].tolist()
    np.testing.assert_array_equal(nobody["score"], nothing["score"])


def test_unknown_and_empty_ids_in_a_history_are_passed_over(ask, items):
    plain = ask("recommend_history", history=[items[:3]], k=[10], exclude=[[""]])
    messy = ["", items[0], "nothing", items[1], "", items[2], "", ""]
    found = ask("recommend_history", history=[messy], k=[10], exclude=[[""]])
    assert found["item_id"].tolist() == plain["item_id"].tolist()
    np.testing.assert_allclose(found["score"], plain["score"], rtol=1e-6)


def test_a_history_decides(ask, items):
    histories = [items[:3], items[50:53]]
    found = ask("recommend_history", history=histories, k=[10] * 2, exclude=[[""]] * 2)["item_id"]
    assert found[0].tolist() != found[1].tolist()
    swapped = ask(
        "recommend_history", history=[items[:3][::-1], [items[50], "", ""]], k=[10] * 2, exclude=[[""]] * 2
    )
    assert swapped["item_id"][0].tolist() != found[0].tolist(), "the order of the events has no say"


def test_excluded_items_make_room_for_the_next(ask, users):
    plain = ask("recommend", user_id=users[:1], k=[15], exclude=[[""]])["item_id"][0].tolist()
    found = ask(
        "recommend", user_id=users[:1], k=[10], exclude=[["", plain[0], "nothing", plain[3], plain[3], ""]]
    )
    assert found["item_id"][0].tolist() == [item for item in plain if item not in (plain[0], plain[3])][:10]


def test_ten_thousand_excluded_ids(ask, users, items):
    """Most of them unknown, all but the last few items of the corpus among them."""
    many = [*(f"unknown-{n}" for n in range(10_000 - len(items))), *items]
    kept = ask("recommend", user_id=users[:1], k=[300], exclude=[[""]])["item_id"][0].tolist()[5:8]
    exclude = [item for item in many if item not in kept]
    found = ask("recommend", user_id=users[:1], k=[10], exclude=[exclude])
    assert found["item_id"][0].tolist() == [*kept, *[""] * 7]
    assert (found["score"][0][3:] == LOWEST).all()
    everything = ask("recommend", user_id=users[:1], k=[10], exclude=[many])
    assert everything["item_id"][0].tolist() == [""] * 10
    assert (everything["score"] == LOWEST).all()


def test_no_exclude_column_is_no_exclusion(ask, users):
    import tensorflow as tf

    with_one = ask("recommend", user_id=users[:2], k=[5] * 2, exclude=[[""]] * 2)
    without = ask("recommend", user_id=users[:2], k=[5] * 2, exclude=tf.zeros([2, 0], tf.string))
    assert with_one["item_id"].tolist() == without["item_id"].tolist()


def test_each_row_has_its_own_k(ask, users):
    full = ask("recommend", user_id=users[:4], k=[6] * 4, exclude=[[""]] * 4)
    found = ask("recommend", user_id=users[:4], k=[2, 6, 0, -3], exclude=[[""]] * 4)
    assert found["item_id"].shape == (4, 6)
    for row, k in enumerate([2, 6, 0, 0]):
        assert found["item_id"][row].tolist() == [*full["item_id"][row][:k].tolist(), *[""] * (6 - k)]
        assert (found["score"][row][k:] == LOWEST).all()


@pytest.mark.parametrize("signature", ["recommend", "recommend_history", "similar_items", "history"])
def test_k_of_zero_gives_no_columns(ask, users, items, signature):
    key, value = {"recommend": ("user_id", users[:2]), "recommend_history": ("history", [items[:2]] * 2)}.get(
        signature, ("user_id", users[:2]) if signature == "history" else ("item_id", items[:2])
    )
    more = {"exclude": [[""]] * 2} if signature.startswith("recommend") else {}
    found = ask(signature, k=[0, 0], **{key: value}, **more)
    assert all(column.shape == (2, 0) for name, column in found.items() if name != "path")


@pytest.mark.parametrize("k", [300, 301, 2**31 - 1])
def test_k_above_the_corpus_gives_what_there_is(ask, users, items, k):
    found = ask("recommend", user_id=users[:1], k=[k], exclude=[[""]])
    assert found["item_id"].shape == (1, len(items))
    had = [item for item in ask("history", user_id=users[:1], k=[k])["item_id"][0] if item]
    assert (found["item_id"] != "").sum() == len(items) - len(set(had))


def test_an_empty_batch_gives_an_empty_answer(ask, model):
    for name, function in model.signatures.items():
        found = ask(name, **dict.fromkeys(function.structured_input_signature[1]))
        assert all(len(column) == 0 for column in found.values()), name


@pytest.mark.parametrize(
    ("signature", "inputs", "told"),
    [
        ("recommend", {"k": [5] * 2, "exclude": [[""]]}, r"user_id, k, exclude are\] \[2 2 1\]"),
        ("recommend", {"k": [5] * 2, "exclude": tf.zeros([0, 0], tf.string)}, r"\[2 2 0\]"),
        ("retrieve", {"k": [5], "exclude": [[""]] * 2}, r"\[2 1 2\]"),
        ("rank", {"item_id": [["i", "j", "k"]]}, r"user_id, item_id are\] \[2 1\]"),
        ("similar_users", {"k": [5] * 3}, r"user_id, k are\] \[2 3\]"),
        ("history", {"k": []}, r"user_id, k are\] \[2 0\]"),
        (
            "explain",
            {"item_id": ["i"] * 2, "history": [[""]] * 3},
            r"user_id, item_id, history are\] \[2 2 3\]",
        ),
    ],
)
def test_inputs_whose_rows_differ_are_told_by_name(ask, users, signature, inputs, told):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="every input has a row for each request.*" + told
    ):
        ask(signature, user_id=users[:2], **inputs)


def test_serving_default_is_recommend_with_the_default_k(ask, run, users):
    found = ask("serving_default", user_id=users[:3])
    wanted = ask("recommend", user_id=users[:3], k=[run.config.export.default_k] * 3, exclude=[[""]] * 3)
    assert found["item_id"].tolist() == wanted["item_id"].tolist()


def test_similar_items_are_others_by_what_the_model_compares(ask, run, items):
    count = len(items)
    found = ask("similar_items", item_id=items, k=[count] * count)
    vectors, retriever = ask("embed_items", item_id=items)["embedding"], run.retrieval.retriever
    alike = (retriever.similar(vectors) @ tf.transpose(vectors) / retriever.lengths(vectors)).numpy()
    place = {item: row for row, item in enumerate(items)}
    for row, (item, ids, scores) in enumerate(zip(items, found["item_id"], found["score"], strict=True)):
        assert item not in ids[:-1]
        assert sorted(ids[:-1]) == sorted(set(items) - {item})
        assert ids[-1] == "" and scores[-1] == LOWEST
        wanted = alike[row, [place[other] for other in ids[:-1]]]
        np.testing.assert_allclose(scores[:-1], wanted, atol=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_similar_items_of_an_unknown_one_are_none(ask):
    found = ask("similar_items", item_id=["nothing", ""], k=[3, 3])
    assert found["item_id"].tolist() == [[""] * 3] * 2
    assert (found["score"] == LOWEST).all()


def test_rank_puts_unknown_ids_last_as_the_empty_one(ask, users, items):
    candidates = [[items[0], "nothing", ""], [items[0], items[1], items[2]]]
    scores = ask("rank", user_id=[users[0], "nobody"], item_id=candidates)["score"]
    assert (scores == LOWEST).tolist() == [[False, True, True], [False] * 3]
    assert np.isfinite(scores).all()
    alone = ask("rank", user_id=users[:1], item_id=[[items[0]]])["score"]
    np.testing.assert_allclose(scores[0, 0], alone[0, 0], rtol=1e-6)


def test_rank_with_nothing_more_is_rank(ask, users, items):
    candidates = [[items[0], "nothing", ""], [items[0], items[1], items[2]]]
    plain = ask("rank", user_id=[users[0], "nobody"], item_id=candidates)["score"]
    asked = {"user_id": [users[0], "nobody"], "item_id": candidates, "history": [[""]] * 2}
    np.testing.assert_allclose(ask("rank_with", **asked)["score"], plain, rtol=1e-6)
    asked |= {"device": [""] * 2, "hour": [np.nan] * 2}
    np.testing.assert_allclose(ask("rank_with_context", **asked)["score"], plain, rtol=1e-6)


def test_titles_of_known_and_unknown_items(ask, run, items):
    found = ask("titles", item_id=[items[4], "nothing", "", items[0]])["title"].tolist()
    assert found == [run.prepared.titles[5], "", "", run.prepared.titles[1]]


def test_history_is_newest_first_and_cut_at_k(ask, users):
    full = ask("history", user_id=users[:2], k=[1000] * 2)["item_id"]
    found = ask("history", user_id=[*users[:2], "nobody"], k=[3, 1, 2])["item_id"]
    assert found.tolist() == [full[0][:3].tolist(), [full[1][0], "", ""], ["", "", ""]]


def test_a_batch_is_its_rows_one_by_one(ask, users):
    together = ask("recommend", user_id=users[:20], k=[7] * 20, exclude=[[""]] * 20)
    for row, user in enumerate(users[:20]):
        alone = ask("recommend", user_id=[user], k=[7], exclude=[[""]])
        assert alone["item_id"][0].tolist() == together["item_id"][row].tolist()
        np.testing.assert_allclose(alone["score"][0], together["score"][row], rtol=1e-5, atol=1e-5)


def test_missing_context_is_no_context(ask, users):
    asked = {"user_id": users[:3], "k": [5] * 3, "exclude": [[""]] * 3}
    plain = ask("recommend", **asked)
    blank = ask("recommend_in_context", **asked, device=[""] * 3, hour=[float("nan")] * 3)
    np.testing.assert_array_equal(plain["score"], blank["score"])
    odd = ask("recommend_in_context", **asked, device=["fridge"] * 3, hour=[1e9] * 3)
    assert np.isfinite(odd["score"]).all()
