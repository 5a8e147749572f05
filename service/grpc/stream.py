"""ModelStreamInfer: requests of a stream are computed at the same time, and answered in their order.

An error of one request is the `error_message` of its response, and the stream continues.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Queue, Task
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import StatusCode
from grpc.aio import EOF

from service.core.body_memory import BodyMemory
from service.core.errors import Overloaded
from service.grpc.calls import Access, Call, Calls, cancellation_code, find_key
from service.grpc.draining import LINGER_SECONDS, SERVICE_ENDS, Draining
from service.grpc.infer import Infer
from service.grpc.protocol import message
from service.grpc.wire import UnreadableMessage

log = logging.getLogger(__name__)

_WINDOW = 32
"""Most requests of one stream that are computed, or computed and not yet sent, at the same time."""
_SMALL_RESPONSE = 4096
"""Largest response in bytes that is not counted; all refusals are smaller."""


@dataclass(frozen=True)
class _StreamEnd:
    """The stream ends with an error."""

    call: Call
    error: Exception


_Answers = Queue[Task[bytes | _StreamEnd] | None]


class _Unsent:
    """Counts the bytes of the larger responses of a stream that its client has not received yet."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._bytes = 0
        self._closed = False

    def add(self, size: int) -> None:
        """Count a response.

        Raises:
            Overloaded: there are too many bytes; this response is not counted.
        """
        if size <= _SMALL_RESPONSE or self._closed:
            return
        self._bytes += size
        try:
            self._memory.hold(size)
        except Overloaded:
            self.remove(size)
            raise

    def remove(self, size: int) -> None:
        """End the count of a response."""
        if size > _SMALL_RESPONSE and not self._closed:
            self._bytes -= size
            self._memory.release(size)

    def close(self) -> None:
        """End the count of all responses: the stream has ended."""
        self._memory.release(self._bytes)
        self._closed = True


class Stream:
    """Answers streams.

    Args:
        path: path of the method.
        access: who may call it.
        calls: counts the requests.
        infer: answers them.
        draining: ends streams that wait for their next request when the service ends.
    """

    def __init__(self, path: str, access: Access, calls: Calls, infer: Infer, draining: Draining) -> None:
        self._path = path
        self._access = access
        self._calls = calls
        self._infer = infer
        self._draining = draining
        self._response = message("ModelStreamInferResponse")

    def handler(self) -> Any:
        """The handler of the method."""
        return grpc.stream_stream_rpc_method_handler(self._handle)

    async def _handle(self, _: Any, context: Any) -> None:
        headers = dict(context.invocation_metadata() or ())
        if await self._refused(context, headers):
            return
        try:
            await self._answer_all(context, headers)
        except* grpc.aio.InternalError:
            log.debug("the client of a stream has disconnected")

    async def _answer_all(self, context: Any, headers: dict[str, Any]) -> None:
        answers: _Answers = Queue(_WINDOW)
        data: Any = None
        unsent = _Unsent(self._calls.memory)
        context.add_done_callback(lambda _: unsent.close())
        async with asyncio.TaskGroup() as group:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    writer = group.create_task(self._write(context, answers, unsent, limit))
                    while (data := await self._draining.read(context)) not in (EOF, SERVICE_ENDS):
                        answer = self._answer(context, headers, bytes(data), unsent)
                        await answers.put(group.create_task(answer))
            await answers.put(None)
        if (end := writer.result()) is not None:
            self._calls.set_status(end.call, *self._calls.explain(end.call, end.error))
        elif data is SERVICE_ENDS:
            context.set_code(StatusCode.UNAVAILABLE)
            context.set_details("the service ends: open another stream")

    async def _refused(self, context: Any, headers: dict[str, Any]) -> bool:
        """Refuse a stream without a valid key, before anything is read. Returns whether it was refused."""
        key = self._access.key
        if key is None:
            return False
        try:
            find_key(key, headers)
            return False
        except Exception as error:
            call = self._calls.begin(self._path, context, headers)
            code = self._calls.set_status(call, *self._calls.explain(call, error))
            self._calls.finish(call, code)
            return True

    async def _answer(self, context: Any, headers: dict[str, Any], data: bytes, unsent: _Unsent) -> bytes | _StreamEnd:
        """The response to one request; or the end of the stream."""
        call = self._calls.begin(self._path, context, headers)
        code = StatusCode.INTERNAL
        try:
            self._calls.hold(call, len(data))
            await self._calls.admit(call, self._access)
            computed = await self._infer.compute(call, data)
            written: bytes = self._response(infer_response=computed).SerializeToString()
            unsent.add(len(written))
            code = StatusCode.OK
            return written
        except asyncio.CancelledError:
            code = cancellation_code(call)
            raise
        except UnreadableMessage as error:
            code = StatusCode.INVALID_ARGUMENT
            return _StreamEnd(call, error)
        except Exception as error:
            code, details, _ = self._calls.explain(call, error)
            refusal: bytes = self._response(error_message=details).SerializeToString()
            return refusal
        finally:
            self._calls.finish(call, code)

    async def _write(
        self, context: Any, answers: _Answers, unsent: _Unsent, limit: asyncio.Timeout
    ) -> _StreamEnd | None:
        """Send the answers, until None. After an error, drop them, and set a limit for the reader.

        Some clients report that they cannot send, in place of the error, if a stream ends while they send.
        """
        end: _StreamEnd | None = None
        while (task := await answers.get()) is not None:
            if end is not None:
                task.cancel()
                continue
            answer = await task
            if isinstance(answer, bytes):
                await context.write(answer)
                unsent.remove(len(answer))
            else:
                end = answer
                with suppress(RuntimeError):  # the client has sent everything
                    limit.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
        return end
