"""When a request is sent again, and after how long."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import Random

from resnet_serve_client.errors import ApiError, ClientError, InvalidAnswer, NoAnswer

RETRIED = frozenset({408, 429, 502, 503, 504})
"""Statuses of a service or a proxy that may answer another attempt. Classification changes nothing in the service, so
it is safe to repeat."""

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0


@dataclass(frozen=True)
class RetryLimits:
    """RetryLimits of one request and its repetitions."""

    total: float
    """Seconds for all attempts and the pauses between them."""
    attempt: float
    """Seconds for one attempt."""
    retries: float
    """Most attempts after the first; `math.inf` for as many as `total` allows."""


def can_retry(error: ClientError) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, ApiError):
        return error.status in RETRIED
    return isinstance(error, InvalidAnswer) or (isinstance(error, NoAnswer) and error.can_retry)


def pause(error: ClientError, attempt: int, random: Random) -> float:
    """Seconds before the next attempt.

    The service's own `Retry-After` counts, with up to a tenth more, so that clients do not all come back at once.
    Without one the pause doubles with each attempt, between half and all of its length at random.

    Args:
        error: the error of the last attempt.
        attempt: number of the last attempt, from 0.
        random: source of the random part.
    """
    if isinstance(error, ApiError) and error.retry_after is not None:
        return error.retry_after * random.uniform(1.0, 1.1)
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
    return random.uniform(0.5, 1.0) * longest


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks for; None without one, or if it cannot be read.

    Args:
        headers: headers of the response; names in any case.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    when = _seconds(value)
    if when is None:
        return None
    # A date is one of the server's clock, which `Date` shows.
    now = _seconds(headers.get("Date", ""))
    return max(0.0, when - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    try:
        seconds = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
