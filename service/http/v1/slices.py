"""Writes a large response in slices beside the event loop, while it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from service.core.threads import run_python
from service.inference.results import ImageResult

_PREDICTION_BYTES = 300
_NUMBER_BYTES = 32


def response_bytes(result: ImageResult) -> int:
    """Memory of the result of an image, in bytes."""
    size = _NUMBER_BYTES * len(result.embedding or ())
    for item in result.predictions:
        numbers = len(item.cam) * len(item.cam[0]) if item.cam else 0
        size += _PREDICTION_BYTES + len(item.cam_png or b"") + _NUMBER_BYTES * numbers
    return size


async def in_slices(slices: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The slices, each of which is made in the thread for such work."""
    while (part := await run_python(next, slices, None)) is not None:
        yield part
