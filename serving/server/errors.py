"""The canonical status codes, with the names and the HTTP statuses that TensorFlow Serving gives them."""

import hmac
from enum import IntEnum

Code = IntEnum(
    "Code",
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED",
    start=0,  # as gRPC and TensorFlow number them
)
_STATUSES = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
HTTP_STATUS = dict(zip(Code, _STATUSES, strict=True))


def bears(header: bytes, key: bytes) -> bool:
    """Whether an `authorization` header is `Bearer KEY`; how long it takes tells nothing of the key."""
    scheme, _, given = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key)


class RequestError(Exception):
    """A request, or a version's load, that failed with a canonical code and a text for the caller."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error: Exception) -> "RequestError":
        """`error` as a RequestError: TensorFlow's keep their code and text, others become INTERNAL."""
        if isinstance(error, cls):
            return error
        code = getattr(error, "error_code", None)  # of tf.errors.OpError
        message = str(getattr(error, "message", error)) or type(error).__name__
        message = message.removeprefix("Graph execution error:\n\n")  # TensorFlow's Python adds it
        return cls(Code.INTERNAL if code is None else Code(code), message)


class StartError(Exception):
    """A command line, a configuration file or a bundle that cannot be served; the text is one line."""


def invalid(message: str) -> RequestError:
    """An INVALID_ARGUMENT error that says `message`."""
    return RequestError(Code.INVALID_ARGUMENT, message)
