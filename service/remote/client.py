"""The computing side, as a worker sees it: a `Backend` whose models are in the engine process."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from pydantic import TypeAdapter

from models.artifact.traffic import TrafficPolicy
from models.imaging.preprocess import Preprocess
from service.core.errors import NOT_COMPUTED_IN_TIME, DeadlineExceeded, NotYetAvailable, Unavailable
from service.messages import wire
from service.messages.catalog import Catalog
from service.messages.inference import InferenceRequest, InferenceResult
from service.messages.lesion import LesionRequest
from service.messages.lesion_wire import Lesion, lesion_frame
from service.messages.model import ServedModel
from service.messages.status import DifferingImage, ModelStatus, PlanStatus, ShadowStatus, VersionStatus
from service.messages.wire import Kind, Submit
from service.remote.connection import NO_ENGINE, EngineConnection
from service.telemetry.statistics import Statistics

_ANSWER_SECONDS = 2.0
"""Time limit for an answer that needs no load. The engine process may wait a second for workers before it."""

_STATISTICS = TypeAdapter(Statistics)
_PLAN_STATUS = TypeAdapter(PlanStatus | None)
_VERSIONS = TypeAdapter(list[VersionStatus])
_STATUSES = TypeAdapter(list[ModelStatus])
_SHADOWS = TypeAdapter(list[ShadowStatus])
_DIFFERING = TypeAdapter(list[DifferingImage])
_TEXTS = TypeAdapter(list[str])


class RemoteBackend:
    """A `Backend` in another process.

    Args:
        address: name of the socket of the engine process.
    """

    def __init__(self, address: str | bytes) -> None:
        self.connection = EngineConnection(address, self._lose)
        self.connection.receivers |= {
            Kind.RESULT: self._take_result,
            Kind.CLASSIFIER: self._take_classifier,
            Kind.CATALOG: self._take_catalog,
            Kind.REPLY: self._take_reply,
        }
        self._connected = asyncio.Event()
        self._forget()

    def _forget(self) -> None:
        """Begin without a catalog."""
        self.catalog = Catalog(models={}, default=None, loading=True, not_ready=NO_ENGINE)
        self._known: dict[int, ServedModel] = {}
        """Versions that the engine process keeps for this worker, by key."""
        self._served: set[int] = set()
        """Keys of those in the catalog."""
        self._classifiers: dict[int, Any] = {}
        self._users: Counter[int] = Counter()
        """Requests that hold a version, by key."""

    def start(self) -> None:
        """Connect to the engine process, again and again until `close`."""
        self.connection.start()

    async def connected(self) -> None:
        """Wait until a catalog has come."""
        await self._connected.wait()

    async def close(self) -> None:
        """End the connection."""
        await self.connection.close()

    def _lose(self) -> None:
        self._connected.clear()
        self._forget()

    def _take_result(self, body: memoryview) -> None:
        self.connection.answer(*wire.read_result(body))

    def _take_classifier(self, body: memoryview) -> None:
        key, classifier = wire.read_classifier(body)
        self._classifiers[key] = classifier

    def _take_reply(self, body: memoryview) -> None:
        number, content = wire.read_json(body)
        if "error" in content:
            self.connection.fail(number, content["error"])
        else:
            self.connection.answer(number, content["value"])

    def _take_catalog(self, body: memoryview) -> None:
        """Take over a catalog, and give back versions that are not in it and that no request holds."""
        generation, content = wire.read_json(body)
        self.catalog = wire.make_catalog(content, self._known, self._classifiers)
        served = {model.key for model in self.catalog.all_served()}
        for key in [key for key in self._known if key not in served and not self._users[key]]:
            self._give_back(key)
        self._served = served
        self._send(Kind.SEEN, generation)
        self._connected.set()

    def _give_back(self, key: int) -> None:
        del self._known[key]
        self._users.pop(key, None)
        self._classifiers.pop(key, None)
        self._send(Kind.RELEASED, key)

    def _send(self, kind: Kind, number: int) -> None:
        if self.connection.channel is not None:
            self.connection.channel.send(wire.number_frame(kind, number))

    def hold(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """As `Backend.hold`."""
        model = self.catalog.find(name, version)
        self._users[model.key] += 1
        return model

    def release(self, key: int) -> None:
        """As `Backend.release`."""
        if key not in self._known:  # of an engine process that ended
            return
        self._users[key] -= 1
        if not self._users[key] and key not in self._served:
            self._give_back(key)

    def key_of(self, preprocess: Preprocess) -> int | None:
        """Key of a version with a preprocessing; None if the engine process has none."""
        return next((key for key, model in self._known.items() if model.preprocess == preprocess), None)

    async def submit(self, key: int, request: InferenceRequest) -> InferenceResult:
        """As `Backend.submit`.

        Raises:
            NotYetAvailable: the engine process ended.
        """
        channel, arena = self.connection.channel, self.connection.arena
        if channel is None or key not in self._known:
            raise NotYetAvailable(NO_ENGINE)
        slots = [arena.put(image) for image in request.images]
        number, future = self.connection.begin()
        offsets = [slot.offset for slot in slots]
        channel.send(
            wire.submit_frame(
                Submit(
                    number,
                    key,
                    offsets,
                    request.outputs,
                    request.deadline,
                    request.priority,
                    request.decode_seconds,
                    request.only_in_flight,
                )
            )
        )
        timer = asyncio.get_running_loop().call_at(request.deadline, _expire, future)
        result: InferenceResult | None = None
        try:
            result = await future
            return result
        finally:
            timer.cancel()
            self.connection.end(number)
            # The engine process may still read the slots, for a batch with images of other requests. The results for
            # this request are dropped.
            arena.free(slots)
            if result is None and self.connection.channel is channel:
                channel.send(wire.number_frame(Kind.CANCEL, number))

    async def lesion(self, key: int, request: LesionRequest) -> InferenceResult:
        """As `Backend.lesion`; raises as `submit`."""
        channel, arena = self.connection.channel, self.connection.arena
        if channel is None or key not in self._known:
            raise NotYetAvailable(NO_ENGINE)
        slot = arena.put(request.image)
        number, future = self.connection.begin()
        channel.send(lesion_frame(Lesion(number, key, slot.offset, request.deadline, request.deleted)))
        try:
            async with asyncio.timeout_at(request.deadline):
                result: InferenceResult = await future
                return result
        except TimeoutError:
            raise DeadlineExceeded(NOT_COMPUTED_IN_TIME) from None
        finally:
            self.connection.end(number)
            arena.free([slot])
            if (not future.done() or future.cancelled()) and self.connection.channel is channel:
                channel.send(wire.number_frame(Kind.CANCEL, number))

    def count_refused(self, key: int) -> None:
        """As `Backend.count_refused`."""
        self._send(Kind.REFUSED, key)

    async def statistics(self, key: int) -> Statistics:
        """As `Backend.statistics`."""
        return _STATISTICS.validate_python(await self._call("statistics", key))

    async def plan_status(self, key: int) -> PlanStatus | None:
        """As `Backend.plan_status`."""
        return _PLAN_STATUS.validate_python(await self._call("plan_status", key))

    async def versions(self, name: str) -> list[VersionStatus]:
        """As `Backend.versions`."""
        return _VERSIONS.validate_python(await self._call("versions", name))

    async def statuses(self) -> list[ModelStatus]:
        """As `Backend.statuses`."""
        return _STATUSES.validate_python(await self._call("statuses"))

    async def shadows(self, name: str) -> list[ShadowStatus]:
        """As `Backend.shadows`."""
        return _SHADOWS.validate_python(await self._call("shadows", name))

    async def differing(self, name: str) -> list[DifferingImage]:
        """As `Backend.differing`."""
        return _DIFFERING.validate_python(await self._call("differing", name))

    async def not_ready(self) -> list[str]:
        """As `Backend.not_ready`; also while the engine process is replaced, or does not answer."""
        try:
            return _TEXTS.validate_python(await self._call("not_ready"))
        except Unavailable as error:
            return [str(error)]

    async def degraded(self) -> list[str]:
        """As `Backend.degraded`."""
        try:
            return _TEXTS.validate_python(await self._call("degraded"))
        except Unavailable:
            return []

    async def demand(self, name: str, seconds: float) -> None:
        """As `Backend.demand`."""
        await self._call("demand", name, seconds, seconds=seconds + _ANSWER_SECONDS)

    async def load(self, name: str) -> None:
        """As `Backend.load`."""
        await self._call("load", name, seconds=None)

    async def unload(self, name: str) -> None:
        """As `Backend.unload`."""
        await self._call("unload", name, seconds=None)

    async def set_traffic(self, name: str, policy: TrafficPolicy | None) -> None:
        """As `Backend.set_traffic`."""
        content = None if policy is None else policy.model_dump(mode="json")
        await self._call("set_traffic", name, content, seconds=None)

    async def take(self, client: str) -> None:
        """As `Rates.take`, for all workers together.

        Raises:
            NotYetAvailable: there is no engine process.
        """
        await self._call("take", client)

    async def _call(self, method: str, *arguments: Any, seconds: float | None = _ANSWER_SECONDS) -> Any:
        """Call a method of the backend in the engine process.

        Raises:
            ServiceError: as the method.
            Unavailable: there is no engine process, or it does not answer.
        """
        channel = self.connection.channel
        if channel is None or not self._connected.is_set():
            raise NotYetAvailable(NO_ENGINE)
        number, future = self.connection.begin()
        channel.send(wire.json_frame(Kind.CALL, number, [method, *arguments]))
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise NotYetAvailable("the engine process does not answer: it is replaced if it stands still") from None
        finally:
            self.connection.end(number)


def _expire(future: asyncio.Future[InferenceResult]) -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded(NOT_COMPUTED_IN_TIME))
