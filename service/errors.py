"""What can go wrong with a request, and what its sender is told.

    ServiceError
    ├── BadRequest              400
    ├── Unauthorized            401, with WWW-Authenticate
    ├── Forbidden               403
    ├── NotFound                404
    ├── PayloadTooLarge         413
    ├── UnsupportedMediaType    415
    ├── UnprocessableImage      422
    ├── InferenceFailed         500
    ├── Unavailable             503
    │   └── Overloaded          503, with Retry-After
    └── DeadlineExceeded        504

Status and title stand on the class, the detail says what to do. `routes.problems` turns them into responses
(RFC 9457, application/problem+json).
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """An error with an HTTP status; its message is shown to the caller."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    @property
    def headers(self) -> dict[str, str]:
        return {}


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


class PayloadTooLarge(ServiceError):
    status, title = 413, "Too large"


class UnsupportedMediaType(ServiceError):
    status, title = 415, "Unsupported media type"


class UnprocessableImage(ServiceError):
    status, title = 422, "Not a usable image"


class InferenceFailed(ServiceError):
    status, title = 500, "Inference failed"


class Unavailable(ServiceError):
    status, title = 503, "Not ready"


class Overloaded(Unavailable):
    """The queue is full.

    Args:
        retry_after: seconds after which what waits now will have been computed.
    """

    status, title = 503, "Overloaded"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"more images are waiting than can be served soon: try again in {retry_after} s")
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class DeadlineExceeded(ServiceError):
    status, title = 504, "Deadline passed"
