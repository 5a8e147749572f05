"""The contract of executors: the same tests for every executor, on every device.

Executors are found, not listed. Those that need a GPU are skipped without one. Executors whose runtime can be faked
also run on a fake GPU, so that all of their code except the runtime is tested on every machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import engines
from export.formats.tensorrt import BuildOptions
from models.artifact import manifest, parity
from models.artifact.manifest import OUTPUTS, Precision
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_driver import NoDevice
from models.runtime.tensorrt_runtime import NoTensorRT
from service import executors
from service.core.errors import Unavailable
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.executors.base import Executor, ExecutorError, Source, compute
from service.messages.inference import InferenceRequest, InferenceResult
from service.registry.verification import check_golden
from service.telemetry.metrics import Metrics
from tests.support import fake_gpu
from tests.support.gpu import needs_gpu
from tests.support.service import TIMEOUT
from tests.support.tiny import Golden

FAKED = ("cuda", "onnxruntime-cuda", "tensorrt")
NOT_HERE = ("needs the package", "is not installed", "this CPU does not compute in", "cuda: no CUDA engine in")
"""Errors of executors that cannot run on this machine."""
LOGITS = frozenset({"logits"})
ALL = frozenset(OUTPUTS)


@dataclass(frozen=True)
class Kind:
    """An executor in a precision, and where it computes: cpu, gpu, simulated or fake."""

    name: str
    precision: Precision
    place: str
    argument: str

    def __str__(self) -> str:
        return f"{self.name}-{self.precision}-{self.place}"


def parameters() -> Iterator[object]:
    for name in executors.names():
        try:
            runtime = executors.find(name)
        except ExecutorError as error:
            kind = Kind(name, "float32", "missing", "")
            yield pytest.param(kind, marks=pytest.mark.skip(reason=str(error)), id=str(kind))
            continue
        for precision in runtime.artifacts:
            kind = Kind(name, precision, runtime.device, "" if runtime.device == "cpu" else "0")
            yield pytest.param(kind, marks=needs_gpu() if kind.place == "gpu" else (), id=str(kind))
            if name in FAKED:
                kind = Kind(name, precision, "fake", "0")
                yield pytest.param(kind, id=str(kind))


@pytest.fixture(scope="module", params=parameters())
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="session")
def built(full_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the engines that TensorRT builds here; the reason why there are none is a test's to tell."""
    cache = tmp_path_factory.mktemp("engines")
    with contextlib.suppress(NoDevice, NoTensorRT):
        here = engines.platforms(None, None)[:1]
        for outcome in engines.build_engines([full_repository / "tiny" / "1"], cache, here, BuildOptions()):
            assert outcome.result in ("built", "skipped"), outcome.text
    return cache


@pytest.fixture(scope="module")
def executor(
    kind: Kind, full_repository: Path, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Executor]:
    """One executor of a kind for all tests, because loading takes up to seconds."""
    version = full_repository / "tiny" / "1"
    if kind.place != "fake":
        made = load(kind, version, built)
        yield made
        made.close()
        return
    with pytest.MonkeyPatch.context() as patch:
        fake = fake_gpu.install(patch)
        cache = tmp_path_factory.mktemp("fake")
        fake.build_engines(version, cache)
        fake.build_cuda_engines(version, cache)
        made = load(kind, version, cache)
        yield made
        made.close()
        assert fake.cuda.allocations == 0


def load(kind: Kind, version: Path, cache: Path) -> Executor:
    described, runtime = manifest.read(version), executors.find(f"{kind.name}:{kind.argument}")
    try:
        artifact = runtime.select_artifact(described, kind.precision)
        return runtime.make(Source(version, described, artifact, kind.precision, 2, kind.argument, cache))
    except ExecutorError as error:
        if any(reason in str(error) for reason in NOT_HERE):
            pytest.skip(str(error))
        raise


def take(array: Any, count: int, first: int = 0) -> Any:
    """So many rows, beginning again at the end."""
    return array[np.arange(first, first + count) % len(array)]


def check(logits: Float32Array, golden: Float32Array, kind: Kind, executor: Executor) -> None:
    """The golden logits, one row after the other from the first."""
    if executor.computes:
        parity.check(logits, take(golden, len(logits)), kind.precision)


@pytest.mark.parametrize("n", [1, 5])
def test_images_lie_anywhere(executor: Executor, n: int, golden: Golden) -> None:
    """As in the memory of a worker: each image in another place, and read-only."""
    together = compute(executor, take(golden[0], n), LOGITS)["logits"]
    apart = [image.copy() for image in take(golden[0], n)]
    for image in apart:
        image.flags.writeable = False
    np.testing.assert_array_equal(executor.run(executor.gather(apart), LOGITS)["logits"], together)


def test_golden_images_pass(kind: Kind, executor: Executor, golden: Golden) -> None:
    """Computed as the service computes them before a version takes requests: in every bucket on every stream."""
    check_golden(executor, *golden, "model.onnx", kind.precision)
    check(compute(executor, golden[0], LOGITS)["logits"], golden[1], kind, executor)


def test_sizes_around_buckets(kind: Kind, executor: Executor, golden: Golden) -> None:
    """The padding of a batch does not affect the outputs, and is not part of them."""
    around = {size + step for size in executor.buckets for step in (-1, 0, 1)} & set(range(1, 33))
    for size in sorted(around | {1, 3, 17, 31}, reverse=True):  # a larger batch leaves its rows in the buffers
        logits = compute(executor, take(golden[0], size), LOGITS)["logits"]
        assert len(logits) == size
        if size > 1:
            rows = np.arange(size) % len(golden[1])
            reference = golden[1][rows]
            if executor.computes and size >= len(golden[1]):
                parity.check(logits, reference, kind.precision)
            elif executor.computes:
                spread = golden[1].std(0).mean()
                bound = parity.MAX_LOGIT_ERROR[kind.precision] * (5 if kind.precision == "int8" else 1)
                assert np.abs(logits - reference).max() / spread <= bound


def test_sizes_with_and_without_preparation(kind: Kind, executor: Executor, golden: Golden) -> None:
    executor.prepare(4)
    for size in (4, 16, 3, 1, 2, 5):  # rows of one batch must not appear in another
        logits = [compute(executor, take(golden[0], size, first), LOGITS)["logits"] for first in range(0, 16, size)]
        check(np.concatenate(logits), golden[1], kind, executor)


@pytest.mark.parametrize("size", [1, 17])
def test_outputs_have_one_float32_row_per_image(executor: Executor, size: int, golden: Golden) -> None:
    answers = compute(executor, take(golden[0], size), ALL)
    assert {name: (len(value), str(value.dtype)) for name, value in answers.items()} == {
        name: (size, "float32") for name in OUTPUTS
    }
    assert answers["logits"].shape == answers["probabilities"].shape == (size, 5)
    assert answers["embedding"].ndim == 2
    assert answers["feature_map"].ndim == 4


def test_outputs_are_consistent(kind: Kind, executor: Executor, golden: Golden) -> None:
    answers = compute(executor, golden[0], ALL)
    exponentials = np.exp(answers["logits"].astype(np.float64))
    softmax = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(answers["probabilities"], softmax, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1.0, rtol=1e-5)
    # OpenVINO computes the head of int8 graphs in bfloat16.
    tolerance = 1e-2 if kind.name == "openvino" and kind.precision != "float32" else 1e-4
    np.testing.assert_allclose(answers["embedding"], answers["feature_map"].mean((2, 3)), rtol=tolerance, atol=1e-3)


@pytest.mark.parametrize("outputs", [[name] for name in OUTPUTS] + [["embedding", "probabilities"]])
def test_only_the_given_outputs_are_returned(executor: Executor, outputs: list[str], golden: Golden) -> None:
    assert sorted(compute(executor, golden[0][:2], frozenset(outputs))) == outputs


def test_returned_arrays_are_not_written_again(kind: Kind, executor: Executor, golden: Golden) -> None:
    """Callers may write to returned arrays, and an executor does not write to them again."""
    first = compute(executor, golden[0], ALL)
    before = {name: values.copy() for name, values in first.items()}
    for _ in range(executor.concurrent_batches):
        for values in first.values():
            values.fill(np.nan)
        second = compute(executor, golden[0], ALL)
        assert all(np.isnan(values).all() for values in first.values())
        for name, values in second.items():
            np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-5)
        check(second["logits"], golden[1], kind, executor)
        first = second


class Kept:
    """An executor that the engine does not close: the fixture closes it."""

    def __init__(self, executor: Executor) -> None:
        self.computes, self.device = executor.computes, executor.device
        self.concurrent_batches, self.buckets = executor.concurrent_batches, executor.buckets
        self.prepare, self.gather, self.run = executor.prepare, executor.gather, executor.run

    def close(self) -> None:
        """Do nothing."""


async def ask(engine: Engine, images: UInt8Array) -> InferenceResult:
    return await engine.submit(InferenceRequest(list(images), LOGITS, time.monotonic() + TIMEOUT))


def test_concurrent_requests(kind: Kind, executor: Executor, golden: Golden) -> None:
    """Each request gets the outputs of its own images, in whichever batch and on whichever stream."""
    sizes = [1 + index * 7 % 9 for index in range(32)]
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]

    async def play() -> list[InferenceResult]:
        engine = Engine([Kept(executor)], BatchQueue(1000, 8), Metrics(), "model")
        engine.start()
        callers = [ask(engine, take(golden[0], size, first)) for size, first in zip(sizes, firsts, strict=True)]
        results = await asyncio.gather(*callers)
        await engine.close()
        return results

    logits = [result.outputs["logits"] for result in asyncio.run(play())]
    assert [len(part) for part in logits] == sizes
    check(np.concatenate(logits), golden[1], kind, executor)


def test_closing_under_load(kind: Kind, executor: Executor, golden: Golden) -> None:
    """Requests that were accepted are answered, and later ones are refused."""

    async def play() -> tuple[list[InferenceResult | BaseException], list[InferenceResult | BaseException]]:
        engine = Engine([Kept(executor)], BatchQueue(1000, 4), Metrics(), "model")
        accepted = [asyncio.create_task(ask(engine, golden[0])) for _ in range(4)]
        engine.start()
        await asyncio.sleep(0)  # they put their images into the queue
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        late = [asyncio.create_task(ask(engine, golden[0])) for _ in range(4)]
        results = await asyncio.gather(*accepted, return_exceptions=True)
        refused = await asyncio.gather(*late, return_exceptions=True)
        await closing
        return results, refused

    results, refused = asyncio.run(play())
    assert all(isinstance(result, Unavailable) for result in refused)
    for result in results:
        assert isinstance(result, InferenceResult)
        check(result.outputs["logits"], golden[1], kind, executor)


def test_lower_precision_is_used(kind: Kind, executor: Executor, golden: Golden) -> None:
    """A runtime that silently computes in float32 would pass as an accurate one of lower precision, and vice versa."""
    if executor.computes:
        error = parity.compare(compute(executor, golden[0], LOGITS)["logits"], golden[1]).logit_error
        assert (error > 1e-3) == (kind.precision != "float32")
