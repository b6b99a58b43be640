"""A server that is not there, for the tests of whoever uses the client."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from serving.client.calls import Call, InputSpec, Outputs, VersionStatus
from serving.client.errors import BadRequest, RecommenderError

Answer: TypeAlias = Outputs | RecommenderError | Callable[[Call], Outputs]
_READY = {
    name: [value] for name, value in zip(VersionStatus._fields, (1, "AVAILABLE", "OK", ""), strict=True)
}
_NO_INPUTS: Outputs = {name: [] for name in InputSpec._fields}


class FakeTransport:
    """Answers from a table, remembers every call in `calls`, and needs no network.

    An answer is the columns of a signature's outputs, an error to raise, or a function of the call. A list
    holds answers in turn, the last of which repeats. Who sends context also answers "metadata", by columns of `InputSpec`.

        transport = FakeTransport({
            "recommend": {"item_id": [["7", "9"]], "score": [[0.9, 0.5]]},
            "titles": [Unavailable("busy"), lambda call: {"title": call.inputs["item_id"]}],
        })
        assert Recommender(transport=transport).recommend("42") == [("7", 0.9), ("9", 0.5)]
    """

    def __init__(self, answers: Mapping[str, Answer | list[Answer]]) -> None:
        self._answers = {
            name: list(answer) if isinstance(answer, list) else [answer]
            for name, answer in {"status": _READY, "metadata": _NO_INPUTS, **answers}.items()
        }
        self.calls: list[Call] = []
        self.timeouts: list[float] = []
        self.closed = False

    def send(self, call: Call, timeout: float) -> Outputs:
        """The next answer for this signature, or for "status" or "metadata"."""
        self.calls.append(call)
        self.timeouts.append(timeout)
        name = call.signature or call.kind  # one that is no prediction has no signature
        if name not in self._answers:
            raise BadRequest(f'Serving signature name: "{name}" not found in signature def')
        turns = self._answers[name]
        answer = turns.pop(0) if len(turns) > 1 else turns[0]
        if isinstance(answer, RecommenderError):
            raise answer
        return answer(call) if callable(answer) else answer

    async def asend(self, call: Call, timeout: float) -> Outputs:
        """The same, awaited."""
        return self.send(call, timeout)

    def close(self) -> None:
        """Marks the transport as closed."""
        self.closed = True

    async def aclose(self) -> None:
        """Marks the transport as closed."""
        self.closed = True
