"""The answer of the engine process to a request of a worker."""

from __future__ import annotations

from service.core.errors import ServiceError
from service.messages import wire
from service.messages.backend import Cancel
from service.messages.inference import InferenceResult
from service.messages.wire import Kind
from service.remote.channel import Channel


class Answer:
    """Sends the result of a request to its worker.

    Args:
        number: number of the request.
        running: requests that are computed, by number; one that is not in it has ended.
        channel: connection to the worker.
    """

    __slots__ = ("_channel", "_number", "_running")

    def __init__(self, number: int, running: dict[int, Cancel], channel: Channel) -> None:
        self._number, self._running, self._channel = number, running, channel

    def done(self) -> bool:
        return self._number not in self._running

    def set_result(self, result: InferenceResult) -> None:
        del self._running[self._number]
        self._channel.send(wire.result_frame(self._number, result))

    def set_exception(self, error: BaseException) -> None:
        del self._running[self._number]
        assert isinstance(error, ServiceError)
        self._channel.send(wire.json_frame(Kind.FAILURE, self._number, wire.error_fields(error)))
