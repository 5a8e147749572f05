"""CUDA streams on a fake GPU: buffers, buckets, graphs, overlapping copies, and failures of the device.

The fakes are compared with the signatures of the real CUDA bindings, and with the recorded classes of two versions of
TensorRT.
"""

from __future__ import annotations

import inspect
import json
import logging
import weakref
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda import CudaError
from models.runtime.cuda import device as cuda
from models.runtime.onnxruntime import ort
from service.executors.base import DeviceLost, ExecutorError
from service.executors.gpu import page_locked, streams
from service.executors.gpu.streams import CudaStreamContext
from tests.support import fake_gpu
from tests.support.fake_cuda import RUBBISH, FakeRuntime, Kind
from tests.support.fake_gpu import FakeOnnxRuntime
from tests.support.fake_network import BUCKETS, IMAGE, LOGITS, Doubling, Executor, images, virtual_seconds
from tests.support.fake_tensorrt_runtime import FakeTensorRT

API = Path(__file__).parents[1] / "data"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime()
    monkeypatch.setattr(cuda, "runtime", runtime)
    return runtime


def make_context(fake: FakeRuntime, **options: bool) -> tuple[CudaStreamContext, Doubling, cuda.CudaDevice]:
    device = cuda.CudaDevice(0)
    stream = device.make_stream()
    program = Doubling(fake, stream)
    for name, value in options.items():
        setattr(program, name, value)
    return CudaStreamContext(device, stream, program, IMAGE, BUCKETS), program, device


def compute(context: CudaStreamContext, batch: UInt8Array) -> np.ndarray[Any, Any]:
    return context.run(len(context.gather(list(batch))), LOGITS)["logits"]


def test_fake_has_the_signatures_of_the_real_runtime() -> None:
    functions = [name for name in vars(FakeRuntime) if name.startswith("cuda")]
    assert len(functions) > 15
    for name in functions:
        mine = [p for p in inspect.signature(getattr(FakeRuntime, name)).parameters if p != "self"]
        assert mine == list(inspect.signature(getattr(real, name)).parameters), name


def test_real_runtime_returns_what_the_fake_returns() -> None:
    """A tuple whose first member is a status, also where there is no driver."""
    for answer in (real.cudaMalloc(16), real.cudaStreamCreateWithFlags(real.cudaStreamNonBlocking)):
        assert isinstance(answer[0], real.cudaError_t)
        assert len(answer) == 2
    assert len(real.cudaSetDevice(0)) == len(real.cudaStreamSynchronize(0)) == 1


@pytest.mark.parametrize("version", ["10.16.1", "11.4.0"])
def test_fake_tensorrt_has_only_names_of_the_real_one(version: str) -> None:
    recorded = json.loads((API / f"tensorrt-{version}.json").read_text())
    fake = FakeTensorRT(FakeRuntime(), ((1, 8),))
    classes = {
        name: value for name, value in vars(fake).items() if isinstance(value, type) and value is not FakeRuntime
    }
    assert len(classes) == 6
    for name, value in classes.items():
        for attribute in (one for one in vars(value) if not one.startswith("_")):
            assert attribute in recorded[name], f"TensorRT {version} has no {name}.{attribute}"


def test_fake_onnxruntime_has_the_signatures_of_the_real_one() -> None:
    fake = FakeOnnxRuntime(FakeRuntime())
    session = ["get_providers", "disable_fallback", "get_outputs", "io_binding", "run_with_iobinding"]
    for name in session:
        theirs = list(inspect.signature(getattr(ort.InferenceSession, name)).parameters)[1:]
        mine = list(inspect.signature(getattr(fake_gpu._Session, name)).parameters)[1:]
        assert mine == theirs[: len(mine)], name
    for name in ("bind_input", "bind_output"):
        theirs = list(inspect.signature(getattr(ort.IOBinding, name)).parameters)[1:]
        assert list(inspect.signature(getattr(fake_gpu._Binding, name)).parameters)[1:] == theirs
    for name in ("get_available_providers", "preload_dlls"):
        assert callable(getattr(ort, name))
        assert callable(getattr(fake, name))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_batches_of_any_size_up_to_the_largest_bucket(fake: FakeRuntime, n: int) -> None:
    context, _, _ = make_context(fake)
    compute(context, images(8, 100))
    np.testing.assert_array_equal(compute(context, images(n)), images(n).reshape(n, 4) * 2.0)


def test_every_bucket_is_captured_before_the_first_batch(fake: FakeRuntime) -> None:
    context, program, _ = make_context(fake)
    assert program.bound == sorted(BUCKETS, reverse=True)
    prepared, memory = program.enqueued, fake.allocations
    assert prepared == 2 * len(BUCKETS)  # once to plan, once to capture
    fake.calls.clear()
    for n in (1, 3, 8):
        compute(context, images(n))
    assert program.enqueued == prepared
    assert fake.allocations == memory
    # A batch is three calls: copy in, launch, copy the outputs.
    assert fake.calls == ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaMemcpyAsync"] * 3


def test_capture_in_another_thread_does_not_block_allocation(fake: FakeRuntime) -> None:
    fake.recorded_elsewhere = True
    context, _, _ = make_context(fake)
    np.testing.assert_array_equal(compute(context, images(3)), images(3).reshape(3, 4) * 2.0)


def test_kernels_that_cannot_be_captured_are_enqueued(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        context, program, _ = make_context(fake, recordable=False)
    assert "batches of 4 run without a CUDA graph" in caplog.text
    fake.calls.clear()
    np.testing.assert_array_equal(compute(context, images(3)), images(3).reshape(3, 4) * 2.0)
    assert "cudaGraphLaunch" not in fake.calls
    assert program.enqueued > 0


def test_runtime_with_its_own_graphs_is_not_captured(fake: FakeRuntime) -> None:
    context, program, _ = make_context(fake, capturable=False)
    assert program.enqueued == len(BUCKETS)
    compute(context, images(2))
    assert program.enqueued == len(BUCKETS) + 1
    assert "cudaGraphLaunch" not in fake.calls


def test_unwritten_outputs_are_not_numbers(fake: FakeRuntime) -> None:
    """Neither rubbish nor what an earlier batch left: the check of the golden images then fails."""
    context, _, _ = make_context(fake)
    context.gather(list(images(2)))
    assert np.isnan(context.run(2, frozenset({"embedding"}))["embedding"]).all()
    assert RUBBISH != 0xFF


def test_fake_checks_the_bounds_of_copies(fake: FakeRuntime) -> None:
    """Or a mistake in an address would go unnoticed in every other test."""
    device = cuda.CudaDevice(0)
    stream, memory, pinned = device.make_stream(), device.allocate(8), device.allocate_pinned(8)
    with pytest.raises(CudaError, match=r"cudaMemcpyAsync: invalid argument \(1\)"):
        device.copy_in(memory + 1, pinned, stream)
    with pytest.raises(CudaError, match="invalid argument"):
        device.copy_in(memory, np.zeros(8, np.uint8), stream)  # not pinned
    device.copy_in(memory, pinned, stream)


def test_closing_frees_everything(fake: FakeRuntime) -> None:
    _, _, device = make_context(fake)
    assert fake.allocations > 0
    device.close()
    assert fake.allocations == 0


def test_programs_are_freed_before_their_memory(fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(fake)
    executor.run(executor.gather(list(images(2))), LOGITS)
    programs = [weakref.ref(context.program) for context in executor.contexts]
    left: list[int] = []
    close = cuda.CudaDevice.close

    def count_and_close(device: cuda.CudaDevice) -> None:
        left.append(sum(program() is not None for program in programs))
        close(device)

    monkeypatch.setattr(cuda.CudaDevice, "close", count_and_close)
    executor.close()
    assert left == [0]
    assert fake.allocations == 0


def test_failure_of_one_batch_does_not_lose_the_device(fake: FakeRuntime) -> None:
    context, program, _ = make_context(fake, capturable=False)
    enqueue, program.bound = context._enqueue[4], []

    def fail() -> None:
        raise RuntimeError("no kernel for this")

    context._enqueue[4] = fail
    with pytest.raises(RuntimeError, match="no kernel"):
        compute(context, images(3))
    context._enqueue[4] = enqueue
    np.testing.assert_array_equal(compute(context, images(3)), images(3).reshape(3, 4) * 2.0)


def test_lost_device_is_detected(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    context, _, device = make_context(fake)
    fake.lost.add(0)
    with pytest.raises(DeviceLost, match="illegal memory access") as lost:
        compute(context, images(3))
    assert isinstance(lost.value.__cause__, CudaError)
    device.close()  # cannot free, and says so
    assert "cuda:0: some objects were not freed" in caplog.text


def test_threads_share_the_streams(fake: FakeRuntime) -> None:
    executor = Executor(fake)
    buffers = [executor.gather(list(images(1))).ctypes.data]
    other: list[int] = []
    thread = Thread(target=lambda: other.append(executor.gather(list(images(1))).ctypes.data))
    thread.start()
    thread.join()
    assert other != buffers  # two threads never share a buffer
    executor.run(executor.gather(list(images(2))), LOGITS)
    assert executor.gather(list(images(1))).ctypes.data == buffers[0]


def test_batch_that_was_not_run_keeps_its_stream(fake: FakeRuntime) -> None:
    executor = Executor(fake, count=1)
    first = executor.gather(list(images(2, 100)))
    gathered = executor.gather(list(images(3)))
    assert gathered.ctypes.data == first.ctypes.data
    np.testing.assert_array_equal(executor.run(gathered, LOGITS)["logits"], images(3).reshape(3, 4) * 2.0)


def test_shared_memory_is_copied_from_where_it_lies(fake: FakeRuntime) -> None:
    """Without the buffer, and only from memory that was offered; its pages are unlocked with the memory."""
    context, _, _ = make_context(fake)
    before = fake.allocations
    memory = np.zeros(64, np.uint8)
    page_locked.offer(memory)
    assert fake.allocations == before  # nothing is locked before a GPU reads it
    shared = [memory[8 * row : 8 * row + 4].reshape(IMAGE) for row in (5, 0, 3)]
    for row, image in enumerate(shared):
        image[:] = images(1, 4 * row)
    fake.calls.clear()
    gathered = context.gather(shared)
    assert fake.calls == ["cudaMemcpyAsync"] * 3
    np.testing.assert_array_equal(context.run(len(gathered), LOGITS)["logits"], images(3).reshape(3, 4) * 2.0)
    mixed = [shared[0], images(1, 50)[0]]
    fake.calls.clear()
    gathered = context.gather(mixed)
    assert fake.calls == ["cudaMemcpyAsync"]
    expected = np.concatenate([images(1), images(1, 50)]).reshape(2, 4) * 2.0
    np.testing.assert_array_equal(context.run(2, LOGITS)["logits"], expected)
    assert fake.allocations == before + 1
    del memory, shared, mixed, image
    assert fake.allocations == before


def test_memory_that_cannot_be_locked_is_copied(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    context, _, _ = make_context(fake)
    fake.can_lock = False
    memory = images(2).reshape(-1)
    page_locked.offer(memory)
    np.testing.assert_array_equal(compute(context, memory.reshape(2, *IMAGE)), images(2).reshape(2, 4) * 2.0)
    assert "cannot be page-locked" in caplog.text


@pytest.mark.parametrize("copies", [0.1, 0.3, 0.45])
def test_two_streams_overlap_copies_and_computation(fake: FakeRuntime, copies: float) -> None:
    """The device computes for one while it copies for the other."""
    work: dict[Kind, float] = {"in": copies, "compute": 1.0, "out": copies}
    assert virtual_seconds(fake, 1, 100, work) == pytest.approx(100 * (1 + 2 * copies))
    assert 100 / virtual_seconds(fake, 2, 100, work) >= 0.95


def test_throughput_is_bounded_by_slow_copies(fake: FakeRuntime) -> None:
    work: dict[Kind, float] = {"in": 1.0, "compute": 0.5, "out": 0.25}
    assert 100 / virtual_seconds(fake, 2, 100, work) >= 0.95


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("one", "takes the number of a GPU"),
        ("1", "needs an NVIDIA GPU: there is no GPU 1, only 0"),
        ("-1", "takes the number of a GPU"),
    ],
)
def test_missing_gpu_is_an_error(argument: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu.install(monkeypatch)
    with pytest.raises(ExecutorError, match=message), streams.opened("tensorrt", argument):
        pass
    with streams.opened("tensorrt", "") as device:
        assert device.name == "cuda:0"


def test_bindings_without_their_driver_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-bindings 12.8 raise a RuntimeError for each function that the driver lacks."""
    fake_gpu.install(monkeypatch)

    def fail(_: int) -> None:
        raise RuntimeError("Function cuStreamCreate not found")

    monkeypatch.setattr(cuda, "CudaDevice", fail)
    expected = pytest.raises(ExecutorError, match="needs an NVIDIA GPU: Function cuStreamCreate not found")
    with expected, streams.opened("cuda", "0"):
        pass


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (CudaError("out of memory"), ExecutorError),
        (LookupError("no such engine"), ExecutorError),
        (ValueError("a mistake"), ValueError),
    ],
)
def test_device_is_closed_after_a_failed_load(
    error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = fake_gpu.install(monkeypatch)
    with pytest.raises(raised) as told, streams.opened("tensorrt", "0", LookupError) as device:
        device.allocate(8)
        raise error
    assert str(told.value) == (f"tensorrt: {error}" if raised is ExecutorError else str(error))
    assert gpu.cuda.allocations == 0
