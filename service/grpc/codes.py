"""Errors as codes of gRPC, with the words that they have over HTTP."""

from __future__ import annotations

from grpc import StatusCode

from service.core.errors import (
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    HeadTooLarge,
    InferenceFailed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnprocessableImage,
    UnsupportedMediaType,
)


class Unsupported(ServiceError):
    """The method of the protocol is not implemented, or is turned off."""

    status, title = 501, "Not implemented"


_CODES: dict[type[ServiceError], StatusCode] = {
    BadRequest: StatusCode.INVALID_ARGUMENT,
    Unauthorized: StatusCode.UNAUTHENTICATED,
    Forbidden: StatusCode.PERMISSION_DENIED,
    NotFound: StatusCode.NOT_FOUND,
    RequestTimeout: StatusCode.DEADLINE_EXCEEDED,
    PayloadTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    UnsupportedMediaType: StatusCode.INVALID_ARGUMENT,
    UnprocessableImage: StatusCode.INVALID_ARGUMENT,
    TooManyRequests: StatusCode.RESOURCE_EXHAUSTED,
    HeadTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    InferenceFailed: StatusCode.INTERNAL,
    Unsupported: StatusCode.UNIMPLEMENTED,
    Unavailable: StatusCode.UNAVAILABLE,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
}
_MAX_DETAILS = 1024
"""Most characters of a message: clients refuse large metadata, and then show another error."""


def code_of(error: ServiceError) -> StatusCode:
    """The code of an error: that of its class, or of the nearest class above."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), StatusCode.INTERNAL)


def details_of(error: Exception) -> str:
    """The message of an error, of limited length."""
    text = str(error)
    return text if len(text) <= _MAX_DETAILS else text[: _MAX_DETAILS - 1] + "…"
