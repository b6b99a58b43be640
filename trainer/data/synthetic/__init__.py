"""Generated worlds whose truth is known: `source.py` is the one of the demo, `chain.py` and `groups.py` those of ids alone."""
