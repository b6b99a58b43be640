"""What can go wrong, as types: each carries the server's own words, and one base catches them all."""

import re

# as TensorFlow Serving says it, and as the embedded server does
_BATCH_LIMIT = re.compile(r"maximum (?:input )?batch size:? (\d+)|rows; the limit is (\d+) \(--max_batch\)")


class RecommenderError(Exception):
    """The base of every error of this client; `str(error)` is one line that a person can read."""


class InvalidArgument(RecommenderError, ValueError):
    """A call that could not have worked, refused before anything was sent; `argument` names the culprit."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument = argument


class BadRequest(RecommenderError):
    """The server understood the request and refused it: unknown signature or label, wrong type or shape."""

    @property
    def batch_limit(self) -> int | None:
        """The most rows this server takes at once, where it is that limit which the request broke."""
        found = _BATCH_LIMIT.search(str(self))
        return int(found[1] or found[2]) if found else None


class NotFound(RecommenderError):
    """The server has no such model or version."""


class Unauthorized(RecommenderError):
    """The server wants an API key, or another one."""


class UntrustedServer(RecommenderError):
    """The server's certificate is not one to trust: another server, or `ca_file` does not name who signed it."""


class ServerError(RecommenderError):
    """The server failed at a request that looked right to it."""


class BadResponse(RecommenderError):
    """An answer that no recommender gives; often another service listens at that address."""


class ClientClosed(RecommenderError, RuntimeError):
    """A call of a client that has been closed."""


class DeadlineExceeded(RecommenderError, TimeoutError):
    """No answer within `timeout`, retries included."""


class Unavailable(RecommenderError):
    """The server cannot answer just now; retried until the deadline or the number of retries is used up."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConnectionFailed(Unavailable):
    """Nothing answers at that address, or the connection broke before the answer was complete."""


class TooManyRequests(Unavailable):
    """The server asks for fewer requests; retried no sooner than it says."""


_HTTP: dict[int, type[RecommenderError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    408: DeadlineExceeded,
    429: TooManyRequests,
    502: Unavailable,  # of a proxy, when a server behind it restarts
    503: Unavailable,
    504: DeadlineExceeded,
}
_GRPC: dict[str, type[RecommenderError]] = {
    "INVALID_ARGUMENT": BadRequest,
    "FAILED_PRECONDITION": BadRequest,
    "OUT_OF_RANGE": BadRequest,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": Unauthorized,
    "PERMISSION_DENIED": Unauthorized,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "RESOURCE_EXHAUSTED": TooManyRequests,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Unavailable,
}


def not_connected(url: str, reason: str) -> RecommenderError:
    """The error where no connection came about."""
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return UntrustedServer(
            f"{url} shows a certificate that is not trusted; ca_file (--ca-file) names one that is: {reason}"
        )
    return ConnectionFailed(f"no connection to {url}: {reason}")


def from_http(status: int, message: str, retry_after: float = 0.0) -> RecommenderError:
    """The error for an HTTP status other than 200."""
    if 300 <= status < 400:
        return BadResponse(f"HTTP {status}: the address redirects elsewhere, which is not followed")
    kind = _HTTP.get(status, BadRequest if status < 500 else ServerError)
    text = message or f"HTTP {status} without a message"
    return kind(text, retry_after) if issubclass(kind, Unavailable) else kind(text)


def from_grpc(code: str, message: str) -> RecommenderError:
    """The error for a gRPC status code, by its name, other than OK."""
    if code == "RESOURCE_EXHAUSTED" and "message larger than max" in message:
        return BadRequest(
            f"{message}: send less at once, such as a smaller max_batch, or raise the server's limit"
        )
    return _GRPC.get(code, ServerError)(message or f"{code} without a message")
