"""The verbs of `python -m serving` that talk to a server: each a module with `add_arguments` and `main`."""
