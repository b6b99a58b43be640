"""A laptop's stand-in for TensorFlow Serving: the same protocol over the same directories. Small on purpose.

It speaks predict, status and metadata over REST and gRPC, loads and swaps versions as the real server does, and refuses what it does not do.
The command line takes the real server's flags, so one command moves to `tensorflow_model_server` unchanged.
"""

import argparse

from serving.server.options import add_arguments, read_options

__all__ = ["add_arguments", "main"]


def main(namespace: argparse.Namespace) -> int:
    """Serves until it is told to stop; TensorFlow loads only now."""
    options = read_options(namespace)
    if namespace.engine == "tensorflow":
        from serving.server.engine import run_tensorflow_model_server

        return run_tensorflow_model_server(options)
    from serving.server.app import serve

    return serve(options)
