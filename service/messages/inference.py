"""One request to compute images, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.core.priority import Priority


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The decoded images of one request."""

    images: Sequence[UInt8Array]
    """uint8 [H, W, C] each."""
    outputs: frozenset[str]
    """Names out of `ServedModel.outputs`."""
    deadline: float
    """`time.monotonic` seconds; images that are not computed by then are dropped."""
    priority: Priority = Priority.interactive
    decode_seconds: float = 0.0
    """Time that decoding took, for the statistics of the version."""
    only_in_flight: bool = False
    """Whether no other image of the version is in flight: an instance with all CPUs may then compute a single image."""


class InferenceResult(NamedTuple):
    """The outputs for the images of one request, and where the time went."""

    outputs: dict[str, Float32Array]
    """float32 [n, ...] per output; row i belongs to image i of the request."""
    queue_seconds: float
    """Time that the first image waited in the queue."""
    assembly_seconds: float
    """Time to copy the images into the executor's buffers, summed over the batches of the request."""
    inference_seconds: float
    """Time in the executor, summed over the batches of the request."""
    batch_size: int
    """Size of the largest of these batches."""


class ResultReceiver(Protocol):
    """Receives the result of a request, such as an `asyncio.Future`."""

    def done(self) -> bool:
        """Whether the result or an error was set, or is not wanted any more."""
        ...

    def set_result(self, result: InferenceResult, /) -> None:
        """Set the result."""
        ...

    def set_exception(self, error: BaseException, /) -> None:
        """Set an error, a `ServiceError`."""
        ...
