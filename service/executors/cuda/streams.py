"""Lanes: a stream with its own buffers each, so that one copies while another computes.

A batch goes through a lane in three steps that follow each other on its stream: pinned memory to the device, the
network, outputs back to pinned memory. Everything is allocated, and every bucket's graph recorded, before the first
batch is served.
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
from models.imaging.preprocess import UInt8Array
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from service.executors.base import ExecutorError, Float32Array, fill_up
from service.executors.cuda import CudaError

if TYPE_CHECKING:
    from service.executors.cuda.device import Device

log = logging.getLogger(__name__)

LANES = 2
"""Enough: with two, the device copies for one while it computes for the other."""

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes of executors that can compute any; each takes a graph. On an H100 batches of 128 gave a ResNet-50 no more
images, and cuDNN chose kernels for them whose float32 was out of bounds."""

_RECORDING = threading.Lock()
"""Runtimes wait for the whole device before they record, which fails while another thread records; PyTorch records one
graph at a time in a process."""

_NAN = 0xFF
"""A float32 of these bytes is no number: what a kernel leaves unwritten fails the check of the golden images."""


class Program(Protocol):
    """A network on one lane of a device."""

    outputs: Mapping[str, tuple[int, ...]]
    """Shape of one row of each output, float32."""
    records: bool
    """Whether the lane may record what it enqueues: not where the runtime has graphs of its own."""

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """Fix the size of a batch and where its tensors lie on the device, by name.

        Returns:
            What enqueues the network on the lane's stream.
        """
        ...


class CudaStreamContext:
    """One batch at a time, in buckets of fixed sizes.

    Args:
        device: to allocate on.
        stream: that `program` enqueues on.
        program: the network.
        image: height, width and channels of an image.
        buckets: batch sizes, ascending.
    """

    def __init__(
        self,
        device: Device,
        stream: int,
        program: Program,
        image: tuple[int, int, int],
        buckets: Sequence[int],
    ) -> None:
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
        # From the largest: what a runtime allocates for it is enough for the others.
        self._enqueue = {bucket: self._prepare(program, bucket) for bucket in reversed(buckets)}
        for name, array in self._outputs.items():
            device.fill(self._addresses[name], _NAN, array.nbytes, stream)
        device.synchronise(stream)

    def acquire(self, n: int) -> UInt8Array:
        """Pinned memory [n, H, W, C] to write images into."""
        return self._images[:n]

    def run(self, n: int, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute the first n images of the buffer. Outputs that are not asked for stay on the device.

        Raises:
            DeviceLost: the device computes nothing more.
        """
        try:
            self._device.use()
            self._device.copy_in(self._addresses[INPUT], self._images[:n], self._stream)
            self._enqueue[fill_up(n, self._buckets)]()
            for name in outputs:
                self._device.copy_out(self._outputs[name][:n], self._addresses[name], self._stream)
            self._device.synchronise(self._stream)
        except Exception as error:
            self._device.check(error, self._stream)
            raise
        return {name: self._outputs[name][:n].copy() for name in outputs}

    def _prepare(self, program: Program, bucket: int) -> Callable[[], None]:
        """What enqueues a bucket: a graph, or where that cannot be recorded the kernels one by one."""
        enqueue = program.bind(bucket, self._addresses)
        enqueue()  # the first call plans and allocates, which cannot be recorded
        self._device.synchronise(self._stream)
        if not program.records:
            return enqueue
        try:
            return self._device.capture(self._stream, enqueue)
        except Exception as error:
            log.warning("%s: batches of %d go without a CUDA graph: %s", self._device.name, bucket, error)
            return enqueue


class LaneExecutor:
    """What executors over lanes have in common: a thread has a lane to itself from `acquire` to the end of `run`.

    Args:
        device: to compute on; closed with the executor.
        buckets: batch sizes, ascending.
    """

    computes = True
    lanes = LANES

    def __init__(self, device: Device, buckets: Sequence[int]) -> None:
        self.device = device.name
        self.buckets = buckets
        self._cuda = device
        self._free: SimpleQueue[CudaStreamContext] = SimpleQueue()
        self._mine = threading.local()

    def prepare(self, max_batch: int) -> None:
        """Nothing: the buckets are there from the beginning."""

    def acquire(self, n: int) -> UInt8Array:
        lane: CudaStreamContext | None = getattr(self._mine, "lane", None)
        if lane is None:  # otherwise this thread filled a buffer and did not run it
            lane = self._mine.lane = self._free.get()
        return lane.acquire(n)

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        lane: CudaStreamContext = self._mine.lane
        try:
            return lane.run(len(images), outputs)
        finally:
            self._mine.lane = None
            self._free.put(lane)

    def close(self) -> None:
        with contextlib.suppress(CudaError):  # of a lost device
            self._cuda.use()
        while not self._free.empty():  # what the runtime holds goes before the memory that it uses
            self._free.get()
        self._cuda.close()

    def _add_lanes(self, image: tuple[int, int, int], make_program: Callable[[int], Program]) -> None:
        """Make the lanes.

        Args:
            image: height, width and channels of an image.
            make_program: gives the network on a stream.
        """
        with _RECORDING:
            streams = [self._cuda.make_stream() for _ in range(self.lanes)]
            lanes = [
                CudaStreamContext(self._cuda, stream, make_program(stream), image, self.buckets) for stream in streams
            ]
        for lane in lanes:
            self._free.put(lane)


@contextlib.contextmanager
def opened(executor: str, argument: str, *refusals: type[Exception]) -> Iterator[Device]:
    """A GPU to load a network on, which is closed again if that fails.

    Args:
        executor: its name, for messages.
        argument: number of the GPU; empty is 0.
        refusals: what the runtime raises where it cannot load a network.

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


def _open(executor: str, argument: str) -> Device:
    """The driver is asked before anything else is touched."""
    if not re.fullmatch("[0-9]{0,3}", argument):
        raise ExecutorError(f"{executor}:N takes the number of a GPU, or several with commas, not {argument!r}")
    index = int(argument or 0)
    try:
        cuda_driver.device(index)
        from service.executors.cuda.device import Device  # its bindings need not be there where there is no GPU

        return Device(index)
    except ModuleNotFoundError as error:
        raise ExecutorError(f"{executor} needs the package cuda-bindings: install it") from error
    except (NoDevice, CudaError) as error:
        raise ExecutorError(f"{executor} needs an NVIDIA GPU: {error}") from error


def _pinned(device: Device, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array in pinned memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return device.allocate_pinned(size).view(dtype).reshape(shape)
