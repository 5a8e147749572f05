"""Limits of decoding: pixels of an image, memory of all images that are decoded at once, and time."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import deque

from models.imaging.errors import DeadlinePassed, NotAnImage, TooManyPixels, TooMuchMemory

DEFAULT_MAX_PIXELS = 64_000_000
MAX_SIDE = 262_144
"""Longest side in pixels. The filter of a longer one takes hundreds of milliseconds to make, and stops all threads."""
MAX_READS = 40_000
"""Most reads of a file. Pillow reads the headers of some formats byte by byte, in Python: eight such files with 150,000
reads delayed the event loop by 200 ms. A PNG of 32 MB in chunks of 4 kB takes 24,000."""
MAX_COPIED_BYTES = 64 * 1024 * 1024
"""Most bytes of pixels that codecs may copy at the same time while all threads stand still: about 40 ms."""
FREE_BYTES = 16 * 1024 * 1024
"""An image that takes no more than this is not counted, so small images never wait."""


class DecodeMemory:
    """Memory that all images that are decoded at the same time share. First come, first served. Thread-safe.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._free_copied = MAX_COPIED_BYTES
        self._condition = threading.Condition()
        self._waiting: deque[Allowance] = deque()

    def acquire(self, size: int, copied: int, allowance: Allowance) -> None:
        """Wait for memory.

        Args:
            size: bytes.
            copied: bytes among them that the codec copies while all threads stand still, at most `MAX_COPIED_BYTES`.
            allowance: its end ends the wait.

        Raises:
            TooMuchMemory: `size` is more than the total.
            DeadlinePassed: the allowance ended before the memory was free.
        """
        if size > self.total:
            raise TooMuchMemory(
                f"decoding the image takes {size / 1e6:,.0f} MB of memory, more than the {self.total / 1e6:,.0f} MB "
                "for all images together: scale it down first, or save it as JPEG"
            )
        with self._condition:
            self._waiting.append(allowance)
            try:
                while self._waiting[0] is not allowance or size > self._free or copied > self._free_copied:
                    allowance.check_time()
                    self._condition.wait(allowance.seconds_left)
                self._free -= size
                self._free_copied -= copied
            finally:
                self._waiting.remove(allowance)
                self._condition.notify_all()

    def release(self, size: int, copied: int) -> None:
        """Give memory back."""
        with self._condition:
            self._free += size
            self._free_copied += copied
            self._condition.notify_all()

    def wake(self) -> None:
        """Let images that wait look whether their allowance has ended."""
        with self._condition:
            self._condition.notify_all()


class Allowance:
    """The limits for decoding one file; files in turn may share them.

    Args:
        max_pixels: largest image, width times height.
        memory: memory that is shared with others; None for no limit.
        deadline: `time.monotonic` seconds.
    """

    def __init__(
        self, max_pixels: int = DEFAULT_MAX_PIXELS, memory: DecodeMemory | None = None, deadline: float = math.inf
    ) -> None:
        self.max_pixels = max_pixels
        self._memory = memory
        self._deadline = deadline
        self._reserved = self._copied = 0

    @property
    def counts_memory(self) -> bool:
        """Whether memory has to be reserved."""
        return self._memory is not None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline == math.inf else max(0.0, self._deadline - time.monotonic())

    def check_pixels(self, width: int, height: int) -> None:
        """Check the size of an image.

        Raises:
            TooManyPixels: it is above the limit.
        """
        if max(width, height) > MAX_SIDE:
            raise TooManyPixels(
                f"the image has {width} x {height} pixels, more than {MAX_SIDE:,} along one side: crop it first"
            )
        if width * height > self.max_pixels:
            raise TooManyPixels(
                f"the image has {width} x {height} pixels, more than the {self.max_pixels:,} "
                "that are accepted: scale it down first"
            )

    def check_time(self) -> None:
        """Check the deadline.

        Raises:
            DeadlinePassed: it has passed, or `end` was called.
        """
        if time.monotonic() >= self._deadline:
            raise DeadlinePassed("the time limit passed while an image was decoded")

    def end(self) -> None:
        """Give up: the next check of the time fails. For any thread."""
        self._deadline = -math.inf
        if self._memory is not None:
            self._memory.wake()

    def reserve(self, size: int, copied: int = 0) -> None:
        """Reserve memory for an image, once per image, before it is decoded; arguments as of `DecodeMemory.acquire`.

        Raises:
            TooMuchMemory, DeadlinePassed: as `DecodeMemory.acquire`.
        """
        if size > FREE_BYTES and self._memory is not None:
            self._memory.acquire(size, copied, self)
            self._reserved, self._copied = size, copied

    def release(self) -> int:
        """Give the memory of an image back; returns the bytes that were reserved."""
        size = self._reserved
        if size and self._memory is not None:
            self._memory.release(size, self._copied)
            self._reserved = self._copied = 0
        return size


UNLIMITED = Allowance()
"""For files that one trusts: only the number of pixels is limited."""


def reader(data: bytes, allowance: Allowance) -> io.BytesIO:
    """A file in memory, which fails to be read after the deadline, or too often."""
    # Pillow reads headers byte by byte, so the check takes a fifth of the time of a small JPEG.
    return io.BytesIO(data) if allowance.seconds_left is None else TimedReader(data, allowance)


class TimedReader(io.BytesIO):
    """A file in memory that fails to be read after the deadline, or more than `MAX_READS` times.

    Args:
        data: content of the file.
        allowance: has the deadline.
    """

    def __init__(self, data: bytes, allowance: Allowance) -> None:
        super().__init__(data)
        self._allowance = allowance
        self._reads_left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes. Raises DeadlinePassed, and NotAnImage if the reads are too many."""
        self._allowance.check_time()
        self._reads_left -= 1
        if self._reads_left < 0:
            raise NotAnImage(f"the image file takes more than {MAX_READS:,} reads to decode: save it again")
        return super().read(size)
