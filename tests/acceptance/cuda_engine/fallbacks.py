"""Line 5: engines that are damaged, or of another GPU, driver or version, in a service on a fake GPU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.artifact import golden, manifest
from models.artifact.manifest import Precision
from service.core.settings import Settings
from tests.acceptance.suites import pytest_counts
from tests.support import fake_gpu, tiny
from tests.support.fake_gpu import FakeGpu
from tests.support.onnx_engine import functions, write_engine
from tests.support.service import serve

Spoil = Callable[[FakeGpu, Path, Path], None]
"""Puts an engine into a cache that must not serve; gets the GPU, the version and the cache."""


def check() -> tuple[bool, str]:
    """Serve a version with each of the engines: one line, ONNX Runtime, right answers. Then the tests."""
    served = [_serve(name, spoil) for name, spoil in CASES.items()]
    passed, counts = pytest_counts("tests/integration/test_cuda_fallback.py", "tests/gpu/test_cuda_executor.py")
    holds = all(served) and passed
    return holds, f"{sum(served)} of {len(served)} engines replaced with one line and right answers; tests: {counts}"


def _serve(name: str, spoil: Spoil) -> bool:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        gpu = fake_gpu.install(patch)
        cache = Path(folder) / "cache"
        repository = tiny.copy_repository(Path(folder) / "repository", PRECISIONS)
        version = repository / "tiny" / "1"
        spoil(gpu, version, cache)
        lines = _Lines()
        logging.getLogger().addHandler(lines)
        try:
            with serve(Settings(repository=repository, cache=cache)) as client:
                model = client.get("/v1/models/tiny").json()
                images, logits = golden.read(version / manifest.GOLDEN_FILE)
                tensor = {"name": "images", "shape": [1, *images[0].shape], "datatype": "UINT8"}
                tensor["data"] = images[0].ravel().tolist()
                body = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
                answer = client.post("/v2/models/tiny/infer", json=body).json()
        finally:
            logging.getLogger().removeHandler(lines)
        found = [float(value) for value in answer["outputs"][0]["data"]]
        error = max(abs(value - float(right)) for value, right in zip(found, logits[0], strict=True))
        said = [line for line in lines.found if "no CUDA engine:" in line]
        print(f"  {name}: {model['executor']}, largest error {error:.1e}; {said}", flush=True)
        return len(said) == 1 and model["executor"] == "onnxruntime-cuda" and error < 1e-3


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def _damaged(gpu: FakeGpu, version: Path, cache: Path) -> None:
    path = write_engine(cache, version)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _other_gpu(gpu: FakeGpu, version: Path, cache: Path) -> None:
    write_engine(cache, version, architecture="sm_80")


def _other_driver(gpu: FakeGpu, version: Path, cache: Path) -> None:
    write_engine(cache, version, cuda=gpu.driver.cuda + 1000)


def _other_format(gpu: FakeGpu, version: Path, cache: Path) -> None:
    path = write_engine(cache, version)
    content = bytearray(path.read_bytes())
    content[8] += 1
    path.write_bytes(content)


def _wrong(gpu: FakeGpu, version: Path, cache: Path) -> None:
    write_engine(cache, version)

    def network(launched: Any) -> None:
        """Leave the outputs as they are."""

    gpu.driver.functions.update(functions(network=network))


PRECISIONS: tuple[Precision, ...] = ("float32",)

CASES: dict[str, Spoil] = {
    "damaged": _damaged,
    "of another GPU": _other_gpu,
    "for a newer driver": _other_driver,
    "of another version of the format": _other_format,
    "with wrong answers": _wrong,
}
