"""Settings that cannot work, refused before anything is done."""

import numpy as np

from trainer import registry
from trainer.config import Config
from trainer.data.examples import Prepared
from trainer.data.request_names import RIGHT, fits_request
from trainer.errors import UserError
from trainer.evaluation import slices
from trainer.evaluation.retrieval import cutoff
from trainer.export.selection import filter_feature
from trainer.ranking.targets import Start
from trainer.settings import Part


def check(config: Config) -> None:
    """Raises `UserError` about a part or a metric that does not exist, or a setting it does not take, before anything is done."""
    cutoff(config.train.objective)
    retrieval, ranking = config.retrieval, config.ranking
    parts: tuple[tuple[str, str, Part, tuple[str, ...]], ...] = (
        ("source", "data.source", config.data.source, ()),
        ("encoder", "retrieval.encoder", retrieval.encoder, ()),
        ("embedding", "retrieval.embedding", retrieval.embedding, ("users", "items", "pairs")),
        ("start", "retrieval.start", retrieval.start, ("prepared", "dimension")),
        ("negatives", "retrieval.negatives", retrieval.negatives, ("counts",)),
        ("loss", "retrieval.loss", retrieval.loss, ("labels", "scores", "items")),
        ("fusion", "retrieval.fusion", retrieval.fusion, ("dimension", "names")),
        ("ranking_network", "ranking.network", ranking.network, ("layers", "dropout")),
        ("ranking_history", "ranking.history", ranking.history, ()),
        ("ranking_heads", "ranking.heads", ranking.heads, ("targets",)),
    )
    for kind, where, part, given in parts:
        registry.check_settings(registry.get(kind, part.name), part.settings, where, hidden=given)
    _check_together(config)
    if retrieval.enabled and retrieval.history:
        _check_history(config)
    if (retrieval.loss.name, retrieval.similarity) == ("squared_error", "euclidean"):
        raise UserError(
            "retrieval.loss.name=squared_error wants a score of 1 of the positive, and with retrieval.similarity=euclidean no score is "
            "above 0: everything would fall on one point; take dot or cosine, or another loss"
        )
    index = config.export.index
    registry.build("index", index.name, index.settings, "export.index")
    for name in config.evaluate.baselines:
        registry.get("baseline", name)
    for name in config.evaluate.ranking_baselines:
        registry.get("rating_baseline", name)


def _check_together(config: Config) -> None:
    """Raises `UserError` about settings of which one needs another."""
    retrieval, kind = config.retrieval, config.retrieval.embedding
    if config.train.joint and not (retrieval.enabled and config.ranking.enabled):
        raise UserError(
            "train.joint=true trains both models; set retrieval.enabled=true and ranking.enabled=true"
        )
    if retrieval.enabled and kind.name != "table" and not retrieval.user_id:
        raise UserError(f"retrieval.embedding.name={kind.name} needs users' ids; set retrieval.user_id=true")


def _check_history(config: Config) -> None:
    """Raises `UserError` about a value that the encoder does not take, or where it reads less than the histories hold."""
    part, most = config.retrieval.encoder, config.data.history_length
    length = getattr(registry.build("encoder", part.name, part.settings, "retrieval.encoder"), "length", most)
    if length < most:
        raise UserError(
            f"data.history_length={most}, and the encoder {part.name!r} reads the last {length} events; set "
            f"retrieval.encoder.length={most} too, or data.history_length={length}"
        )


def check_columns(config: Config, prepared: Prepared) -> None:
    """Raises `UserError` about a column that the settings name and the data does not have, before anything trains."""
    slices.of_events(prepared.rated_train.take(np.arange(1)), prepared, config.evaluate.slices)
    filter_feature(prepared, config.export.category)
    for target in config.ranking.targets if config.ranking.enabled else ():
        Start.of(target, prepared.rated_train, None)
    context = [feature.name for feature in prepared.schema.context]
    for number, name in enumerate(context if config.retrieval.enabled else ()):
        if not fits_request(name, context[:number]):
            raise UserError(
                f"the context column {name!r} cannot be an input of a request; rename it: {RIGHT}"
            )
