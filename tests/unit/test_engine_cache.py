"""The engine cache: which plans a platform can run, and the errors of the others."""

from __future__ import annotations

import hashlib
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.artifact.manifest import Artifact
from models.runtime import engine_cache
from models.runtime.engine_cache import PlanDamaged, PlanForeign, PlanMissing
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan, Platform

ONNX = "ab" * 32
ARTIFACT = Artifact(file="model.fp16.onnx", format="onnx", precision="float16", sha256=ONNX)
H100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(9, 0), "NVIDIA H100")
CONTENT = b"a plan"
BATCHES = (BatchRange(min=1, opt=8, max=32),)


def put(cache: Path, machine: Platform = H100, content: bytes = CONTENT, **more: Any) -> Path:
    return engine_cache.write(cache, Plan.of(content, ARTIFACT, machine, BATCHES, **more), content)


def find(cache: Path, machine: Platform = H100) -> bytes:
    return engine_cache.find(cache, ONNX, "float16", machine)[1]


def test_plan_is_stored_under_the_documented_path(tmp_path: Path) -> None:
    assert put(tmp_path) == tmp_path / ONNX / "float16-sm90-trt11.4.plan"
    plan, content = engine_cache.find(tmp_path, ONNX, "float16", H100)
    assert content == CONTENT
    assert (plan.built_for, plan.batches, plan.precision) == (H100, BATCHES, "float16")
    assert plan.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    "machine",
    [
        replace(H100, version="10.16.1.11"),
        replace(H100, version="11.4.0.107"),
        replace(H100, compute_capability=ComputeCapability(8, 0)),
        replace(H100, device="NVIDIA H200"),
        replace(H100, flavour="tensorrt_rtx"),
    ],
    ids=["an older version", "another patch", "another architecture", "another model of GPU", "another flavour"],
)
def test_foreign_plan_is_refused_and_both_platforms_named(machine: Platform, tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(PlanForeign) as caught:
        find(tmp_path, machine)
    message = str(caught.value)
    assert "built for TensorRT 11.4.0.106 and compute capability 9.0 (NVIDIA H100)" in message
    assert f"this machine has {machine}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("more", "version", "capability", "device", "fits"),
    [
        ({"version_compatible": True}, "11.5.0.1", (9, 0), "NVIDIA H100", True),
        ({"version_compatible": True}, "11.3.9.9", (9, 0), "NVIDIA H100", False),
        ({"version_compatible": True}, "12.0.0.1", (9, 0), "NVIDIA H100", False),
        ({"version_compatible": True}, "11.5.0.1", (8, 0), "NVIDIA A100", False),
        ({"hardware": "compute-capability"}, "11.4.0.106", (9, 0), "NVIDIA H200", True),
        ({"hardware": "compute-capability"}, "11.4.0.106", (8, 9), "NVIDIA L4", False),
        ({"hardware": "ampere+"}, "11.4.0.106", (12, 0), "NVIDIA RTX PRO 6000", True),
        ({"hardware": "ampere+"}, "11.4.0.106", (7, 5), "NVIDIA T4", False),
        ({"hardware": "ampere+"}, "11.5.0.1", (12, 0), "NVIDIA RTX PRO 6000", False),
    ],
)
def test_compatible_plans(
    more: dict[str, Any], version: str, capability: tuple[int, int], device: str, fits: bool, tmp_path: Path
) -> None:
    put(tmp_path, **more)
    machine = Platform("tensorrt", version, ComputeCapability(*capability), device)
    if fits:
        assert find(tmp_path, machine) == CONTENT
    else:
        with pytest.raises(PlanForeign):
            find(tmp_path, machine)


def test_plan_that_fits_is_found_among_others(tmp_path: Path) -> None:
    put(tmp_path, replace(H100, version="10.16.1.11"), b"older")
    put(tmp_path, replace(H100, compute_capability=ComputeCapability(8, 0)), b"foreign")
    put(tmp_path)
    assert find(tmp_path) == CONTENT


def test_missing_plan_is_reported(tmp_path: Path) -> None:
    put(tmp_path)
    for onnx, precision in (("cd" * 32, "float16"), (ONNX, "float32")):
        with pytest.raises(PlanMissing, match=rf"no engine in {precision} has been built for TensorRT 11\.4"):
            engine_cache.find(tmp_path, onnx, precision, H100)  # type: ignore[arg-type]
    with pytest.raises(PlanMissing):
        find(tmp_path / "no such folder")


def flip_a_bit(plan: Path) -> None:
    plan.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])


def truncate(plan: Path) -> None:
    plan.write_bytes(CONTENT[:-1])


def no_description(plan: Path) -> None:
    plan.with_suffix(".json").unlink()


def half_a_description(plan: Path) -> None:
    description = plan.with_suffix(".json")
    description.write_bytes(description.read_bytes()[:100])


def description_of_another(plan: Path) -> None:
    description = plan.with_suffix(".json")
    description.write_text(description.read_text().replace("float16", "float32"))


def a_folder(plan: Path) -> None:
    plan.unlink()
    plan.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flip_a_bit, "its content is not what was built"),
        (truncate, "its content is not what was built"),
        (no_description, "has no description beside it"),
        (half_a_description, "its description cannot be read: Invalid JSON"),
        (description_of_another, "its description is that of another engine"),
        (a_folder, "cannot be read: Is a directory"),
    ],
)
def test_damaged_plan_is_refused(spoil: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    spoil(put(tmp_path))
    with pytest.raises(PlanDamaged, match=rf"^float16-sm90-trt11\.4\.plan: {reason}[^\n]*$"):
        find(tmp_path)


def test_failed_write_keeps_the_old_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path, content=b"another plan")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / ONNX).iterdir()] == ["float16-sm90-trt11.4.plan"]
    with pytest.raises(PlanDamaged):
        find(tmp_path)


def test_plans_written_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    contents = [bytes([index]) * 100_000 for index in range(8)]
    threads = [threading.Thread(target=put, args=(tmp_path, H100, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert find(tmp_path) in contents
    assert len(list((tmp_path / ONNX).iterdir())) == 2


@pytest.mark.parametrize("text", ["9", "9.", "90", "0.9", "9.0.1", "sm90", "9.\u0660", ""])
def test_malformed_compute_capability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is written as 9\.0"):
        ComputeCapability.parse(text)
    assert ComputeCapability.parse("12.1") == (12, 1)


def test_default_folder_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(engine_cache.ENVIRONMENT, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in (
        ("/elsewhere", Path("/elsewhere")),
        ("relative", tmp_path / ".cache"),
        ("", tmp_path / ".cache"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert engine_cache.default_folder() == folder / "resnet-serve"


def no_user(number: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {number}")


def test_user_without_a_home_folder_has_the_folder_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (engine_cache.ENVIRONMENT, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    assert engine_cache.default_folder() == Path("/var/cache/resnet-serve")
    monkeypatch.setenv(engine_cache.ENVIRONMENT, "/elsewhere")
    assert engine_cache.default_folder() == Path("/elsewhere")


def test_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    engine_cache.require_writable(tmp_path / "new" / "cache")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/none")):
        with pytest.raises(engine_cache.EngineCacheError, match=rf"^{folder}: cannot be written: .*--cache or RESNET"):
            engine_cache.require_writable(folder)


def test_reading_the_cache_imports_no_runtime() -> None:
    code = (
        "import sys, models.runtime.tensorrt_runtime\n"
        "print(*[m for m in sys.modules if m.startswith(('torch', 'tensorrt', 'onnx'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
