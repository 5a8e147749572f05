"""The time of each launch of a program on a GPU, alone. Its inputs may be in the cache of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from statistics import median

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda.device import CudaDevice
from models.runtime.cuda.program import LoadedEngine, PlacedProgram
from models.runtime.cuda_engine.plan import Buffer, LaunchPlan

REPEATS = 20
"""Launches behind each other in one CUDA graph: between them the GPU does not wait for the CPU."""
ROUNDS = 9
"""Graphs of a launch between two events each. Launches alternate, so a change of the clock rate affects all."""

Outputs = Mapping[str, UInt8Array]


def time_launches(
    gpu: int,
    plan: LaunchPlan,
    cubins: Sequence[bytes],
    weights: bytes,
    inputs: Mapping[str, UInt8Array],
    outputs: Sequence[str],
    agree: Callable[[Outputs, Outputs], bool],
) -> list[float | None]:
    """Measure launches that compute the same.

    Args:
        gpu: number of the GPU.
        plan: a plan with one program.
        cubins: its code.
        weights: its constants.
        inputs: content of the buffers that the launches read.
        outputs: names of the buffers that each launch writes.
        agree: whether outputs, bytes by name, are as right as those of the first launch.

    Returns:
        The median time of each launch in microseconds; None for one whose outputs do not agree.

    Raises:
        CudaError: the device or the driver fails.
    """
    (program,) = plan.programs
    with closing(CudaDevice(gpu)) as device:
        stream = device.make_stream()
        engine = LoadedEngine(device, plan, cubins, memoryview(weights))
        placed = PlacedProgram(device, stream, engine, program, {})
        buffers = {buffer.name: (buffer, base) for buffer, base in zip(program.buffers, placed.bases, strict=True)}
        for name, content in inputs.items():
            pinned = device.allocate_pinned(len(content))
            pinned[:] = content
            device.copy_in(buffers[name][1], pinned, stream)
        right = _right_launches(device, stream, placed.launches, [buffers[name] for name in outputs], agree)
        graphs = {number: _graph(device, stream, placed.launches[number]) for number in right}
        times = _time(device, stream, graphs)
    return [times.get(number) for number in range(len(placed.launches))]


def _right_launches(
    device: CudaDevice,
    stream: int,
    launches: Sequence[Callable[[], None]],
    written: Sequence[tuple[Buffer, int]],
    agree: Callable[[Outputs, Outputs], bool],
) -> list[int]:
    """Numbers of the launches whose outputs, over zeros, agree with those of the first one."""
    arrays = {buffer.name: device.allocate_pinned(buffer.bytes) for buffer, _ in written}
    first: Outputs | None = None
    right = []
    for number, launch in enumerate(launches):
        for buffer, base in written:
            device.fill(base, 0, buffer.bytes, stream)
        launch()
        for buffer, base in written:
            device.copy_out(arrays[buffer.name], base, stream)
        device.synchronise(stream)
        if first is None:
            first = {name: array.copy() for name, array in arrays.items()}
        elif not agree(first, arrays):
            continue
        right.append(number)
    return right


def _graph(device: CudaDevice, stream: int, launch: Callable[[], None]) -> Callable[[], None]:
    def enqueue() -> None:
        for _ in range(REPEATS):
            launch()

    return device.capture(stream, enqueue)


def _time(device: CudaDevice, stream: int, graphs: Mapping[int, Callable[[], None]]) -> dict[int, float]:
    """Median microseconds per launch of each graph."""
    start, end = device.make_event(), device.make_event()
    times: dict[int, list[float]] = {number: [] for number in graphs}
    for turn in range(ROUNDS + 1):
        for number, graph in graphs.items():
            device.record(start, stream)
            graph()
            device.record(end, stream)
            device.synchronise(stream)
            if turn:  # the first one warms up
                times[number].append(device.milliseconds(start, end) * 1000 / REPEATS)
    return {number: median(each) for number, each in times.items()}
