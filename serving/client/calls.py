"""The nouns: what is asked of a server, what comes back, and the transport that carries both."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

Column: TypeAlias = Sequence[Any]
"""One value, or one list of values, per row."""
Inputs: TypeAlias = dict[str, Column]
"""Input name -> column, all with as many rows."""
Outputs: TypeAlias = Mapping[str, Column]
"""Output name -> column; all columns have as many rows as the request."""


class Recommendation(NamedTuple):
    """An item and its score; higher is better, and scores compare only within one answer."""

    item_id: str
    score: float


class Recommendations(list[Recommendation]):
    """A list, best first; `path` says what it rests on: "known" for the user's own vector, "history", "features", "context"
    or "popularity", and "" where the model does not say.
    """

    def __init__(self, found: Iterable[Recommendation] = (), path: str = "") -> None:
        super().__init__(found)
        self.path = path


class SimilarUser(NamedTuple):
    """A user and how alike they are: 1 is the same taste, 0 another."""

    user_id: str
    score: float


class Explanation(NamedTuple):
    """Why an item has its score at retrieval, before any ranking.

    `parts` of the model sum to the score. `history` has what each event adds, oldest first, and `features` what the score
    would lose without each of them.
    """

    score: float
    path: str
    parts: dict[str, float]
    history: list[tuple[str, float]]
    features: dict[str, float]


class VersionStatus(NamedTuple):
    """One version of the model as the server sees it; it answers when `state` is AVAILABLE."""

    version: int
    state: str
    error_code: str
    error_message: str


class InputSpec(NamedTuple):
    """An input of a signature: its TensorFlow type, such as DT_FLOAT, and its width: 0 for one value a row, -1 for any."""

    signature: str
    name: str
    dtype: str
    width: int


@dataclass(frozen=True, slots=True)
class Target:
    """The model a call is meant for: the newest version unless a version or a label is named."""

    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        which = f" version {self.version}" if self.version is not None else ""
        return f"model {self.model}{which}" + (f" labelled {self.label}" if self.label is not None else "")


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with a server: rows through a signature, the state of a model, or the inputs of its signatures.

    Inputs are strings, int32 or float32, and float64 where `doubles` names them, as columns `[rows]` or rectangles
    `[rows, width]`. `outputs` are the names the caller reads, in order.
    """

    target: Target
    kind: Literal["predict", "status", "metadata"] = "predict"
    signature: str = ""
    inputs: Mapping[str, Column] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    doubles: frozenset[str] = frozenset()


class Transport(Protocol):
    """Carries one call to a server and its outputs back, within `timeout` seconds.

    What it raises is a `RecommenderError`; it neither retries nor waits. `send` and `close` serve the
    blocking client, `asend` and `aclose` the asynchronous one.
    """

    def send(self, call: Call, timeout: float) -> Outputs:
        """Blocks until the outputs are here."""

    async def asend(self, call: Call, timeout: float) -> Outputs:
        """The same, awaited."""

    def close(self) -> None:
        """Ends what `send` has opened."""

    async def aclose(self) -> None:
        """Ends what `asend` has opened."""
