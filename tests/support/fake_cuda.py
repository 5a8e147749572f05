"""A CUDA runtime without a GPU: the functions of `cuda.bindings.runtime` that lanes call, over the host's memory.

Work on a stream is done when the stream is waited for, not before, so that a missing wait gives wrong answers.
New memory holds rubbish. Copies are checked against what was allocated. Whatever is not a function (flags, statuses) is
the real module's.

With a `Timeline`, everything on a stream takes virtual time: nothing sleeps, and the same program gives the same times.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Any, Literal

import numpy as np
from cuda.bindings import runtime as real

from models.imaging.preprocess import UInt8Array

OK = real.cudaError_t.cudaSuccess
INVALID = real.cudaError_t.cudaErrorInvalidValue
ILLEGAL_ADDRESS = real.cudaError_t.cudaErrorIllegalAddress
UNSUPPORTED = real.cudaError_t.cudaErrorStreamCaptureUnsupported
GLOBAL = real.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal

Kind = Literal["in", "compute", "out"]
RUBBISH = 0xA5
ALIGNMENT = 256
"""Alignment in bytes of what is allocated, as CUDA's."""
TIMEOUT = 60
"""Seconds of real time after which threads that do not come are a mistake."""


@dataclass(frozen=True)
class Work:
    """Something on a stream: which part of the GPU does it, and what it does."""

    kind: Kind
    do: Callable[[], None]


class Timeline:
    """Virtual seconds of a GPU that copies in, computes and copies out at the same time, one piece of work each.

    Host threads take no time of their own, and go on in the order of the times at which what they wait for is done.

    Args:
        seconds: what a piece of work takes.
        threads: how many use the GPU until each has called `leave`.
    """

    def __init__(self, seconds: dict[Kind, float], threads: int) -> None:
        self.end = 0.0
        self._seconds = seconds
        self._free: dict[Kind, float] = {"in": 0.0, "compute": 0.0, "out": 0.0}
        self._threads = threads
        self._waiting: dict[int, float] = {}
        self._turn = Condition()
        self._local = threading.local()

    def spend(self, work: list[Work]) -> None:
        """The calling thread gives work to a stream, and waits for it."""
        with self._turn:
            at = getattr(self._local, "now", 0.0)
            for piece in work:
                at = max(at, self._free[piece.kind]) + self._seconds[piece.kind]
                self._free[piece.kind] = at
            me = threading.get_ident()
            self._waiting[me] = at
            self._turn.notify_all()
            assert self._turn.wait_for(lambda: self._is_next(me), TIMEOUT), "the other threads do not come"
            del self._waiting[me]
            self._local.now = at
            self.end = max(self.end, at)

    def leave(self) -> None:
        """The calling thread uses the GPU no more."""
        with self._turn:
            self._threads -= 1
            self._turn.notify_all()

    def _is_next(self, me: int) -> bool:
        return len(self._waiting) == self._threads and min(self._waiting, key=lambda one: self._waiting[one]) == me


@dataclass(eq=False)
class Event:
    time: float | None = None
    """Time of the clock at which a stream reached it."""


@dataclass(eq=False)
class Graph:
    work: list[Work]


@dataclass
class Stream:
    work: list[Work] = field(default_factory=list)
    recording: bool = False
    broken: bool = False
    """The recording cannot become a graph."""


class FakeRuntime:
    """Stands in for the module `cuda.bindings.runtime`.

    Args:
        devices: how many GPUs there are.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.capability = (9, 0)
        self.timeline: Timeline | None = None
        self.lost: set[int] = set()
        """Devices that answer every call with an illegal address."""
        self.recorded_elsewhere = False
        """Whether another thread records in CUDA's default mode: who keeps to that, too, may not allocate meanwhile."""
        self.can_lock = True
        """Whether memory of the host can be page-locked."""
        self.clock = 0.0
        """Milliseconds of work that is done; only what stands in for kernels lets it run."""
        self.calls: list[str] = []
        self._memory: dict[int, tuple[UInt8Array, bool]] = {}
        self._streams: dict[int, Stream] = {}
        self._events: list[Event] = []
        self._current = threading.local()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        value = getattr(real, name)
        if callable(value) and not isinstance(value, type):
            raise AttributeError(f"the fake has no function {name}")
        return value

    @property
    def allocations(self) -> int:
        """Number of blocks of memory, streams and events that are not freed."""
        return len(self._memory) + len(self._streams) + len(self._events)

    def enqueue(self, stream: int, work: Work) -> None:
        """Begin work on a stream, as the kernels of a runtime do."""
        self._streams[int(stream)].work.append(work)

    def refuse_recording(self, stream: int) -> None:
        """The next work on this stream cannot be recorded."""
        self._streams[int(stream)].broken = self._streams[int(stream)].recording

    def device_memory(self, address: int, size: int) -> UInt8Array:
        """Bytes on the device, for what stands in for kernels."""
        array = self._find(address, size, pinned=False)
        assert array is not None, "this is not memory of the device"
        return array

    def has_stream(self, stream: int) -> bool:
        """Whether a stream exists, and was not destroyed."""
        return int(stream) in self._streams

    def status(self) -> Any:
        """The status that the selected device answers every call with: success, unless it is lost."""
        return self._status()

    def cudaSetDevice(self, device: int) -> Any:
        if not 0 <= device < self.devices:
            return (real.cudaError_t.cudaErrorInvalidDevice,)
        self._current.device = device
        return (OK,)

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> Any:
        major, minor = self.capability
        values = {
            real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: major,
            real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: minor,
        }
        return self._status(), values[attr]

    def cudaThreadExchangeStreamCaptureMode(self, mode: Any) -> Any:
        before = getattr(self._current, "mode", GLOBAL)
        self._current.mode = mode
        return self._status(), before

    def cudaGetErrorString(self, error: Any) -> Any:
        return real.cudaGetErrorString(error)

    def cudaStreamCreateWithFlags(self, flags: Any) -> Any:
        with self._lock:
            handle = 0x5000 + len(self.calls) + len(self._streams)
            self.calls.append("cudaStreamCreateWithFlags")
            self._streams[handle] = Stream()
        return self._status(), real.cudaStream_t(handle)

    def cudaStreamDestroy(self, stream: Any) -> Any:
        del self._streams[int(stream)]
        return (self._status(),)

    def cudaMalloc(self, size: Any) -> Any:
        return self._allocate(size, pinned=False)

    def cudaFree(self, devPtr: Any) -> Any:
        del self._memory[devPtr]
        return (self._status(),)

    def cudaHostAlloc(self, size: Any, flags: Any) -> Any:
        return self._allocate(size, pinned=True)

    def cudaFreeHost(self, ptr: Any) -> Any:
        del self._memory[ptr]
        return (self._status(),)

    def cudaHostRegister(self, ptr: Any, size: Any, flags: Any) -> Any:
        if not self.can_lock:
            return (real.cudaError_t.cudaErrorMemoryAllocation,)
        self._memory[ptr] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(ptr)), True
        return (self._status(),)

    def cudaHostUnregister(self, ptr: Any) -> Any:
        del self._memory[ptr]
        return (self._status(),)

    def cudaMemcpyAsync(self, dst: Any, src: Any, count: Any, kind: Any, stream: Any) -> Any:
        if kind == real.cudaMemcpyKind.cudaMemcpyDeviceToDevice:
            return self._copy_on_device(dst, src, count, stream)
        inwards = kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice
        target, source = self._find(dst, count, not inwards), self._find(src, count, inwards)
        if target is None or source is None:
            return (INVALID,)
        self.calls.append("cudaMemcpyAsync")
        self.enqueue(stream, Work("in" if inwards else "out", lambda: np.copyto(target, source)))
        return (self._status(),)

    def _copy_on_device(self, dst: Any, src: Any, count: Any, stream: Any) -> Any:
        target, source = self._find(dst, count, pinned=False), self._find(src, count, pinned=False)
        if target is None or source is None:
            return (INVALID,)
        self.enqueue(stream, Work("compute", lambda: np.copyto(target, source)))
        return (self._status(),)

    def cudaMemsetAsync(self, devPtr: Any, value: Any, count: Any, stream: Any) -> Any:
        target = self._find(devPtr, count, pinned=False)
        if target is None:
            return (INVALID,)
        self.enqueue(stream, Work("in", lambda: target.fill(value)))
        return (self._status(),)

    def cudaEventCreate(self) -> Any:
        self._events.append(Event())
        return self._status(), self._events[-1]

    def cudaEventDestroy(self, event: Any) -> Any:
        self._events.remove(event)
        return (self._status(),)

    def cudaEventRecord(self, event: Any, stream: Any) -> Any:
        assert event in self._events
        event.time = None

        def reach() -> None:
            event.time = self.clock

        self.enqueue(stream, Work("compute", reach))
        return (self._status(),)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> Any:
        if start.time is None or end.time is None:
            return real.cudaError_t.cudaErrorNotReady, 0.0
        return self._status(), end.time - start.time

    def cudaStreamSynchronize(self, stream: Any) -> Any:
        waited = self._streams[int(stream)]
        if waited.recording:
            waited.broken = True
            return (UNSUPPORTED,)
        if (status := self._status()) != OK:
            return (status,)
        work, waited.work = waited.work, []
        if self.timeline is not None:
            self.timeline.spend(work)
        for piece in work:
            piece.do()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> Any:
        recorded = self._streams[int(stream)]
        assert not recorded.work, "work that was begun before is not recorded"
        recorded.recording = True
        return (self._status(),)

    def cudaStreamEndCapture(self, stream: Any) -> Any:
        recorded = self._streams[int(stream)]
        work, recorded.work = recorded.work, []
        broken, recorded.broken, recorded.recording = recorded.broken, False, False
        if broken:
            return real.cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return self._status(), Graph(work)

    def cudaGraphInstantiate(self, graph: Any, flags: Any) -> Any:
        return self._status(), Graph(graph.work)

    def cudaGraphDestroy(self, graph: Any) -> Any:
        graph.work = None
        return (self._status(),)

    def cudaGraphExecDestroy(self, graphExec: Any) -> Any:
        graphExec.work = None
        return (self._status(),)

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> Any:
        self.calls.append("cudaGraphLaunch")
        self._streams[int(stream)].work.extend(graphExec.work)
        return (self._status(),)

    def _status(self) -> Any:
        return ILLEGAL_ADDRESS if getattr(self._current, "device", 0) in self.lost else OK

    def _allocate(self, size: int, pinned: bool) -> Any:
        if self.recorded_elsewhere and getattr(self._current, "mode", GLOBAL) == GLOBAL:
            return UNSUPPORTED, None
        room = np.full(size + ALIGNMENT, RUBBISH, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        memory = room[start : start + size]
        self._memory[memory.ctypes.data] = memory, pinned
        return self._status(), memory.ctypes.data

    def _find(self, address: int, size: int, pinned: bool) -> UInt8Array | None:
        """The bytes at an address; None unless all of them are memory of that kind."""
        for start, (memory, is_pinned) in self._memory.items():
            if is_pinned == pinned and start <= address and address + size <= start + len(memory):
                return memory[address - start : address - start + size]
        return None


def as_array(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Memory at an address, for what stands in for kernels."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: np.ndarray[Any, Any] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    array: np.ndarray[Any, Any] = memory.view(dtype).reshape(shape)
    return array
