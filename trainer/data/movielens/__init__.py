"""MovieLens as it is published: `source.py` is the data set, `folder.py` and `tfds.py` where it is read from."""
