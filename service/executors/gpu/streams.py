"""CUDA streams with their own buffers: one stream copies while another computes.

A batch takes three steps in order on its stream: images to the device, the network, outputs back to pinned memory. All
memory is allocated, and the graph of every bucket captured, before the first batch is served.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.artifact.manifest import INPUT
from models.extras import missing
from models.imaging.preprocess import UInt8Array
from models.runtime import cuda_driver
from models.runtime.cuda import CudaError
from models.runtime.cuda_driver import NoDevice
from service.executors.base import DeviceLost, ExecutorError, Float32Array, copy_into, padded_size
from service.executors.gpu import page_locked

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice

log = logging.getLogger(__name__)

STREAMS = 2
"""Streams per device: with two, the device copies for one while it computes for the other."""

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes of executors that can compute any size; each has a CUDA graph. On an H100, batches of 128 gave a
ResNet-50 no higher throughput, and the float32 kernels that cuDNN selected for them were out of bounds."""

_CAPTURE_LOCK = threading.Lock()
"""Held while graphs are captured. Runtimes wait for the whole device before they capture, which fails while another
thread captures."""

_NAN = 0xFF
"""A float32 of these bytes is not a number: an element that a kernel leaves unwritten fails the golden images."""


class Program(Protocol):
    """A network on one stream of a device."""

    outputs: Mapping[str, tuple[int, ...]]
    """Shape of one row of each output, float32."""
    capturable: bool
    """Whether its kernels may be captured as a CUDA graph; not if the runtime has graphs of its own."""

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """Fix the size of a batch and the device addresses of its tensors, by name.

        Returns:
            A function that enqueues the network on the stream.
        """
        ...


class CudaStreamContext:
    """A stream with its buffers: one batch at a time, in buckets of fixed sizes.

    Args:
        device: device to allocate on.
        stream: the stream that `program` enqueues on.
        program: the network.
        image: height, width and channels of an image.
        buckets: batch sizes, ascending.
    """

    def __init__(
        self,
        device: CudaDevice,
        stream: int,
        program: Program,
        image: tuple[int, int, int],
        buckets: Sequence[int],
    ) -> None:
        self.program = program
        self._device = device
        self._stream = stream
        self._buckets = buckets
        largest = buckets[-1]
        self._images: UInt8Array = _pinned(device, (largest, *image), np.uint8)
        self._outputs: dict[str, Float32Array] = {
            name: _pinned(device, (largest, *row), np.float32) for name, row in program.outputs.items()
        }
        arrays = {INPUT: self._images, **self._outputs}
        self._addresses = {name: device.allocate(array.nbytes) for name, array in arrays.items()}
        device.fill(self._addresses[INPUT], 0, self._images.nbytes, stream)
        # From the largest: memory that a runtime allocates for it is enough for the others.
        self._enqueue = {bucket: self._prepare(program, bucket) for bucket in reversed(buckets)}
        for name, array in self._outputs.items():
            device.fill(self._addresses[name], _NAN, array.nbytes, stream)
        device.synchronise(stream)

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        """Enqueue the copy of images, uint8 [H, W, C] each, to the device. Returns an array [n, ...] for its length.

        The device copies page-locked images from where they lie, and others from a buffer.

        Raises:
            DeviceLost: the device fails until the process is restarted.
        """
        target = self._addresses[INPUT]
        try:
            self._device.use()
            if page_locked.are_locked(images):
                for image in images:
                    self._device.copy_in(target, image, self._stream)
                    target += image.nbytes
            else:
                copy_into(self._images, images)
                self._device.copy_in(target, self._images[: len(images)], self._stream)
        except Exception as error:
            _check(self._device, error, self._stream)
            raise
        return self._images[: len(images)]

    def run(self, n: int, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute the n images that were gathered, and copy only the given outputs to the host.

        Raises:
            DeviceLost: the device fails until the process is restarted.
        """
        try:
            self._device.use()
            self._enqueue[padded_size(n, self._buckets)]()
            for name in outputs:
                self._device.copy_out(self._outputs[name][:n], self._addresses[name], self._stream)
            self._device.synchronise(self._stream)
        except Exception as error:
            _check(self._device, error, self._stream)
            raise
        return {name: self._outputs[name][:n].copy() for name in outputs}

    def enqueue(self, bucket: int) -> None:
        """Enqueue a batch of a bucket's size whose images are on the device, and do not wait for it."""
        self._enqueue[bucket]()

    def synchronise(self) -> None:
        """Wait until all work on the stream is done."""
        self._device.synchronise(self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Capture other work on the stream as a CUDA graph; returns a function that enqueues it."""
        return self._device.capture(self._stream, enqueue)

    def _prepare(self, program: Program, bucket: int) -> Callable[[], None]:
        """A function that enqueues a bucket: a CUDA graph, or the single kernels if they cannot be captured."""
        enqueue = program.bind(bucket, self._addresses)
        enqueue()  # the first call plans and allocates, which cannot be captured
        self._device.synchronise(self._stream)
        if not program.capturable:
            return enqueue
        try:
            return self._device.capture(self._stream, enqueue)
        except Exception as error:
            log.warning("%s: batches of %d run without a CUDA graph: %s", self._device.name, bucket, error)
            return enqueue


class CudaExecutor:
    """Base of the executors on a GPU: a thread has a stream to itself from `gather` to the end of `run`.

    Args:
        device: device to compute on; closed with the executor.
        buckets: batch sizes, ascending.
    """

    computes = True
    concurrent_batches = STREAMS

    def __init__(self, device: CudaDevice, buckets: Sequence[int]) -> None:
        self.device = device.name
        self.buckets = buckets
        self._cuda = device
        self.contexts: Sequence[CudaStreamContext] = ()
        """One per stream, for measurements on an executor that nothing else uses."""
        self._free: SimpleQueue[CudaStreamContext] = SimpleQueue()
        self._local = threading.local()

    def prepare(self, max_batch: int) -> None:
        """Do nothing: every bucket was prepared when the executor was loaded."""

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        context: CudaStreamContext | None = getattr(self._local, "context", None)
        if context is None:  # otherwise this thread gathered a batch and did not run it
            context = self._local.context = self._free.get()
        return context.gather(images)

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        context: CudaStreamContext = self._local.context
        try:
            return context.run(len(gathered), outputs)
        finally:
            self._local.context = None
            self._free.put(context)

    def close(self) -> None:
        with contextlib.suppress(CudaError):  # raised on a lost device
            self._cuda.use()
        self.contexts = ()
        while not self._free.empty():  # objects of the runtime are freed before the memory that they use
            self._free.get()
        self._cuda.close()

    def _open_streams(self, image: tuple[int, int, int], make_program: Callable[[int], Program]) -> None:
        """Make the streams.

        Args:
            image: height, width and channels of an image.
            make_program: returns the network on a stream.
        """
        with _CAPTURE_LOCK:
            streams = [self._cuda.make_stream() for _ in range(self.concurrent_batches)]
            contexts = [
                CudaStreamContext(self._cuda, stream, make_program(stream), image, self.buckets) for stream in streams
            ]
        self.contexts = contexts
        for context in contexts:
            self._free.put(context)


@contextlib.contextmanager
def opened(executor: str, argument: str, *refusals: type[Exception]) -> Iterator[CudaDevice]:
    """A GPU to load a network on, which is closed again if loading fails.

    Args:
        executor: name of the executor, for messages.
        argument: number of the GPU; empty is 0.
        refusals: exceptions that the runtime raises if it cannot load a network.

    Raises:
        ExecutorError: there is no such GPU, or the runtime or CUDA cannot load the network on it.
    """
    device = _open(executor, argument)
    expected: tuple[type[Exception], ...] = (CudaError, *refusals)
    with contextlib.ExitStack() as stack:
        stack.callback(device.close)
        try:
            yield device
        except ExecutorError:
            raise
        except expected as error:
            raise ExecutorError(f"{executor}: {error}") from error
        stack.pop_all()


def _open(executor: str, argument: str) -> CudaDevice:
    """Open a device, after the driver has listed it."""
    if not re.fullmatch("[0-9]{0,3}", argument):
        raise ExecutorError(f"{executor}:N takes the number of a GPU, or several with commas, not {argument!r}")
    index = int(argument or 0)
    try:
        cuda_driver.device(index)
        from models.runtime.cuda.device import CudaDevice  # its bindings need not be installed without a GPU

        return CudaDevice(index)
    except ModuleNotFoundError as error:
        raise ExecutorError(missing(f"executor {executor}", "cuda-bindings", "gpu")) from error
    except (NoDevice, CudaError, RuntimeError) as error:  # cuda-bindings raise it if the driver lacks a function
        raise ExecutorError(f"{executor} needs an NVIDIA GPU: {error}") from error


def _pinned(device: CudaDevice, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array in pinned memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return device.allocate_pinned(size).view(dtype).reshape(shape)


def _check(device: CudaDevice, error: Exception, stream: int) -> None:
    """Check, after an error of work on a stream, whether the device still works.

    Raises:
        DeviceLost: every later call fails too, for example after an illegal address.
    """
    try:
        # Not the whole device: synchronising it fails while another thread captures.
        device.synchronise(stream)
    except CudaError as lost:
        raise DeviceLost(str(lost)) from error
