"""What the tests of `describe` share: files of events, and the data set that the printed settings load."""

import tomllib

from trainer import config
from trainer.data.prepare import load_dataset

EXPORTED = [f"u{n % 9},i{n % 7},{1_600_000_000 + n}" for n in range(60)]


def export(folder, *names, header="user_id,item_id,timestamp"):
    """Writes parts of one table, each 60 events."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([header, *EXPORTED]))


def pasted(toml):
    """The data set that the printed settings load, and the settings."""
    settings = config.from_values(tomllib.loads(toml)).data
    return load_dataset(settings), settings
