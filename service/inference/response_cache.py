"""A cache of responses: the same images, version and parameters get the same answer, without decoding or inference."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from service.core.threads import run_python
from service.telemetry.metrics import Metrics

_SMALL_BYTES = 256 * 1024
"""Most bytes that are hashed on the event loop, in about 0.5 ms."""
_ENTRY_BYTES = 600
"""Memory of an entry beside its response: the key, and its place in the table."""

Key = tuple[int, bytes, Hashable]
"""Key of the loaded version, SHA-256 of the images, and the parameters of the request."""


class ResponseCache:
    """Keeps the responses that were used last. On the event loop only.

    A version that is loaded, or whose files change, has another key, so no response of another version is found.

    Args:
        capacity: most bytes.
        metrics: counts requests.
    """

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity = capacity
        self._responses: OrderedDict[Key, bytes] = OrderedDict()
        self._bytes = 0
        lookups = metrics.counter("resnet_response_cache_lookups", "Requests by result: hit or miss.", "result")
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        metrics.gauge("resnet_response_cache_bytes", "Bytes in the cache of responses.").watch(lambda: self._bytes)
        metrics.gauge("resnet_response_cache_entries", "Responses in the cache.").watch(lambda: len(self._responses))

    @staticmethod
    async def digest(files: Sequence[bytes]) -> bytes:
        """SHA-256 of image files, with their lengths."""
        if sum(map(len, files)) <= _SMALL_BYTES:
            return _digest(files)
        return await run_python(_digest, files)

    def get(self, key: Key) -> bytes | None:
        """The response with a key, which counts as used now; None if there is none."""
        response = self._responses.get(key)
        if response is None:
            self._misses.inc()
            return None
        self._hits.inc()
        self._responses.move_to_end(key)
        return response

    def put(self, key: Key, response: bytes) -> bool:
        """Keep a response, in place of those that were not used for the longest time. Returns whether it is kept: one
        that takes more than an eighth of the cache is not."""
        size = len(response) + _ENTRY_BYTES
        if size > self._capacity // 8:
            return False
        if (replaced := self._responses.pop(key, None)) is not None:
            self._bytes -= len(replaced) + _ENTRY_BYTES
        self._responses[key] = response
        self._bytes += size
        while self._bytes > self._capacity:
            _, oldest = self._responses.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY_BYTES
        return True


def _digest(files: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        digest.update(len(file).to_bytes(8, "little"))
        digest.update(file)
    return digest.digest()
