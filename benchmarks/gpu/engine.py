"""Measures of the step `engine`: rates from device to device, single layers, and one image from host to host.

Each function runs in a process of its own, and returns values only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu.executors import Kind, load
from models.artifact import golden, manifest
from models.artifact.manifest import Precision
from models.imaging.preprocess import UInt8Array
from service.executors.base import ExecutorError, compute
from service.executors.gpu.streams import CudaExecutor, CudaStreamContext
from service.registry.verification import check_golden

SECONDS = 0.5
"""Duration of one measurement, at least."""
SINGLE_IMAGES = 1000
COPY_BYTES = 2**30
REPEATS = 20
"""Launches of a layer behind each other, in one graph."""
_ROUNDS = 5
_LOGITS = frozenset({"logits"})


@dataclass(frozen=True)
class DeviceRate:
    """Images per second of one executor, whose images are on the device."""

    executor: str
    precision: Precision
    batch: int
    streams: int
    images_per_second: float


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer, alone: its inputs may be in the L2 cache of the GPU."""

    name: str
    kind: str
    kernels: tuple[str, ...]
    seconds: float
    traffic: int
    """Bytes read and written, each once, for the batch."""
    operations: int
    """Two per multiply-add, for the batch."""

    def floor(self, bytes_per_second: float, operations_per_second: float | None) -> float:
        """The shortest time in seconds that the memory and the arithmetic of the GPU allow."""
        arithmetic = 0.0 if operations_per_second is None else self.operations / operations_per_second
        return max(self.traffic / bytes_per_second, arithmetic)


@dataclass(frozen=True)
class Measured:
    """All results of one executor in one precision."""

    executor: str
    precision: Precision
    rates: tuple[DeviceRate, ...]
    single_ms: float
    """Median time of one image from host memory to host memory, in milliseconds."""
    layers: tuple[LayerTime, ...] = ()
    layers_batch: int = 0


def measure_kind(kind: Kind) -> Measured:
    """Check an executor against the golden images, then measure it.

    Raises:
        LoadError: the answers are wrong.
        ExecutorError: it cannot be loaded.
    """
    with closing(load(kind)) as executor:
        if not isinstance(executor, CudaExecutor):
            raise ExecutorError(f"{kind.executor} does not compute on a GPU")
        return measure(executor, kind)


def measure_baseline(version: Path) -> Measured:
    """As `measure_kind`, for cuDNN."""
    from benchmarks.cudnn_baseline.executor import CudnnExecutor

    with closing(CudnnExecutor(version)) as executor:
        return measure(executor, Kind(version, "cuDNN baseline", "float16"))


def measure(executor: CudaExecutor, kind: Kind) -> Measured:
    """Measure an executor that nothing else uses."""
    images, logits = golden.read(kind.version / manifest.GOLDEN_FILE)
    check_golden(executor, images, logits, kind.version.parent.name, kind.precision)
    rates = tuple(
        DeviceRate(kind.executor, kind.precision, batch, streams, device_rate(executor.contexts[:streams], batch))
        for batch in executor.buckets
        for streams in range(1, len(executor.contexts) + 1)
    )
    largest = max(executor.buckets, key=lambda batch: max(rate_of(rates, batch)))
    layers = layer_times(executor, largest)
    return Measured(kind.executor, kind.precision, rates, single_image_ms(executor, images), layers, largest)


def rate_of(rates: Sequence[DeviceRate], batch: int) -> list[float]:
    """Images per second at a batch size."""
    return [rate.images_per_second for rate in rates if rate.batch == batch]


def device_rate(contexts: Sequence[CudaStreamContext], batch: int) -> float:
    """Images per second of batches that are computed in turn on some streams, without copies to or from the host."""

    def run(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            for context in contexts:
                context.enqueue(batch)
        for context in contexts:
            context.synchronise()
        return time.perf_counter() - started

    seconds, count = _repeat(run)
    return count * len(contexts) * batch / seconds


def single_image_ms(executor: CudaExecutor, images: UInt8Array) -> float:
    """Median time of one image from host memory to host memory, in milliseconds."""
    times = []
    for index in range(SINGLE_IMAGES):
        image = images[index % len(images)][None]
        started = time.perf_counter()
        compute(executor, image, _LOGITS)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def layer_times(executor: CudaExecutor, batch: int) -> tuple[LayerTime, ...]:
    """Time of each layer of a CUDA engine; none for other executors."""
    from service.executors.cuda import CudaEngineExecutor, CudaProgram

    if not isinstance(executor, CudaEngineExecutor):
        return ()
    plan, context = executor.plan, executor.contexts[0]
    planned = next(program for program in plan.programs if program.batch == batch)
    assert isinstance(context.program, CudaProgram)
    functions = context.program.launches[batch]
    context.enqueue(batch)  # every value is there
    context.synchronise()
    found = []
    for number, layer in enumerate(plan.layers):
        places = [place for place, launch in enumerate(planned.launches) if launch.layer == number]
        if not places:
            continue
        seconds = _layer_seconds(context, [functions[place] for place in places])
        found.append(
            LayerTime(
                layer.name,
                layer.kind,
                tuple(plan.kernels[planned.launches[place].kernel].name for place in places),
                seconds,
                layer.bytes_per_image * batch + layer.weight_bytes,
                2 * layer.multiply_adds * batch,
            )
        )
    return tuple(found)


def copy_ceiling(_: object = None) -> float:
    """Bytes per second of a copy from the device to itself, read and written."""
    from models.runtime.cuda import device as cuda

    with closing(cuda.CudaDevice(0)) as device:
        stream = device.make_stream()
        source, target = device.allocate(COPY_BYTES), device.allocate(COPY_BYTES)
        device.fill(source, 1, COPY_BYTES, stream)

        def run(count: int) -> float:
            started = time.perf_counter()
            for _ in range(count):
                device.copy(target, source, COPY_BYTES, stream)
            device.synchronise(stream)
            return time.perf_counter() - started

        seconds, count = _repeat(run)
    return 2 * COPY_BYTES * count / seconds


def _layer_seconds(context: CudaStreamContext, functions: Sequence[Callable[[], None]]) -> float:
    def enqueue() -> None:
        for _ in range(REPEATS):
            for function in functions:
                function()

    graph = context.capture(enqueue)
    times = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        graph()
        context.synchronise()
        times.append(time.perf_counter() - started)
    return min(times[1:]) / REPEATS


def _repeat(run: Callable[[int], float]) -> tuple[float, int]:
    """Seconds and count of a run that takes at least `SECONDS`, after shorter ones."""
    count = 2
    while True:
        seconds = run(count)
        if seconds >= SECONDS:
            return seconds, count
        count *= max(2, min(20, int(1.2 * SECONDS / max(seconds, 1e-6))))
