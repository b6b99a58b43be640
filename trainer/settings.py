"""The sections of the settings, typed: each setting with its one default and its unit. `trainer/config.py` puts them together."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Settings(BaseModel):
    """The base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """Returns the values with the default name where settings of a part come without one."""
        if not isinstance(values, Mapping):
            return values
        named = dict(values)
        for key, field in cls.model_fields.items():
            part = named.get(key)
            if isinstance(field.default, Part) and isinstance(part, Mapping):
                named[key] = {"name": field.default.name, **part}
        return named


class Part(BaseModel):
    """A registered part by name, with the settings that its constructor takes."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings without the name."""
        return dict(self.model_extra or {})


class SplitSettings(Settings):
    """How interactions part into train, validation and test."""

    # auto: leave_last_out where there is time, else random; a test part that the source brings counts before any
    method: Literal["auto", "leave_last_out", "time", "random", "predefined"] = "auto"
    test_fraction: float = Field(0.2, gt=0, lt=1)  # of all events; for `time` and `random`
    validation_fraction: float = Field(0.1, gt=0, lt=1)  # of the events that are not test
    seed: int = Field(42, ge=0, lt=2**32)


class DataSettings(Settings):
    """Where the interactions come from and how they are read."""

    source: Part = Part(name="synthetic")
    split: SplitSettings = SplitSettings()
    # retrieval takes events rated at least this as positives; None: all events
    min_rating: float | None = None
    dislike_rating: float | None = None  # an event rated at most this is a dislike; None: no rating is
    # behaviour -> weight of its events: 0 leaves them out, below 0 they are dislikes; empty: all weigh 1.
    # In losses a weight w counts log2(1 + w / mean), in blocks too where validation is better for it.
    behaviours: dict[str, float] = Field(default_factory=dict)
    history_length: int = Field(50, ge=1)  # events that the history encoder reads, the latest kept

    @model_validator(mode="after")
    def _opinions_apart(self) -> "DataSettings":
        least, most = self.min_rating, self.dislike_rating
        if least is not None and most is not None and most >= least:
            raise ValueError(f"data.dislike_rating={most} must be below data.min_rating={least}")
        return self


class RetrievalSettings(Settings):
    """The query and candidate towers and the retrieval task."""

    enabled: bool = True
    # length of the query and candidate vectors' learned block; auto: by the number of items
    embedding_dimension: PositiveInt | Literal["auto"] = 64
    embedding: Part = Part(name="table")  # the id embeddings of both towers
    start: Part = Part(name="random")  # what the item embeddings start from
    layers: tuple[int, ...] = ()  # widths of dense layers above the fused features, in each tower
    history: bool = True  # whether the query tower reads the history
    encoder: Part = Part(name="decay")  # pools the history
    user_id: bool = True  # whether the query tower embeds the user id
    features: bool = True  # whether the towers read the declared features
    fusion: Part = Part(name="sum")  # how ids, features, history and context become one vector
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine"
    temperature: float = Field(0.1, gt=0)
    learn_temperature: bool = False  # train the temperature too, starting from the one given
    negatives: Part = Part(name="mixed")
    dislike_weight: float = Field(1.0, ge=0)  # of what pushes disliked items below the positives, in the loss
    mask_positives: bool = False  # items of a user's history are no negatives of theirs
    loss: Part = Part(name="softmax")
    event_half_life_days: float | None = Field(None, gt=0)  # an event this much older weighs half in the loss
    # share of ids hidden in training, so that features learn to carry
    id_dropout: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)  # share of an item embedding's numbers hidden in training
    l2: float = Field(0.0, ge=0)  # weight decay of the embeddings
    # longest id embedding; longer ones are shortened as they are read
    max_norm: float | None = Field(None, gt=0)
    # blocks of factorised interactions beside the learned one
    factorisation: Literal["auto", "none"] = "auto"
    factorisation_rank: int = Field(1024, ge=1)  # columns of a block at most


class Target(Settings):
    """One thing the ranking model predicts.

    In the loss, `weight` is per spread of the target: its unit does not matter, seconds or hours. In the served score,
    `score_weight` is per unit of the target: of a rating star, of a second, and of a probability from 0 to 1.
    """

    name: str = "rating"
    kind: Literal["regression", "binary"] = "regression"
    column: str = "rating"  # rating, weight (dislikes below 0), or a context column, then no input of a model
    threshold: float | None = None  # binary: the label is 1 where the column is at least this
    weight: float = Field(1.0, gt=0)  # in the total loss, where each target's is of its labelled events alone
    # per unit of the target, in the served score, a weighted sum; below 0: to avoid
    score_weight: float = 1.0


class RankingSettings(Settings):
    """The ranking model."""

    enabled: bool = True
    embedding_dimension: int = Field(32, ge=1)
    network: Part = Part(name="mlp")  # how ids, features, context, prior and history meet
    layers: tuple[PositiveInt, ...] = (64,)  # widths of the network's dense layers
    history: Part = Part(name="none")  # how the user's events before this one are read; its length: data
    heads: Part = Part(name="shared_bottom")  # how several targets share the network
    targets: tuple[Target, ...] = Field((Target(),), min_length=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    # share of ids and contexts hidden in training: the model learns to do without
    id_dropout: float = Field(0.1, ge=0, lt=1)
    l2: float = Field(1e-5, ge=0)
    learning_rate: float = Field(0.05, gt=0)  # of Adagrad
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(1024, ge=1)
    # ratings, else the first target with a score_weight, start from a Bayesian factorisation in closed form
    prior: Literal["auto", "none"] = "auto"
    prior_rank: int = Field(12, ge=1)
    prior_sweeps: int = Field(16, ge=1)

    @property
    def outcomes(self) -> frozenset[str]:
        """Returns the columns of the targets: what came of a request is not known when it is made, and no input of a model."""
        return frozenset(target.column for target in self.targets)

    @model_validator(mode="after")
    def _targets_apart(self) -> "RankingSettings":
        names = [target.name for target in self.targets]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two targets are named {twice[0]!r}; give each of ranking.targets its own name")
        if not any(target.score_weight for target in self.targets):
            raise ValueError(
                "score_weight is 0 in all of ranking.targets: every item would have the same score"
            )
        return self


class TrainSettings(Settings):
    """The fit of the retrieval model; the ranking model's reads its patience and seed here too."""

    # one model on both tasks instead of one after the other; epochs, optimizer, rate and id vectors are then retrieval's
    joint: bool = False
    joint_ranking_weight: float = Field(0.5, ge=0, le=1)  # share of the ranking loss in the joint loss
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(1024, ge=2)
    optimizer: Literal["adagrad", "adam"] = "adagrad"
    learning_rate: float = Field(0.1, gt=0)
    patience: int = Field(3, ge=1)  # epochs without a better validation metric before stopping
    # no epoch starts that would likely end later than so many minutes of training; none: epochs and patience alone
    minutes: float | None = Field(None, gt=0)
    objective: str = "ndcg@10"  # the validation metric that early stopping and tuning maximise
    seed: int = Field(42, ge=0, lt=2**32)


class EvaluateSettings(Settings):
    """The evaluator."""

    cutoffs: tuple[PositiveInt, ...] = Field((5, 10, 20, 50), min_length=1)  # the k of every metric@k
    baselines: tuple[str, ...] = ("popularity",)
    ranking_baselines: tuple[str, ...] = ("global_mean", "user_item_bias")
    bootstrap: int = Field(200, ge=0)  # resamples behind each interval; 0: no intervals
    slices: tuple[str, ...] = ()  # schema columns to report by, beside history length and popularity
    seed: int = Field(42, ge=0, lt=2**32)


class CascadeSettings(Settings):
    """The stages of a recommendation: candidates are retrieved, ranked lightly, then deeply."""

    retrieve: PositiveInt = 500  # candidates of the first stage
    prerank: PositiveInt = 100  # of them, those that the deep stage sees
    # what a stage's standardised score adds to retrieval's; 0 leaves the stage out; auto: by validation
    light_weight: float | Literal["auto"] = "auto"
    deep_weight: float | Literal["auto"] = "auto"
    # milliseconds that a stage may take for one user; more is told at export
    retrieve_budget_ms: float | None = Field(None, gt=0)
    light_budget_ms: float | None = Field(None, gt=0)
    deep_budget_ms: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _narrowing(self) -> "CascadeSettings":
        if self.prerank > self.retrieve:
            raise ValueError(
                f"export.cascade.prerank={self.prerank} is more than export.cascade.retrieve={self.retrieve}; "
                "each stage passes on at most what it gets"
            )
        return self


class ExportSettings(Settings):
    """The bundle."""

    model_name: str = Field("recommender", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    index: Part = Part(name="brute_force")
    default_k: int = Field(10, ge=1)
    # known users' history: as the test saw it, or with the test events
    history: Literal["evaluated", "all"] = "evaluated"
    keep_versions: int = Field(3, ge=1)
    cascade: CascadeSettings = CascadeSettings()
    # the item feature (category or bag) that requests may filter by; auto: category or genre, else the first by name; none: no filter
    category: str = "auto"
    similar_users: bool = True  # keep every known user's query vector, for the signature of that name


class TuneSettings(Settings):
    """The search. `parameters` maps a dotted setting to its range."""

    algorithm: Literal["bayesian", "hyperband", "random", "grid"] = "bayesian"
    trials: int = Field(10, ge=1)
    parameters: dict[str, dict[str, Any]] = {
        "retrieval.embedding_dimension": {"choice": [16, 32, 64, 128]},
        "retrieval.temperature": {"float": [0.03, 1.0], "log": True},
    }
