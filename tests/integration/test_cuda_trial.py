"""CUDA engines are tried in a process of their own before a service loads them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.artifact import manifest
from models.runtime import cuda_driver
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.messages.model import ConfigProvenance
from service.registry.engines import trial
from service.registry.engines.trial import ensure_tried  # the fake GPU replaces it in its module
from service.registry.execution_config import ExecutionConfig
from tests.support import fake_gpu
from tests.support.fake_gpu import FakeGpu
from tests.support.gpu import why_not
from tests.support.onnx_engine import write_engine
from tests.support.service import serve
from tests.support.tiny import Eager, Photographs

CONFIG = ExecutionConfig(
    executor="cuda",
    precision="float16",
    provenance=ConfigProvenance(
        executor="set", precision="default rule", threads="default rule", max_batch="default rule", reason=""
    ),
)
COUNT = "import sys; open(sys.argv[1], 'a').write('x')"
HANG = "import threading; threading.Event().wait()"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def version(tiny_repository: Path, tmp_path: Path, gpu: FakeGpu) -> Path:
    """A version with an engine in the cache, which is `tmp_path`."""
    version = tiny_repository / "tiny" / "1"
    write_engine(tmp_path, version)
    return version


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Have trials succeed; returns a function that counts them."""
    counted = tmp_path / "attempts"
    monkeypatch.setattr(trial, "_command", lambda *_: [sys.executable, "-c", COUNT, str(counted)])
    return lambda: len(counted.read_text()) if counted.exists() else 0


def attempt(cache: Path, version: Path) -> None:
    ensure_tried(cache, version, manifest.read(version), CONFIG)


def test_engine_is_tried_once(version: Path, tmp_path: Path, attempts: Callable[[], int]) -> None:
    for _ in range(3):
        attempt(tmp_path, version)
    assert attempts() == 1


def test_another_driver_or_engine_is_tried(
    version: Path, tmp_path: Path, attempts: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(tmp_path, version)
    monkeypatch.setattr(cuda_driver, "version", lambda: "13.1")
    attempt(tmp_path, version)
    assert attempts() == 2
    (engine,) = tmp_path.glob("*/*.engine")
    engine.write_bytes(engine.read_bytes() + b"x")
    attempt(tmp_path, version)
    assert attempts() == 3


def test_read_only_cache_has_no_record(
    version: Path, tmp_path: Path, attempts: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(trial, "atomic_write", fail)
    attempt(tmp_path, version)
    attempt(tmp_path, version)
    assert attempts() == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('golden images differ')", "the engine failed: golden images differ"),
        ("import sys; sys.exit(3)", "the engine failed: exit code 3"),
        ("import os; os.abort()", "the engine failed: SIGABRT"),
        (HANG, r"the engine was not done after 0\.5 s"),
    ],
)
def test_failures_are_errors_each_time(
    code: str, message: str, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(trial, "_SECONDS", 0.5 if code == HANG else 60.0)
    for _ in range(2):
        with pytest.raises(ExecutorError, match=message):
            attempt(tmp_path, version)


@pytest.mark.slow
@pytest.mark.skipif(why_not() is None, reason="this machine has a GPU")
def test_other_process_loads_the_engine(version: Path, tmp_path: Path) -> None:
    """It has no fake GPU."""
    with pytest.raises(ExecutorError, match="the engine failed: cuda needs an NVIDIA GPU: no NVIDIA driver"):
        attempt(tmp_path, version)


def test_onnxruntime_serves_if_the_trial_fails(
    gpu: FakeGpu,
    version: Path,
    tiny_repository: Path,
    tmp_path: Path,
    photographs: Photographs,
    eager: Eager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "ensure_tried", ensure_tried)
    monkeypatch.setattr(trial, "_command", lambda *_: [sys.executable, "-c", "import os; os.abort()"])
    with serve(Settings(repository=tiny_repository, cache=tmp_path)) as client:
        served = client.get("/v1/models/tiny").json()
        assert served["executor"] == "onnxruntime-cuda"
        assert served["engine"]["state"] == "UNUSABLE"
        assert served["engine"]["reason"] == "tried in a process of its own, the engine failed: SIGABRT"
        answer = client.post("/v1/classify", content=photographs[0][1]).json()
        expected = float(eager(photographs[0][1]).max())
        assert answer["results"][0]["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-3)
    assert gpu.driver.launches == []
