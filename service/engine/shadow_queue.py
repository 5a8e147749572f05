"""Images that a shadow version computes after another version has answered them: only while nothing else waits.

An image starts when no engine on the devices of the shadow has work, and the results of the last batch are on their way
to the callers. A caller who comes meanwhile waits for the rest of its time, once. After an image the shadow pauses, so
that most callers find an idle device.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Protocol

from models.imaging.preprocess import UInt8Array
from service.core.errors import ServiceError
from service.core.priority import Priority
from service.engine.engine import Engine
from service.messages.inference import InferenceRequest, InferenceResult

_OUTPUTS = frozenset({"probabilities"})
PAUSE = 2.0
"""Pause after an image, in times of that image. With a shadow of each request and half of the time idle, the median
time of a request grows by less than half of the time of an image; without a pause, by two thirds."""
RESPONSE_SECONDS = 0.002
"""Time after a batch in which its responses are written. They need the CPU and the interpreter, as an image does."""


class ShadowImage(Protocol):
    """An image that waits."""

    pixels: UInt8Array
    """Not changed by others while the image waits."""

    def done(self, result: InferenceResult | None) -> None:
        """Take the result, or None if the engine could not compute the image."""
        ...

    def drop(self) -> None:
        """Take note that the image is not computed."""
        ...


class ShadowQueue:
    """The waiting images of all shadows. Used on the event loop only.

    Args:
        max_bytes: memory for waiting images; further images are dropped.
        engines: gives all engines that may share a device with a shadow.
    """

    def __init__(self, max_bytes: int, engines: Callable[[], Iterable[Engine]]) -> None:
        self._max_bytes = max_bytes
        self._engines = engines
        self._bytes = 0
        self._waiting: dict[Engine, deque[ShadowImage]] = {}
        self._running: set[Engine] = set()
        """Shadows that compute an image or pause."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Images that wait."""
        return sum(map(len, self._waiting.values()))

    def has_room(self, size: int) -> bool:
        """Whether an image of `size` bytes may wait."""
        return self._bytes + size <= self._max_bytes

    def put(self, engine: Engine, image: ShadowImage) -> None:
        """Have an engine compute an image; the caller has checked that there is room."""
        self._waiting.setdefault(engine, deque()).append(image)
        self._bytes += image.pixels.nbytes
        self.work()

    def keep_only(self, engines: Container[Engine]) -> None:
        """Drop the waiting images of all other engines."""
        for engine in [engine for engine in self._waiting if engine not in engines]:
            self._drop_all(engine)

    def _drop_all(self, engine: Engine) -> None:
        for image in self._waiting.pop(engine, ()):
            self._bytes -= image.pixels.nbytes
            image.drop()

    def work(self) -> None:
        """Start images soon, if their devices are idle then. Called when work arrives and when it is done."""
        if self._bytes and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RESPONSE_SECONDS, self._start_all)

    def _start_all(self) -> None:
        """Start an image of each shadow whose devices are idle."""
        self._timer = None
        for engine, images in [*self._waiting.items()]:
            if images and engine not in self._running and self._is_idle(engine):
                image = images.popleft()
                if not images:
                    del self._waiting[engine]  # the engine may be replaced
                self._bytes -= image.pixels.nbytes
                self._start(engine, image)

    def _is_idle(self, shadow: Engine) -> bool:
        """Whether no image is waiting for, or computed on, a device of the shadow."""
        devices = shadow.device_names
        return not any(engine.busy and not devices.isdisjoint(engine.device_names) for engine in self._engines())

    def _start(self, engine: Engine, image: ShadowImage) -> None:
        self._running.add(engine)
        outcome = _Outcome(self, engine, image)
        try:
            engine.begin(InferenceRequest([image.pixels], _OUTPUTS, math.inf, Priority.bulk), outcome)
        except ServiceError:  # the engine is closed
            self._running.discard(engine)
            image.drop()
            self._drop_all(engine)

    def finish(self, engine: Engine, seconds: float) -> None:
        """Take note that an image of an engine is done, which took some seconds."""
        asyncio.get_running_loop().call_later(PAUSE * seconds, self._resume, engine)

    def _resume(self, engine: Engine) -> None:
        self._running.discard(engine)
        self.work()


class _Outcome:
    """Receives the result of an image."""

    def __init__(self, queue: ShadowQueue, engine: Engine, image: ShadowImage) -> None:
        self._queue, self._engine, self._image = queue, engine, image
        self._started = time.monotonic()
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: InferenceResult) -> None:
        self.end(result)

    def set_exception(self, error: BaseException) -> None:
        self.end(None)

    def end(self, result: InferenceResult | None) -> None:
        self._done = True
        try:
            self._image.done(result)
        finally:
            self._queue.finish(self._engine, time.monotonic() - self._started)
