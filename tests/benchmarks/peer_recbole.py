"""The peer of `bench_transformer`: RecBole's SASRec, in a Python of its own (`PEER_PYTHON`), told by lines on its standard input.

`python peer_recbole.py FOLDER SETTINGS` with a JSON object of RecBole settings; FOLDER holds `events/events.inter`. Each line asks
for one thing and is answered by one line of JSON. `epoch` trains one and says its `seconds`; `vectors FROM TO` writes to TO the
query vectors of the padded histories in the array file FROM, and the item vectors by token; `onepass FROM PLACES` says the `seconds` of
an epoch in which RecBole's layers are trained on all positions of the sequences in FROM at once, in batches of so many places.
"""

import copy
import json
import sys
import time
from functools import partial
from typing import Any

import numpy as np


def start(folder: str, settings: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Returns RecBole's trainer, training batches, model and data set."""
    import torch

    for name, kind in {
        "float_": np.float64,
        "bool8": np.bool_,
        "complex_": np.complex128,
        "unicode_": np.str_,
    }.items():
        if not hasattr(np, name):  # RecBole 1.2 names types that NumPy 2 no longer has
            setattr(np, name, kind)
    torch.load = partial(torch.load, weights_only=False)
    torch.set_num_threads(2)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    config = Config(
        "SASRec", "events", config_dict=settings | {"data_path": folder, "checkpoint_dir": folder}
    )
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train, _, _ = data_preparation(config, data)
    model = get_model("SASRec")(config, train.dataset).to(config["device"])
    return Trainer(config, model), train, model, data


def rows_by_token(data: Any) -> np.ndarray:
    """Returns RecBole's item number by this project's, `[largest token + 1]`, 0 where RecBole has no such item."""
    tokens = data.field2id_token["item_id"][1:].astype(np.int64)
    row = np.zeros(int(tokens.max()) + 1, np.int64)
    row[tokens] = np.arange(1, len(tokens) + 1)
    return row


def vectors(model: Any, data: Any, histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns query vectors `[n, D]` of item tokens `[n, length]` (oldest first, 0 pads), and item vectors `[largest token + 1, D]`."""
    import torch

    row = rows_by_token(data)
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(histories), 512):
            block = torch.from_numpy(row[histories[first : first + 512]])
            found.append(model.forward(block, (block > 0).sum(1).clamp(min=1)).numpy())
        items = model.item_embedding.weight.numpy()[row]
    return np.concatenate(found), items


def one_pass(model: Any, sequences: np.ndarray, places: int) -> float:
    """Returns the seconds of an epoch over sequences `[n, length]` (sorted by length, 0 pads) on a copy of the model's layers."""
    import torch

    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    begin, first = time.perf_counter(), 0
    while first < len(sequences):
        width = int((sequences[first] > 0).sum())  # the longest of the batch
        block = torch.from_numpy(sequences[first : first + max(places // width, 1), :width])
        first += len(block)
        place = torch.arange(width - 1)
        events = model.item_embedding(block[:, :-1]) + model.position_embedding(place)
        never = torch.where(place > place[:, None], -10_000.0, 0.0)[None, None]
        states = model.trm_encoder(
            model.dropout(model.LayerNorm(events)), never, output_all_encoded_layers=False
        )[-1]
        asked = block[:, 1:] > 0
        logits = states[asked] @ model.item_embedding.weight.T
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, block[:, 1:][asked]).backward()
        optimizer.step()
    return time.perf_counter() - begin


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # RecBole prints
    arguments, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole reads the command line too
    trainer, train, model, data = start(arguments[0], json.loads(arguments[1]))
    print(json.dumps({"examples": len(train.dataset)}), file=out, flush=True)
    epoch = 0
    for line in sys.stdin:
        verb, *paths = line.split()
        if verb == "epoch":
            begin = time.perf_counter()
            trainer._train_epoch(train, epoch)
            answer = {"seconds": time.perf_counter() - begin}
            epoch += 1
        elif verb == "onepass":
            answer = {"seconds": one_pass(model, rows_by_token(data)[np.load(paths[0])], int(paths[1]))}
        else:
            queries, items = vectors(model, data, np.load(paths[0]))
            np.savez(paths[1], queries=queries, items=items)
            answer = {}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
