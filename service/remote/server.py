"""The engine process: answers the workers with the models of a backend."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from models.artifact.traffic import TrafficPolicy
from service.core.errors import ServiceError
from service.core.rate_limit import Rates
from service.messages import wire
from service.messages.backend import Cancel, LocalBackend
from service.messages.catalog import Catalog
from service.messages.decoding import GpuDecoder
from service.messages.inference import InferenceRequest
from service.messages.model import ServedModel
from service.messages.wire import Kind
from service.remote import address
from service.remote.answer import Answer
from service.remote.arena import ArenaView, Offer, receive_arena
from service.remote.channel import Channel
from service.remote.file_decoding import FileDecoding
from service.remote.lesions import LesionAnswers

log = logging.getLogger(__name__)

_METHODS = (
    "statistics", "plan_status", "versions", "statuses", "shadows", "differing", "not_ready", "degraded", "demand",
    "load", "unload",
)  # fmt: skip
_ABOUT_CATALOG = frozenset({"versions", "statuses", "demand", "load", "unload", "set_traffic"})
"""Methods whose answer may tell that a version is gone: no worker may answer with it afterwards."""
_SEEN_SECONDS = 1.0
"""Longest wait for workers to take over a catalog: one that stands still is replaced."""


class BackendServer:
    """Serves a backend to workers.

    Args:
        backend: loads the models and computes.
        listening: the socket that workers connect to.
        rates: limits the requests of each client, over all workers; None for no limit.
        gpu: decodes files for the workers; None leaves them to the workers.
        offer: called with the memory that a worker shares.
    """

    def __init__(
        self,
        backend: LocalBackend,
        listening: socket.socket,
        rates: Rates | None = None,
        gpu: GpuDecoder | None = None,
        offer: Offer = lambda memory: None,
    ) -> None:
        self._backend, self._gpu, self._offer = backend, gpu, offer
        self._listening = listening
        self._methods = {name: getattr(backend, name) for name in _METHODS}
        self._methods["set_traffic"] = self._set_traffic
        if rates is not None:
            self._methods["take"] = rates.take
        self._workers: set[_Worker] = set()
        self._generation = 0
        """Number of the last announcement."""
        self._announced: Catalog | None = None
        self._announcing = False
        self._seen = asyncio.Event()
        """Set when a worker has taken over a catalog, or has ended."""

    def start(self) -> None:
        """Take connections."""
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    async def wait_for_workers(self) -> None:
        """Wait until no worker is connected."""
        while self._workers:
            self._seen.clear()
            await self._seen.wait()

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        asyncio.get_running_loop().remove_reader(self._listening)
        for worker in self._workers:
            worker.channel.close()

    def catalog_changed(self) -> None:
        """Announce the catalog, at the end of this turn of the event loop."""
        if not self._announcing:
            self._announcing = True
            asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        self._announcing = False
        if self._backend.catalog == self._announced:
            return
        self._announced = self._backend.catalog
        self._generation += 1
        for worker in self._workers:
            worker.announce(self._generation)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # the client is disconnected
            return
        if not address.is_own(connection):
            log.warning("a process of another user has connected to the engine process: refused")
            connection.close()
            return
        asyncio.get_running_loop().create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        """Serve one worker until its connection ends."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        try:
            arena = await receive_arena(connection, self._offer)
            worker = _Worker(self._backend, self._gpu, arena, self.answer_call, self._worker_saw, self._lose)
            await loop.connect_accepted_socket(lambda: worker.channel, connection)
        except OSError as error:
            log.warning("a worker was lost before it was served: %s", error)
            connection.close()
            return
        self._workers.add(worker)
        worker.announce(self._generation)

    def _lose(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        self._seen.set()

    def _worker_saw(self) -> None:
        self._seen.set()

    async def answer_call(self, method: str, arguments: list[Any]) -> dict[str, Any]:
        """Call a method of the backend. Returns the content of REPLY."""
        try:
            value = await self._methods[method](*arguments)
        except ServiceError as error:
            return {"error": wire.error_fields(error)}
        except Exception:
            log.exception("%s failed in the engine process", method)
            return {"error": wire.error_fields(ServiceError("the service failed: its log has the reason"))}
        if method in _ABOUT_CATALOG:
            await self._wait_until_seen()
        return {"value": value}

    async def _set_traffic(self, name: str, content: Any) -> None:
        policy = None if content is None else TrafficPolicy.model_validate(content)
        await self._backend.set_traffic(name, policy)

    async def _wait_until_seen(self) -> None:
        """Wait until every worker has taken over the current catalog."""
        self._announce()
        generation = self._generation
        try:
            async with asyncio.timeout(_SEEN_SECONDS):
                while any(worker.seen < generation for worker in self._workers):
                    self._seen.clear()
                    await self._seen.wait()
        except TimeoutError:
            log.warning("a worker does not take over what is served")


class _Worker:
    """A connected worker.

    Args:
        backend: loads the models and computes.
        gpu: decodes files.
        arena: the pixels of the worker.
        answer_call: answers a call of a method.
        saw: called when the worker has taken over a catalog.
        lost: called when the connection has ended.
    """

    def __init__(
        self,
        backend: LocalBackend,
        gpu: GpuDecoder | None,
        arena: ArenaView,
        answer_call: Callable[[str, list[Any]], Any],
        saw: Callable[[], None],
        lost: Callable[[_Worker], None],
    ) -> None:
        self.channel = Channel(self._receive, self._end)
        self.seen = 0
        """Generation of the catalog that the worker has taken over."""
        self._backend, self._arena = backend, arena
        self._answer_call, self._saw, self._lost = answer_call, saw, lost
        self._held: dict[int, ServedModel] = {}
        """Versions that the worker may name in a request, by key."""
        self._running: dict[int, Cancel] = {}
        """Requests that are computed, by their numbers."""
        decoding = FileDecoding(gpu, arena, self.channel, self._held, self._running)
        lesions = LesionAnswers(backend, arena, self.channel, self._held, self._running)
        self._calls: set[asyncio.Task[None]] = set()
        self._receivers: Mapping[Kind, Callable[[memoryview], None]] = {
            Kind.SUBMIT: self._submit,
            Kind.DECODE: decoding.begin,
            Kind.LESION: lesions.begin,
            Kind.CANCEL: self._cancel,
            Kind.REFUSED: self._count_refused,
            Kind.RELEASED: self._release,
            Kind.SEEN: self._take_seen,
            Kind.CALL: self._call,
        }

    def announce(self, generation: int) -> None:
        """Send the catalog. The worker holds each version in it until it gives it back."""
        catalog = self._backend.catalog
        known = set(self._held)
        for model in catalog.all_served():
            if model.key not in known:
                self._held[model.key] = self._backend.hold(model.name, model.version)
                if model.classifier is not None:
                    self.channel.send(wire.classifier_frame(model.key, model.classifier))
        self.channel.send(wire.json_frame(Kind.CATALOG, generation, wire.catalog_fields(catalog, known)))

    def _end(self) -> None:
        for task in self._calls:
            task.cancel()
        running = [*self._running.values()]
        self._running.clear()
        for cancel in running:
            cancel()
        for key in self._held:
            self._backend.release(key)
        self._held.clear()
        self._arena.close()
        self._lost(self)

    def _receive(self, kind: Kind, body: memoryview) -> None:
        self._receivers[kind](body)

    def _submit(self, body: memoryview) -> None:
        message = wire.read_submit(body)
        images = self._arena.images(message.offsets, self._held[message.key].preprocess.shape)
        request = InferenceRequest(
            images,
            message.outputs,
            message.deadline,
            message.priority,
            message.decode_seconds,
            message.only_in_flight,
        )
        outcome = Answer(message.request, self._running, self.channel)
        try:
            self._running[message.request] = self._backend.begin(message.key, request, outcome)
        except ServiceError as error:
            self.channel.send(wire.json_frame(Kind.FAILURE, message.request, wire.error_fields(error)))

    def _cancel(self, body: memoryview) -> None:
        number = wire.read_number(body)
        if number in self._running:
            self._running[number]()
            self._running.pop(number, None)

    def _count_refused(self, body: memoryview) -> None:
        key = wire.read_number(body)
        if key in self._held:
            self._backend.count_refused(key)

    def _release(self, body: memoryview) -> None:
        key = wire.read_number(body)
        if self._held.pop(key, None) is not None:
            self._backend.release(key)

    def _take_seen(self, body: memoryview) -> None:
        self.seen = wire.read_number(body)
        self._saw()

    def _call(self, body: memoryview) -> None:
        number, (method, *arguments) = wire.read_json(body)
        task = asyncio.get_running_loop().create_task(self._reply(number, method, arguments))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _reply(self, number: int, method: str, arguments: list[Any]) -> None:
        self.channel.send(wire.json_frame(Kind.REPLY, number, await self._answer_call(method, arguments)))
