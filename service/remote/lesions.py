"""Lesions for the workers, in the engine process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from service.core.errors import InferenceFailed, ServiceError
from service.messages.backend import Cancel, LocalBackend
from service.messages.inference import InferenceResult
from service.messages.lesion import LesionRequest
from service.messages.lesion_wire import read_lesion
from service.messages.model import ServedModel
from service.remote.answer import Answer
from service.remote.arena import ArenaView
from service.remote.channel import Channel

log = logging.getLogger(__name__)


class LesionAnswers:
    """Computes images of a worker with blocks deleted.

    Args:
        backend: computes.
        arena: that of the worker.
        channel: connection to the worker.
        held: versions that the worker may name, by key.
        running: what ends each request, by its number; a request that is not in it has ended.
    """

    def __init__(
        self,
        backend: LocalBackend,
        arena: ArenaView,
        channel: Channel,
        held: Mapping[int, ServedModel],
        running: dict[int, Cancel],
    ) -> None:
        self._backend, self._arena, self._channel, self._held, self._running = backend, arena, channel, held, running

    def begin(self, body: memoryview) -> None:
        """Compute the image of a message."""
        message = read_lesion(body)
        # A copy: the worker takes its slot back when the time limit passes.
        image = self._arena.image(message.offset, self._held[message.key].preprocess.shape).copy()
        request = LesionRequest(image, message.deleted, message.deadline)
        task = asyncio.ensure_future(self._answer(message.request, message.key, request))
        self._running[message.request] = task.cancel

    async def _answer(self, number: int, key: int, request: LesionRequest) -> None:
        answer = Answer(number, self._running, self._channel)
        outcome: InferenceResult | ServiceError
        try:
            outcome = await self._backend.lesion(key, request)
        except ServiceError as error:
            outcome = error
        except Exception:
            log.exception("a lesion failed in the engine process")
            outcome = InferenceFailed("the service failed: its log has the reason")
        if answer.done():
            return
        if isinstance(outcome, ServiceError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
