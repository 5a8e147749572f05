"""The decoder of the GPU, as a worker sees it: a `GpuDecoder` in the engine process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from models.imaging.preprocess import Preprocess
from service.core.errors import NotYetAvailable
from service.core.priority import Priority
from service.messages import decode_wire, wire
from service.messages.decode_wire import Decode, FilePlace
from service.messages.decoding import DecodedImage
from service.messages.wire import Kind
from service.remote.client import RemoteBackend
from service.remote.connection import NO_ENGINE

_JPEG = b"\xff\xd8"


class RemoteGpuDecoder:
    """A `GpuDecoder` in the engine process.

    Args:
        backend: knows the versions; its connection is used.
    """

    def __init__(self, backend: RemoteBackend) -> None:
        self._backend = backend
        self._connection = backend.connection
        self._connection.receivers[Kind.DECODED] = self._take_decoded

    async def decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedImage | None]:
        """As `GpuDecoder.decode`. The pixels are in the arena, so they are submitted without a copy.

        Raises:
            Unavailable: the GPU failed, or there is no engine process.
        """
        images: list[DecodedImage | None] = [None] * len(files)
        indices = [index for index, file in enumerate(files) if file.startswith(_JPEG)]
        if indices:
            decoded = await self._decode([files[index] for index in indices], preprocess, priority)
            for index, image in zip(indices, decoded, strict=True):
                images[index] = image
        return images

    async def _decode(
        self, files: Sequence[bytes], preprocess: Preprocess, priority: Priority
    ) -> list[DecodedImage | None]:
        channel, arena = self._connection.channel, self._connection.arena
        key = self._backend.key_of(preprocess)
        if channel is None or key is None:
            raise NotYetAvailable(NO_ENGINE)
        sources = [arena.put_file(file) for file in files]
        targets = [arena.take(preprocess.shape) for _ in files]
        places = [
            FilePlace(source.offset, len(file), target.offset)
            for file, source, target in zip(files, sources, targets, strict=True)
        ]
        number, future = self._connection.begin()
        channel.send(decode_wire.decode_frame(Decode(number, key, priority, places)))
        try:
            sizes = await asyncio.shield(future)
        except BaseException:
            # The engine process may use the slots until it has answered, also after a cancellation.
            future.add_done_callback(lambda _: arena.free([*sources, *targets]))
            if not future.done():
                channel.send(wire.number_frame(Kind.CANCEL, number))
            raise
        arena.free(sources)
        arena.free([target for target, size in zip(targets, sizes, strict=True) if size is None])
        return [
            None if size is None else DecodedImage(arena.share(target), *size)
            for target, size in zip(targets, sizes, strict=True)
        ]

    def _take_decoded(self, body: memoryview) -> None:
        self._connection.answer(*decode_wire.read_decoded(body))

    def close(self) -> None:
        """Do nothing: the engine process closes the decoder."""
