"""An exported bundle or a running server as something to evaluate: it is asked by raw ids, and answers with lists.

A user that the run knows is asked for by id, with the request's context where the model takes one, and is
recommended from the history that was exported; anybody else is asked for by the history itself, in the same context.
So offline and served figures come from one evaluator, on the same cases.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from trainer.data.examples import Cases, Prepared
from trainer.data.request_names import beside_wishes
from trainer.errors import UserError
from trainer.evaluation.scoring import Asked, IdLists

Call = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]  # signature, inputs -> outputs, as nested lists
Answer = tuple[list[list[str]], list[list[float]]]
IN_CONTEXT, WITH_CONTEXT = "recommend_in_context", "recommend_with_context"
PROBED = 200  # users whose served history is looked at
ROWS = 256  # asked for in one request
TIMEOUT = 120.0  # seconds that one request may take


class Served:
    """The signatures of a recommender, wherever it runs; `manifest` is the bundle's, where it is at hand."""

    def __init__(
        self, call: Call, signatures: Sequence[str], manifest: Mapping[str, Any] | None = None
    ) -> None:
        missing = {"recommend", "recommend_history", "history"} - {*signatures}
        if missing:
            raise UserError(f"the model has no signature {min(missing)}; is it a bundle of this project?")
        self.call, self.in_context = call, IN_CONTEXT in signatures
        self.manifest = manifest or {}

    def lists(self, prepared: Prepared) -> IdLists:
        """Returns the model as lists of item ids, for the evaluator."""
        return IdLists(self._ask, prepared.users, prepared.items, prepared.new_items)

    def alarms(self, cases: Cases, prepared: Prepared, fingerprint: str) -> list[str]:
        """Returns a line each where the model was made of other data, and where it serves other histories.

        A served history that holds the answers is a leak, and one that hides them.
        """
        other = self.manifest.get("data_fingerprint", fingerprint) != fingerprint
        lines = ["the bundle was made from other data than this run's"] if other else []
        return lines + self._of_served_histories(cases, prepared)

    def _of_served_histories(self, cases: Cases, prepared: Prepared) -> list[str]:
        known = np.flatnonzero(cases.user)[:PROBED]
        some = cases.take(known)
        most = int(some.history.lengths.max(initial=0)) + int(some.positives.lengths.max(initial=0)) + 1
        asked = {"user_id": prepared.users.decode(some.user), "k": [most] * len(some)}
        found = self.call("history", asked)["item_id"] if len(some) else []
        other = leaked = 0
        for case, row in enumerate(found):
            served = {item for item in row if item}
            past, wanted = (
                {*prepared.items.decode(part.items[part.offsets[case] : part.offsets[case + 1]])} - {""}
                for part in (some.history, some.positives)
            )
            other, leaked = other + (served != past), leaked + bool(served & wanted)
        if leaked:
            return [
                f"leakage: the served history of {leaked} of {len(known)} users holds what the test asks for, so it is "
                "never recommended; export with export.history=evaluated"
            ]
        return [f"{other} of {len(known)} users have another history served than the test's"] if other else []

    def _ask(self, asked: Asked, k: int) -> Answer:
        ids: list[list[str]] = [[] for _ in asked.users]
        scores: list[list[float]] = [[] for _ in asked.users]
        known = [row for row, user in enumerate(asked.users) if user]
        strangers = [row for row, user in enumerate(asked.users) if not user]
        for rows, question in ((known, self._of_users), (strangers, self._of_histories)):
            for start in range(0, len(rows), ROWS):
                some = rows[start : start + ROWS]
                signature, inputs = question(asked, some)
                found = self.call(signature, {**inputs, "k": [k] * len(some), "exclude": [[""]] * len(some)})
                for row, names, values in zip(some, found["item_id"], found["score"], strict=True):
                    there = [place for place, name in enumerate(names) if name]
                    ids[row] = [names[place] for place in there]
                    scores[row] = [values[place] for place in there]
        return ids, scores

    def _of_users(self, asked: Asked, rows: Sequence[int]) -> tuple[str, dict[str, Any]]:
        inputs: dict[str, Any] = {"user_id": [asked.users[row] for row in rows]}
        if not self.in_context:
            return "recommend", inputs
        return IN_CONTEXT, inputs | _context(asked, rows)

    def _of_histories(self, asked: Asked, rows: Sequence[int]) -> tuple[str, dict[str, Any]]:
        histories = [asked.histories[row] for row in rows]
        width = max(1, *(len(history) for history in histories))
        inputs = {"history": [[*history, *[""] * (width - len(history))] for history in histories]}
        if not self.in_context:
            return "recommend_history", inputs
        words, numbers = [""] * len(rows), [0.0] * len(rows)
        lists = [[""]] * len(rows)
        no_wishes = {"allow": lists, "category": lists, "diversity": numbers, "popularity": numbers}
        context = {beside_wishes(name): column for name, column in _context(asked, rows).items()}
        return WITH_CONTEXT, {"user_id": words} | inputs | no_wishes | context


def _context(asked: Asked, rows: Sequence[int]) -> dict[str, Any]:
    return {name: column[[*rows]].tolist() for name, column in asked.context.items()}


def bundle(path: Path, model: str) -> Served:
    """Returns the newest version of `model` in a bundle, or the one version that `path` is, loaded here.

    Raises `UserError` where there is none, or where it needs a library that is not installed.
    """
    import tensorflow as tf

    version = _version(path, model)
    described = version / "assets.extra" / "manifest.json"
    manifest = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    if manifest.get("index", {}).get("name") == "scann":
        try:
            import scann  # noqa: F401  brings the operations that the model is made of
        except (ImportError, tf.errors.NotFoundError) as error:
            raise UserError(f"{version} needs scann, which is not installed: {error}") from None
    try:
        loaded = tf.saved_model.load(str(version))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{version} cannot be loaded: {error}") from error

    def call(signature: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        function = loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        taken = inputs.keys() & specs  # as a server, it passes over inputs that the model does not take
        given = {name: tf.constant(inputs[name], specs[name].dtype) for name in taken}
        outputs = {name: tensor.numpy() for name, tensor in function(**given).items()}
        return {name: _texts(value) if value.dtype == object else value for name, value in outputs.items()}

    return Served(call, [*loaded.signatures], manifest)


def server(url: str, model: str) -> Served:
    """Returns the model of a server that speaks TensorFlow Serving's REST API at `url`.

    A server that wants an API key is given the one in the environment variable RECOMMENDER_API_KEY, as the client's verbs do.

    Raises `UserError`, then and later, where it does not answer, or answers with an error.
    """
    home, key = f"{url.rstrip('/')}/v1/models/{model}", os.environ.get("RECOMMENDER_API_KEY")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def ask(method: str, address: str, body: Mapping[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body)  # NaN is a number in this protocol, not in httpx
        try:
            response = httpx.request(
                method, address, content=content, headers=headers, timeout=TIMEOUT, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise UserError(f"--url {url} is no address: {error}") from None
        except httpx.HTTPError as error:
            raise UserError(f"no answer from {address}: {error or type(error).__name__}") from None
        if response.status_code != 200:
            raise UserError(f"{address} answers {response.status_code}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError:
            raise UserError(f"{address} answers no JSON; is it TensorFlow Serving's REST address?") from None

    def call(signature: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = ask("POST", f"{home}:predict", {"signature_name": signature, "inputs": inputs})["outputs"]
        return outputs if isinstance(outputs, dict) else {"item_id": outputs}  # a lone output has no name

    metadata = ask("GET", f"{home}/metadata")
    return Served(call, [*metadata["metadata"]["signature_def"]["signature_def"]])


def _version(path: Path, model: str) -> Path:
    if (path / "saved_model.pb").exists():
        return path
    home = path / "models" / model
    numbers = [
        int(found.parent.name) for found in home.glob("*/saved_model.pb") if found.parent.name.isdecimal()
    ]
    if not numbers:
        raise UserError(f"no bundle at {path}: there is no {home}/<version>/saved_model.pb")
    return home / str(max(numbers))


def _texts(values: Any) -> list[Any]:
    decoded: list[Any] = np.char.decode(values.astype(bytes), "utf-8").tolist()
    return decoded
