"""Access to the `implicit` library: a clear error where it is missing, and one BLAS thread while its own threads run."""

import importlib
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import threadpool_limits

from trainer.errors import UserError


def models(name: str, needed_by: str = "this baseline") -> Any:
    """Returns the module of `implicit` with the CPU models `name`; raises `UserError` where it is not
    installed, which says what needs it.
    """
    try:
        return importlib.import_module(f"implicit.cpu.{name}")
    except ImportError as error:
        raise UserError(f"{needed_by} needs the library implicit (pip install implicit): {error}") from None


def one_blas_thread() -> AbstractContextManager[Any]:
    """Returns a context with one BLAS thread: `implicit` has threads of its own, and slows down and warns otherwise."""
    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits
