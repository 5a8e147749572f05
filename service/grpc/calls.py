"""The steps of every call: id, key and rate, the memory of its message, errors, and the line in the log.

The handlers are those of streaming methods, also for methods with one request: a handler then begins before the message
has arrived, so that keys are checked first, and a slow client has a time limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode
from grpc.aio import EOF

from service.core.api_keys import KeyCheck
from service.core.body_memory import BodyMemory
from service.core.errors import BadRequest, DeadlineExceeded, Overloaded, RequestTimeout, ServiceError
from service.core.rate_limit import Rates
from service.core.settings import Settings
from service.grpc.client_address import ClientAddresses
from service.grpc.codes import code_of, details_of
from service.telemetry import request_context
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import RequestContext
from service.telemetry.request_log import RequestLog, request_id

if TYPE_CHECKING:
    from service.telemetry.tracing import Spans

log = logging.getLogger(__name__)

_CANCEL_SECONDS = 0.01
"""Time in which grpcio cancels a call whose message is above the limit: until then, it looks as if there were none."""
_SMALL_RESPONSE = 64 * 1024
"""Largest response in bytes that is not counted."""
Respond = Callable[["Call", bytes], Awaitable[bytes]]
"""Answers a message with a message, both serialised."""


@dataclass(frozen=True)
class Access:
    """The condition of a method for its callers."""

    key: KeyCheck | None = None
    """None if the method needs no key."""
    rates: Rates | None = None
    """Limits the calls of each client address; None for no limit."""


class Call:
    """One call, or one request of a stream.

    Args:
        context: that of grpc.aio.
        record: what the log and the metrics get.
        headers: metadata that the client has sent.
    """

    __slots__ = ("context", "headers", "held_bytes", "record")

    def __init__(self, context: Any, record: RequestContext, headers: dict[str, Any]) -> None:
        self.context = context
        self.record = record
        self.headers = headers
        self.held_bytes = 0

    def deadline(self) -> float:
        """The deadline that the client has set, `time.monotonic` seconds; infinite without one."""
        remaining: float | None = self.context.time_remaining()
        return float("inf") if remaining is None else time.monotonic() + remaining


class Calls:
    """Makes the handlers of methods, and answers calls.

    Args:
        settings: limits.
        metrics: counts calls.
        spans: makes spans of calls; None without tracing.
        memory: limits the messages in flight, together with the bodies of requests over HTTP.
    """

    def __init__(self, settings: Settings, metrics: Metrics, spans: Spans | None, memory: BodyMemory) -> None:
        self._seconds = settings.client_timeout_seconds
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._requests = RequestLog(metrics, spans, log)
        self._spans = spans
        self.memory = memory
        self._in_flight = 0
        metrics.watch_requests(lambda: self._in_flight)

    def unary(self, path: str, access: Access, respond: Respond) -> Any:
        """The handler of a method with one request and one response."""

        async def handle(_: Any, context: Any) -> bytes:
            call = self.begin(path, context, dict(context.invocation_metadata() or ()))
            code = StatusCode.INTERNAL
            try:
                await self.admit(call, access)
                response = await respond(call, await self._receive(call))
                if len(response) > _SMALL_RESPONSE:
                    self._hold_until_sent(call, len(response))
                code = StatusCode.OK
                context.set_trailing_metadata(_trailers(call))
                return response
            except asyncio.CancelledError:
                code = cancellation_code(call)
                raise
            except Exception as error:
                code = self.set_status(call, *self.explain(call, error))
                return b""
            finally:
                self.finish(call, code)

        return grpc.stream_unary_rpc_method_handler(handle)

    def begin(self, path: str, context: Any, headers: dict[str, Any]) -> Call:
        """Begin a call, in the task that answers it."""
        record = RequestContext(
            request_id=request_id(str(headers.get("x-request-id", ""))),
            method="gRPC",
            path=path,
            headers=[(name.encode(), value.encode()) for name, value in headers.items() if isinstance(value, str)],
        )
        request_context.begin(record)
        if self._spans is not None:
            self._spans.start(record, path.removeprefix("/"), headers)
        self._in_flight += 1
        return Call(context, record, headers)

    async def admit(self, call: Call, access: Access) -> None:
        """Check the key and the rate of a call.

        Raises:
            ServiceError: as of `KeyCheck`, or the client is above its rate.
        """
        if access.key is not None:
            name = call.record.caller = find_key(access.key, call.headers)
            await access.key.count(name)
            return
        call.record.caller = await self._addresses.find(call.context.peer(), call.headers)
        if access.rates is not None:
            await access.rates.take(call.record.caller)

    async def _receive(self, call: Call) -> bytes:
        """Receive the message of a call.

        Raises:
            RequestTimeout: it did not arrive in time.
            BadRequest: the client has sent none.
            Overloaded: the messages of all calls together take too much memory.
        """
        started = time.monotonic()
        data = await self.in_time(call.context.read())
        if data is EOF:
            await asyncio.sleep(_CANCEL_SECONDS)
            raise BadRequest("the call has no message")
        call.record.stage("read", started, time.monotonic() - started)
        self.hold(call, len(data))
        return bytes(data)

    async def in_time(self, message: Awaitable[Any]) -> Any:
        """Wait for the only message of a call.

        Raises:
            RequestTimeout: it did not arrive in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await message
        except TimeoutError:
            raise RequestTimeout("the message did not arrive within the time limit: send it faster") from None

    def hold(self, call: Call, size: int) -> None:
        """Count bytes as in memory until the end of a call.

        Raises:
            Overloaded: there are too many.
        """
        call.held_bytes += size
        self.memory.hold(size)

    def _hold_until_sent(self, call: Call, size: int) -> None:
        """Count the bytes of a response until the client has received it, or has disconnected.

        Raises:
            Overloaded: there are too many.
        """
        call.context.add_done_callback(lambda _: self.memory.release(size))
        self.memory.hold(size)

    def explain(self, call: Call, error: BaseException) -> tuple[StatusCode, str, list[tuple[str, str]]]:
        """Code, message and metadata for an error, which is recorded."""
        if isinstance(error, MemoryError):
            log.warning("out of memory: %s", call.record.path, exc_info=error)
            error = Overloaded(1, "memory")
        if not isinstance(error, ServiceError):
            fields = {"fields": {"request_id": call.record.request_id}}
            log.error("%s failed", call.record.path, exc_info=error, extra=fields)
            return StatusCode.INTERNAL, "the log of the server has the cause", []
        call.record.refused = error.reason
        retry = error.headers.get("Retry-After")
        return code_of(error), details_of(error), [] if retry is None else [("retry-after", retry)]

    @staticmethod
    def set_status(call: Call, code: StatusCode, details: str, headers: list[tuple[str, str]]) -> StatusCode:
        """Set the status of a call that has failed, as `explain` gives it. Returns the code."""
        call.context.set_code(code)
        call.context.set_details(details)
        call.context.set_trailing_metadata((*_trailers(call), *headers))
        return code

    def finish(self, call: Call, code: StatusCode) -> None:
        """Record a call that was answered, and free its memory."""
        self._in_flight -= 1
        self.memory.release(call.held_bytes)
        failed = code is not StatusCode.OK
        self._requests.finish(call.record, code.name, failed)
        if self._spans is not None:
            self._spans.end(call.record, code.name, failed)


def find_key(check: KeyCheck, headers: dict[str, Any]) -> str:
    """The name of the key in the metadata of a call; errors are those of `KeyCheck`."""
    return check.find_key(str(headers.get("authorization", "")), str(headers.get("x-api-key", "")))


def cancellation_code(call: Call) -> StatusCode:
    """Why a call was cancelled: its deadline has passed, or the client has disconnected."""
    if call.deadline() <= time.monotonic():
        call.record.refused = DeadlineExceeded.reason
        return StatusCode.DEADLINE_EXCEEDED
    return StatusCode.CANCELLED


def _trailers(call: Call) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", call.record.request_id),)
