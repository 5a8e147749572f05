"""Errors of requests, with the status and the text that the client gets.

    ServiceError
    ├── BadRequest              400
    ├── Unauthorized            401, with WWW-Authenticate
    ├── Forbidden               403
    ├── NotFound                404
    ├── RequestTimeout          408
    ├── PayloadTooLarge         413
    ├── UnsupportedMediaType    415
    ├── UnprocessableImage      422
    ├── TooManyRequests         429, with Retry-After
    ├── HeadTooLarge            431
    ├── InferenceFailed         500
    ├── Unavailable             503
    │   ├── NotYetAvailable     503, with Retry-After
    │   │   └── ModelNotLoaded
    │   └── Overloaded          503, with Retry-After
    └── DeadlineExceeded        504

Status and title are attributes of the class; the message says how to fix the request. `http.problem_details` makes
responses of them (RFC 9457, application/problem+json).
"""

from __future__ import annotations

import math
from typing import ClassVar


class ServiceError(Exception):
    """An error with an HTTP status; the client gets its message."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    reason: str | None = None
    """Reason to refuse a request that the service can serve at another time; a label of a metric."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the message itself: some classes make it of other arguments."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[ServiceError], args: tuple[object, ...], attributes: dict[str, object]) -> ServiceError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class BadRequest(ServiceError):
    status, title = 400, "Malformed request"


class Unauthorized(ServiceError):
    status, title = 401, "Unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(ServiceError):
    status, title = 403, "Forbidden"


class NotFound(ServiceError):
    status, title = 404, "Not found"


class RequestTimeout(ServiceError):
    """The body did not arrive in time. The connection is closed, as its rest would be read as the next request."""

    status, title, reason = 408, "Request too slow", "slow_request"

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class PayloadTooLarge(ServiceError):
    status, title = 413, "Too large"


class UnsupportedMediaType(ServiceError):
    status, title = 415, "Unsupported media type"


class UnprocessableImage(ServiceError):
    status, title = 422, "Not a usable image"


class TooManyRequests(ServiceError):
    """A client is above its request rate.

    Args:
        rate: requests per second of the client.
        retry_after: seconds until the next request is accepted.
    """

    status, title, reason = 429, "Too many requests", "rate"

    def __init__(self, rate: float, retry_after: float) -> None:
        super().__init__(f"more than {rate:g} requests per second: send them more slowly")
        self.retry_after = max(1, math.ceil(retry_after))

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class HeadTooLarge(ServiceError):
    """The headers, trailers or chunk extensions of a request are too large."""

    status, title = 431, "Headers too large"

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        super().__init__(
            f"the head of the request, or what its body has beside data, is larger than {max_bytes:,} bytes or "
            f"{max_headers:,} headers: send fewer or shorter headers"
        )


class InferenceFailed(ServiceError):
    status, title = 500, "Inference failed"


class Unavailable(ServiceError):
    status, title, reason = 503, "Not ready", "not_ready"


class NotYetAvailable(Unavailable):
    """The service will answer soon by itself: a model is being loaded, or a process is being replaced."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"}


class ModelNotLoaded(NotYetAvailable):
    """A model is not in memory, and cannot be loaded within the time limit of a request.

    Args:
        message: the reason.
        seconds: time after which the model may be loaded.
    """

    def __init__(self, message: str, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(f"{message}: try again in {self.retry_after} s")

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class Overloaded(Unavailable):
    """The service has no capacity, or no time, for a request.

    Args:
        retry_after: seconds until the images that wait now are computed.
        reason: a key of `OVERLOAD`.
    """

    status, title = 503, "Overloaded"

    def __init__(self, retry_after: int, reason: str = "queue_full") -> None:
        super().__init__(f"{OVERLOAD[reason]}: try again in {retry_after} s")
        self.retry_after = retry_after
        self.reason = reason

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


OVERLOAD = {
    "queue_full": "too many images are waiting",
    "would_be_late": "so many images are waiting that the time limit would pass",
    "connections": "too many clients are connected",
    "memory": "the memory for requests is used up",
}


class DeadlineExceeded(ServiceError):
    status, title, reason = 504, "Deadline passed", "deadline"


NOT_COMPUTED_IN_TIME = "the time limit passed before the image was computed: try again, or raise timeout_ms"
"""Message of `DeadlineExceeded` for an image that was decoded."""

REASONS = (
    *OVERLOAD,
    *(kind.reason for kind in (RequestTimeout, TooManyRequests, Unavailable, DeadlineExceeded) if kind.reason),
)
"""All reasons to refuse a request."""
