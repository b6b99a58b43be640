"""A world of clicks: a user clicks an item of a kind that is among the last three events, and stays for as long as the
item is good. Who the user is says nothing, and what all events before are like says little.
"""

import numpy as np
import polars as pl

from trainer.config import from_values
from trainer.data.examples import Prepared
from trainer.data.interactions import Corpus, Dataset, Feature, Interactions, Schema
from trainer.data.prepare import prepare

USERS, ITEMS, KINDS, EVENTS, RECENT = 300, 48, 12, 14, 3
SCHEMA = Schema(
    item=(Feature(name="kind", kind="category"),),
    context=(Feature(name="click", kind="number"), Feature(name="minutes", kind="number")),
)
TARGETS = [
    {"name": "click", "kind": "binary", "column": "click"},
    {"name": "minutes", "column": "minutes", "weight": 0.1, "score_weight": 0.0},
]


def make_clicks() -> Prepared:
    """Returns the world, each user's last event the test, the one before validation."""
    rng = np.random.default_rng(11)
    item = np.array([rng.permutation(ITEMS)[:EVENTS] for _ in range(USERS)])
    kind = item % KINDS
    recent = np.stack([np.roll(kind, back, axis=1) for back in range(1, RECENT + 1)])
    began = np.arange(EVENTS) >= np.arange(1, RECENT + 1)[:, None]
    click = ((recent == kind) & began[:, None, :]).any(axis=0)
    minutes = rng.uniform(1, 9, ITEMS)[item] + rng.normal(0, 0.5, item.shape)
    users = [f"u{number:03}" for number in range(USERS)]
    items = [f"i{number:03}" for number in range(ITEMS)]
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(users, EVENTS),
            "item_id": np.array(items)[item.ravel()],
            "timestamp": pl.Series(np.tile(np.arange(EVENTS), USERS), dtype=pl.Int64),
            "rating": pl.Series([None] * item.size, dtype=pl.Float32),
            "weight": pl.Series(np.ones(item.size), dtype=pl.Float32),
            "click": pl.Series(click.ravel(), dtype=pl.Float32),
            "minutes": pl.Series(minutes.ravel(), dtype=pl.Float32),
        }
    )
    about = pl.DataFrame({"item_id": items, "kind": [f"kind {number % KINDS}" for number in range(ITEMS)]})
    people = Corpus(pl.DataFrame({"user_id": []}, schema={"user_id": pl.String}), "user_id")
    dataset = Dataset("clicks", Interactions(frame), people, Corpus(about, "item_id"), SCHEMA)
    return prepare(
        dataset, from_values({"data": {"split": {"method": "leave_last_out"}, "history_length": RECENT}}).data
    )
