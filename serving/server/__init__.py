"""The embedded server: a laptop's stand-in for TensorFlow Serving, speaking its REST and gRPC protocols.

What it does it does as `tensorflow_model_server` does, from the same flags and files; what it does not do it
refuses by name at start. It adds limits, TLS and an API key, and listens on loopback unless told otherwise.
"""

import argparse
import os
import sys
from typing import NoReturn

from serving.server.options import ServerOptions, add_arguments

__all__ = ["ServerOptions", "add_arguments", "main"]


def main(namespace: argparse.Namespace) -> NoReturn:
    """Serves what the parsed command line names until SIGTERM or SIGINT, then exits; raises StartError if it cannot."""
    options = ServerOptions.of(namespace)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what fails is raised, the rest is noise
    from serving.server.app import serve

    serve(options)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is answered. A thread that watches the disk and wakes, or loads, while Python winds down aborts the process.
    os._exit(0)
