"""What each verb asks of the server and how it reads the answer: the methods of both clients."""

from collections.abc import Sequence
from dataclasses import replace

from serving.client.base import Client
from serving.client.calls import (
    Call,
    Explanation,
    Inputs,
    Outputs,
    Recommendation,
    Recommendations,
    SimilarUser,
    VersionStatus,
)
from serving.client.checks import a_count, a_dial, an_id, at_least, id_lists, ids
from serving.client.context import Context, each
from serving.client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    RecommenderError,
    Unauthorized,
    UntrustedServer,
)

_RANKED = ("item_id", "score")
_LISTED = (*_RANKED, "path")
_FIRST_POLL, _LAST_POLL = 0.02, 0.5  # seconds between two looks at the status


async def recommend(
    self: Client,
    user_id: str | None = None,
    k: int = 10,
    *,
    exclude: Sequence[str] = (),
    history: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    categories: Sequence[str] = (),
    diversity: float = 0.0,
    popularity: float = 0.0,
    context: Context | None = None,
) -> Recommendations:
    """The best `k` items for a user, best first; fewer where the corpus has no more to offer.

    An unknown `user_id` is welcome and gets what suits everyone. `history` (item ids, oldest first), where it
    has any item that the model knows, takes the place of what it remembers of the user, who may then be left
    out. `exclude` never comes back.
    Where `allow` (item ids) or `categories` hold anything, nothing else comes back. `diversity` from 0 to 1
    makes the list repeat itself less, and each item keeps its own score. `popularity` times the log of an
    item's popularity is added to its score; below 0 the popular lose. `context` is what the request brings, such as
    `{"device": "phone"}`, by the model's context columns; what is left out is unknown.
    """
    answers = await recommend_many(
        self,
        None if user_id is None else [an_id("user_id", user_id)],
        k,
        exclude=[exclude],
        history=None if history is None else [history],
        allow=[allow] if allow else None,
        categories=[categories] if categories else None,
        diversity=diversity,
        popularity=popularity,
        context=context,
    )
    return answers[0]


async def recommend_many(
    self: Client,
    user_ids: Sequence[str] | None = None,
    k: int = 10,
    *,
    exclude: Sequence[Sequence[str]] | None = None,
    history: Sequence[Sequence[str]] | None = None,
    allow: Sequence[Sequence[str]] | None = None,
    categories: Sequence[Sequence[str]] | None = None,
    diversity: float = 0.0,
    popularity: float = 0.0,
    context: Context | Sequence[Context] | None = None,
) -> list[Recommendations]:
    """One list of recommendations per user, in the order given.

    `exclude`, `history`, `allow` and `categories` hold one list per user (an empty history leaves the one remembered,
    an empty `allow` or `categories` allows everything), `diversity` and `popularity` are for all of them, and
    `context` is one mapping for all, or one per user; `recommend` says what each does. The users are split into
    requests within the server's batch limit, and the timeout bounds each of those.
    """
    users = None if user_ids is None else ids("user_ids", user_ids)
    if users is None and history is None:
        raise InvalidArgument("user_id", "or history must be given")
    count = len(users if users is not None else history or ())
    inputs: Inputs = {"k": [a_count("k", k)] * count}
    inputs["exclude"] = [()] * count if exclude is None else id_lists("exclude", exclude, count)
    wishes: Inputs = {
        "allow": [()] * count if allow is None else id_lists("allow", allow, count),
        "category": [()] * count if categories is None else id_lists("categories", categories, count),
        "diversity": [a_dial("diversity", diversity)] * count,
        "popularity": [a_dial("popularity", popularity)] * count,
    }
    signature = "recommend" if history is None else "recommend_history"
    if users is not None:
        inputs["user_id"] = users
    if history is not None:
        inputs["history"] = id_lists("history", history, count)
    if (users and history) or diversity or popularity or any(wishes["allow"]) or any(wishes["category"]):
        signature = "recommend_with"
        inputs = {"user_id": [""] * count, "history": [()] * count, **inputs, **wishes}
    contexts = each(context, count)
    found = [Recommendations()] * count
    for target, places in self._targets(users, count):
        part = {name: [column[place] for place in places] for name, column in inputs.items()}
        given = None if contexts is None else [contexts[place] for place in places]
        outputs = await self._in_context(signature, part, _LISTED, target, given)
        for place, *row in zip(places, *(outputs[name] for name in _LISTED), strict=True):
            found[place] = _ranked(*row)
    return found


async def retrieve(
    self: Client, user_id: str, k: int = 500, *, exclude: Sequence[str] = ()
) -> Recommendations:
    """The `k` candidates of a user as the first stage finds and scores them, before any ranking."""
    inputs: Inputs = {"user_id": [an_id("user_id", user_id)], "k": [a_count("k", k)]}
    inputs["exclude"] = [ids("exclude", exclude)]
    outputs = await self._predict("retrieve", inputs, _LISTED, self._target_of(user_id))
    return _ranked(*(outputs[name][0] for name in _LISTED))


async def similar_users(self: Client, user_id: str, k: int = 10) -> list[SimilarUser]:
    """The `k` users most like this one, most alike first; none for a user that the model does not know."""
    inputs: Inputs = {"user_id": [an_id("user_id", user_id)], "k": [a_count("k", k)]}
    outputs = await self._predict("similar_users", inputs, ("user_id", "score"), self._target_of(user_id))
    return [SimilarUser(*found) for found in _ranked(outputs["user_id"][0], outputs["score"][0])]


async def explain(self: Client, user_id: str, item_id: str, *, history: Sequence[str] = ()) -> Explanation:
    """What pulls an item up for a user; `history` (item ids, oldest first) takes the remembered one's place.

    An item that the model does not know has the lowest score that there is, and no parts.
    """
    inputs: Inputs = {"user_id": [an_id("user_id", user_id)], "item_id": [an_id("item_id", item_id)]}
    inputs["history"] = [ids("history", history)]
    names = ("score", "path", "part", "part_score", "history", "history_score", "feature", "feature_score")
    outputs = await self._predict("explain", inputs, names, self._target_of(user_id))
    row = {name: outputs[name][0] for name in names}
    return Explanation(
        row["score"],
        row["path"],
        dict(zip(row["part"], row["part_score"], strict=True)),
        [pair for pair in zip(row["history"], row["history_score"], strict=True) if pair[0]],
        dict(zip(row["feature"], row["feature_score"], strict=True)),
    )


async def similar_items(self: Client, item_id: str, k: int = 10) -> list[Recommendation]:
    """The `k` items most like this one, most alike first."""
    inputs: Inputs = {"item_id": [an_id("item_id", item_id)], "k": [a_count("k", k)]}
    outputs = await self._predict("similar_items", inputs, _RANKED)
    return _ranked(outputs["item_id"][0], outputs["score"][0])


async def rank(
    self: Client,
    user_id: str,
    item_ids: Sequence[str],
    *,
    history: Sequence[str] = (),
    context: Context | None = None,
) -> list[Recommendation]:
    """The given items with the ranking model's scores, best first; ties stay in the order given.

    `history` (item ids, oldest first) takes the remembered one's place, and `context` is that of the request.
    """
    user, items = an_id("user_id", user_id), ids("item_ids", item_ids)
    if not items:
        return []
    inputs: Inputs = {"user_id": [user], "item_id": [items]}
    signature = "rank_with" if history or context else "rank"
    if signature == "rank_with":
        inputs["history"] = [ids("history", history)]
    outputs = await self._in_context(signature, inputs, ("score",), self._target_of(user), each(context, 1))
    scores = outputs["score"][0]
    if len(scores) != len(items):
        raise BadResponse(f"rank: {len(items)} items were sent and {len(scores)} scores came back")
    return sorted(map(Recommendation, items, scores), key=lambda found: -found.score)


async def embed(
    self: Client,
    *,
    user_id: str | None = None,
    item_id: str | None = None,
    history: Sequence[str] | None = None,
) -> list[float] | list[list[float]]:
    """The embedding of a user, of an item or of a history (item ids, oldest first): name exactly one.

    Where a model has several interests in a user, there is one list for each of them.
    """
    if sum(given is not None for given in (user_id, item_id, history)) != 1:
        raise InvalidArgument("user_id", "or item_id or history must be given, and only one of them")
    inputs: Inputs
    if user_id is not None:
        signature, inputs = "embed_users", {"user_id": [an_id("user_id", user_id)]}
    elif item_id is not None:
        signature, inputs = "embed_items", {"item_id": [an_id("item_id", item_id)]}
    else:
        signature, inputs = "embed_histories", {"history": [ids("history", history or ())]}
    outputs = await self._predict(signature, inputs, ("embedding",), self._target_of(user_id))
    return list(outputs["embedding"][0])


async def titles(self: Client, item_ids: Sequence[str]) -> list[str]:
    """The title of each item, in the order given; empty where the corpus has none."""
    outputs = await self._predict("titles", {"item_id": ids("item_ids", item_ids)}, ("title",))
    return outputs["title"]


async def history(self: Client, user_id: str, k: int = 10) -> list[str]:
    """The items of a user that the model remembers, newest first, at most `k`."""
    inputs: Inputs = {"user_id": [an_id("user_id", user_id)], "k": [a_count("k", k)]}
    outputs = await self._predict("history", inputs, ("item_id",), self._target_of(user_id))
    return [item for item in outputs["item_id"][0] if item]


async def status(self: Client) -> list[VersionStatus]:
    """The versions of the model that the server knows, newest first."""
    return _versions(await self._request(Call(self._target_of(), "status")))


async def wait_until_ready(self: Client, timeout: float = 60.0) -> None:
    """Returns once the model can answer; raises `DeadlineExceeded` with the last reason why it cannot.

    With arms, it is the control that is waited for. `tensorflow_model_server` lists all versions whatever the label, so a model with a
    label is asked for its metadata as well.
    """
    at_least("timeout", timeout, 0)
    deadline, pause = self._policy.clock() + timeout, _FIRST_POLL
    while True:
        left = max(deadline - self._policy.clock(), _FIRST_POLL)
        once = replace(self._policy, timeout=min(left, self._policy.timeout), retries=0)
        try:
            versions = _versions(await self._request(Call(self._target_of(), "status"), once))
            if any(version.state == "AVAILABLE" for version in versions):
                if self._target_of().label is not None:
                    await self._request(Call(self._target_of(), "metadata"), once)
                return
            reason = ", ".join(
                f"version {v.version} is {v.state} {v.error_message}".strip() for v in versions
            )
        except (InvalidArgument, Unauthorized, UntrustedServer, ClientClosed):
            raise
        except RecommenderError as error:
            reason = str(error)
        if self._policy.clock() + pause > deadline:
            raise DeadlineExceeded(
                f"{self._target_of()} is not ready after {timeout:g} s: {reason or 'no version'}"
            )
        await self._sleep(pause)
        pause = min(2 * pause, _LAST_POLL)


def _versions(outputs: Outputs) -> list[VersionStatus]:
    return [
        VersionStatus(*row) for row in zip(*(outputs[name] for name in VersionStatus._fields), strict=True)
    ]


def _ranked(items: Sequence[str], scores: Sequence[float], path: str = "") -> Recommendations:
    """Items with scores, without the empty places that fill a row up to the width of its batch."""
    if len(items) != len(scores):
        raise BadResponse(f"{len(items)} items and {len(scores)} scores came back")
    found = (Recommendation(item, score) for item, score in zip(items, scores, strict=True) if item)
    return Recommendations(found, path)
