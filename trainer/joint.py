"""One model on both tasks: retrieval and ranking share id embeddings, and a step lowers both losses."""

from pathlib import Path

import tensorflow as tf

from trainer.config import Config
from trainer.data.examples import Prepared
from trainer.fit import Metrics, fit, tell_time_limit
from trainer.fitted import FittedModel
from trainer.input_pipeline import Batch
from trainer.optimizer import prepare_fit
from trainer.progress import Reporter
from trainer.ranking.model import RankingModel
from trainer.ranking.train import build_ranking, validator
from trainer.retrieval.model import RetrievalModel
from trainer.retrieval.train import build_retrieval, describe_rows, retrieval_plan


class JointModel(FittedModel):
    """Both models under one optimizer: loss = (1 - ranking_weight) * retrieval + ranking_weight * ranking."""

    def __init__(self, retrieval: RetrievalModel, ranking: RankingModel, ranking_weight: float) -> None:
        super().__init__()
        self.retrieval = retrieval
        self.ranking = ranking
        self.ranking_weight = ranking_weight

    def compute_loss(self, inputs: dict[str, Batch], training: bool = False) -> tf.Tensor:
        """Returns the mixed loss of a `retrieval` and a `ranking` batch."""
        of_retrieval = self.retrieval.compute_loss(inputs["retrieval"], training)
        with self.retrieval.retriever.embedding.step():  # the ids are shared
            of_ranking = self.ranking.compute_loss(inputs["ranking"], training)
        loss = (1 - self.ranking_weight) * of_retrieval + self.ranking_weight * of_ranking
        if training:
            self.note(loss)
        return loss


def train_joint(
    config: Config, prepared: Prepared, workdir: Path, reporter: Reporter
) -> tuple[RetrievalModel, RankingModel]:
    """Returns both models with the weights of the best epoch by `train.objective` on validation.

    An epoch is one pass of the retrieval events; ranking batches go on from epoch to epoch. Optimizer,
    learning rate and patience are those of `train`, the ranking batch is `ranking.batch_size`, and the length
    of id vectors `retrieval.embedding_dimension`.
    """
    settings, retrieval = config.train, build_retrieval(config, prepared)
    tower = retrieval.model
    ready = build_ranking(config, prepared, reporter, tower.query_tower.ids, tower.candidate_tower.ids)
    model = JointModel(tower, ready.model, settings.joint_ranking_weight)
    steps = retrieval.steps

    def batches(first: int) -> tf.data.Dataset:
        of_ranking = ready.batches(first * steps, settings.epochs * steps)
        return tf.data.Dataset.zip({"retrieval": retrieval.batches(first), "ranking": of_ranking})

    ranking_loss = validator(ready.model, prepared.rated_validation)

    def validate() -> Metrics:
        return retrieval.validate() | {"ranking_loss": ranking_loss()["loss"]}

    def describe_step(step: int) -> str:
        return f"in its ranking batch {describe_rows(ready.events, ready.rows(step).numpy(), prepared)}"

    prepare_fit(model, settings.optimizer, settings.learning_rate, steps, next(iter(batches(0))))
    plan = retrieval_plan(settings, steps)
    with reporter.step("train jointly", settings.epochs * steps) as advance:
        history = fit(model, batches, validate, plan, workdir / "joint", advance, describe_step)
    tell_time_limit(plan, history, reporter)
    tower.retriever.embedding.refresh()
    return tower, ready.model
