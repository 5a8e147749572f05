"""Decoding for the workers, in the engine process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from service.core.errors import Unavailable
from service.messages import decode_wire, wire
from service.messages.backend import Cancel
from service.messages.decode_wire import Decode
from service.messages.decoding import DecodedImage, GpuDecoder
from service.messages.model import ServedModel
from service.messages.wire import Kind
from service.remote.arena import ArenaView
from service.remote.channel import Channel


class FileDecoding:
    """Decodes files of a worker, and writes their pixels into its arena.

    Every request is answered once, also one that was cancelled: the worker then uses its slots again.

    Args:
        gpu: decodes; None leaves all files to the worker.
        arena: that of the worker.
        channel: connection to the worker.
        held: versions that the worker may name, by key.
        running: what ends each request, by its number; a request that is not in it has ended.
    """

    def __init__(
        self,
        gpu: GpuDecoder | None,
        arena: ArenaView,
        channel: Channel,
        held: Mapping[int, ServedModel],
        running: dict[int, Cancel],
    ) -> None:
        self._gpu, self._arena, self._channel, self._held, self._running = gpu, arena, channel, held, running

    def begin(self, body: memoryview) -> None:
        """Decode the files of a message."""
        message = decode_wire.read_decode(body)
        if self._gpu is None:
            self._channel.send(decode_wire.decoded_frame(message.request, [None] * len(message.files)))
            return
        preprocess = self._held[message.key].preprocess
        files = [self._arena.file(place.offset, place.length) for place in message.files]
        task = asyncio.ensure_future(self._gpu.decode(files, preprocess, message.priority))
        self._running[message.request] = task.cancel
        task.add_done_callback(partial(self._answer, message, preprocess.shape))

    def _answer(
        self, message: Decode, shape: tuple[int, ...], done: asyncio.Future[Sequence[DecodedImage | None]]
    ) -> None:
        wanted = self._running.pop(message.request, None) is not None
        if done.cancelled():
            images: Sequence[DecodedImage | None] = []
        elif error := done.exception():
            failure = Unavailable(f"the decoder of the GPU failed: {type(error).__name__}: {error}")
            self._channel.send(wire.json_frame(Kind.FAILURE, message.request, wire.error_fields(failure)))
            return
        else:
            images = done.result() if wanted else []
        for place, image in zip(message.files, images, strict=False):
            if image is not None:
                self._arena.image(place.pixels, shape)[...] = image.pixels
        sizes = [None if image is None else (image.width, image.height) for image in images]
        self._channel.send(decode_wire.decoded_frame(message.request, sizes))
