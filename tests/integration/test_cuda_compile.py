"""Compiling CUDA engines without a GPU."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import EngineError, UnsupportedDevice, UnsupportedNetwork
from export.kernels import compile as compiler
from export.kernels import engines
from export.kernels.build import build, fusion, resources
from export.kernels.compile import NoTriton, require_triton
from export.kernels.packing.planner import draft
from export.kernels.reading.reader import read
from export.kernels.tiles import target
from models.artifact import manifest
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.cuda_engine import cache as cuda_cache
from models.runtime.cuda_engine.cubin import BadCubin, read_function
from models.runtime.cuda_engine.file import CudaEngine, decode, encode
from models.runtime.cuda_engine.plan import PARAMETER_BYTES
from models.runtime.engine_cache import PlanDamaged, PlanForeign, PlanMissing
from models.runtime.engine_plan import ComputeCapability
from tests.support import tiny
from tests.support.interpreter.process import AVAILABLE, WHY_NOT
from tests.support.kernel_networks import write_network
from tests.support.thorough import takes_minutes

VERSION = tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1"
QUICK = {("sm_90", "float16"), ("sm_80", "bfloat16"), ("sm_89", "int8")}
"""GPUs and precisions that the suite builds for; `python -m tests.acceptance.cuda_engine 2` builds all."""

needs_triton = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)


@pytest.fixture(scope="module")
def engine() -> CudaEngine:
    """An int8 engine for compute capability 9.0."""
    if not AVAILABLE:
        pytest.skip(WHY_NOT)
    return build(VERSION / "model.int8.onnx", "int8", "sm_90", (1, 8))


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "file", "precision"),
    [
        pytest.param(architecture, file, precision, marks=() if (architecture, precision) in QUICK else takes_minutes)
        for architecture in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
        for file, precision in (("model.onnx", "float16"), ("model.onnx", "bfloat16"), ("model.int8.onnx", "int8"))
    ],
)
def test_engines_are_built_for_each_gpu(architecture: str, file: str, precision: str) -> None:
    engine = build(VERSION / file, precision, architecture, (1, 8))  # type: ignore[arg-type]
    plan = engine.plan
    assert (plan.architecture, plan.precision, plan.batches) == (architecture, precision, (1, 8))
    assert plan.onnx_sha256 == manifest.sha256(VERSION / file)
    assert resources(plan).spilling == resources(plan).most_stack_bytes == 0
    report = fusion(plan)
    assert report.fused == report.residual_adds == 2
    assert decode(encode(engine)).plan == plan


def test_parameters_and_resources_are_those_of_nvidias_tool(engine: CudaEngine, tmp_path: Path) -> None:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for kernel in engine.plan.kernels:
        assert kernel.binary is not None
        path = tmp_path / "kernel.cubin"
        path.write_bytes(engine.cubin(kernel.binary.cubin))
        usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
        found = re.search(rf"Function {kernel.binary.function}:\s+REG:(\d+) STACK:(\d+)", usage)
        assert found is not None
        assert (kernel.binary.registers, kernel.binary.stack_bytes) == (int(found[1]), int(found[2]))
        dump = subprocess.run([tool, "-elf", path], capture_output=True, text=True, check=True).stdout
        sizes = {
            int(ordinal, 16): int(size, 16)
            for ordinal, size in re.findall(r"Ordinal : 0x(\w+)\s+Offset\s+: 0x\w+\s+Size\s+: 0x(\w+)", dump)
        }
        expected = [PARAMETER_BYTES[parameter.kind] for parameter in kernel.parameters]
        assert [sizes[place] for place in range(len(sizes))] == expected


@needs_triton
@pytest.mark.slow
def test_a_kernel_that_needs_more_shared_memory_than_its_gpu_has_is_refused() -> None:
    drafted = draft(read(VERSION / "model.onnx"), "float16", target("sm_86"), (8,), "0" * 64, "none")
    key = next(key for key in drafted.keys if key.source == "convolution_pointer")
    deep = dataclasses.replace(key, stages=20)
    needed = compiler.compile_kernel(deep, "sm_80").shared_bytes
    assert 99 * 1024 < needed < 163 * 1024
    with pytest.raises(EngineError, match=f"needs {needed} bytes of shared memory, and has 101376"):
        compiler.compile_kernel(deep, "sm_86")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_max_pool_loads_and_stores_16_bytes_at_once(precision: str, tmp_path: Path) -> None:
    import triton

    files = write_network("resnet18", tmp_path, size=33)
    drafted = draft(read(files.of(precision)), precision, target("sm_90"), (8,), "0" * 64, "none")  # type: ignore[arg-type]
    (key,) = [key for key in drafted.keys if key.source == "pool_windows"]
    path = tmp_path / "kernel.cubin"
    path.write_bytes(compiler.compile_kernel(key, "sm_90").cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    code = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"\bLDG\.\S+", code) == ["LDG.E.128"] * 9
    assert re.findall(r"\bSTG\.\S+", code) == ["STG.E.128"]


def test_tensor_maps_have_the_box_that_the_kernel_reads(engine: CudaEngine) -> None:
    program = engine.plan.programs[0]
    assert program.tensor_maps
    for tensor_map in program.tensor_maps:
        assert tensor_map.swizzle in (32, 64, 128)
        assert tensor_map.box[0] <= tensor_map.swizzle  # int8: a row of the box is within the swizzle


def test_damaged_cubins_are_refused(engine: CudaEngine) -> None:
    content = bytes(engine.cubin(0))
    name = next(each.binary.function for each in engine.plan.kernels if each.binary and each.binary.cubin == 0)
    assert read_function(content, name).parameters
    with pytest.raises(BadCubin, match="has no function other"):
        read_function(content, "other")
    for size in (0, 10, 63, 64, len(content) // 2):
        with pytest.raises(BadCubin):
            read_function(content[:size], name)


def test_cache_has_an_engine_per_kind_of_gpu(engine: CudaEngine, tmp_path: Path) -> None:
    path = cuda_cache.write(tmp_path, engine)
    sha256 = engine.plan.onnx_sha256
    assert path == tmp_path / sha256 / "int8-sm90-cuda2.engine"
    hopper, ampere = ComputeCapability(9, 0), ComputeCapability(8, 0)
    assert cuda_cache.find(tmp_path, sha256, "int8", hopper).plan == engine.plan
    with pytest.raises(PlanForeign, match=r"int8-sm90-cuda2\.engine: built for other GPUs, this one has 8\.0"):
        cuda_cache.find(tmp_path, sha256, "int8", ampere)
    with pytest.raises(PlanMissing, match="no CUDA engine in float16"):
        cuda_cache.find(tmp_path, sha256, "float16", hopper)
    path.rename(cuda_cache.engine_file(tmp_path, sha256, "int8", ampere))
    with pytest.raises(PlanDamaged, match="of another file, precision or GPU"):
        cuda_cache.find(tmp_path, sha256, "int8", ampere)
    path.write_bytes(encode(engine)[:-1])
    with pytest.raises(PlanDamaged, match="damaged"):
        cuda_cache.find(tmp_path, sha256, "int8", hopper)


@needs_triton
@pytest.mark.slow
def test_command_builds_keeps_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    cache = str(tmp_path / "cache")
    command = ["engines", str(VERSION), "--runtime", "cuda", "--compute-capability", "9.0", "--cache", cache]
    command.append("--no-measure")
    first = CliRunner().invoke(app, [*command, "--batches", "1,4"])
    assert first.exit_code == 0, first.output
    assert re.findall(
        r"^built: tiny version 1: \S+: (\S+), .* 2 of 2 residual additions fused", first.output, re.M
    ) == [
        "float16-sm90-cuda2.engine",
        "int8-sm90-cuda2.engine",
    ]
    again = CliRunner().invoke(app, [*command, "--batches", "4,1"])
    assert again.output.count("kept: ") == 2
    other = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert other.output.startswith("built: ") and other.output.count("\n") == 1
    shown = CliRunner().invoke(app, ["inspect", str(VERSION), "--cache", cache, "--kernels"])
    assert "int8-sm90-cuda2.engine for sm_90, batches 1, 8, 64: 2 of 2 residual additions fused" in shown.output
    assert "convolution_tma" in shown.output


@needs_triton
@pytest.mark.parametrize(
    ("error", "result", "code"),
    [(UnsupportedNetwork("a dilation"), "skipped", 0), (EngineError("no memory"), "failed", 2)],
)
def test_network_without_kernels_is_skipped_and_a_failed_build_fails(
    error: EngineError, result: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(engines, "build", refuse)
    command = ["engines", str(VERSION), "--runtime", "cuda", "--compute-capability", "8.9", "--cache", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert done.output == f"{result}: tiny version 1: model.int8.onnx: {error}\n"
    assert done.exit_code == code


@needs_triton
def test_float32_stays_with_other_runtimes(tmp_path: Path) -> None:
    command = ["engines", str(VERSION), "--runtime", "cuda", "--compute-capability", "8.9", "--cache", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--precision", "float32"])
    assert done.output.startswith("skipped: ") and "not in float32" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_gpu_is_told_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> list[Device]:
        raise NoDevice("no NVIDIA driver")

    monkeypatch.setattr(cuda_driver, "devices", no_driver)
    done = CliRunner().invoke(app, ["engines", str(VERSION), "--runtime", "cuda", "--cache", str(tmp_path)])
    assert done.exit_code != 0
    assert "--compute-capability builds for a GPU of another machine" in " ".join(done.output.split())


@pytest.mark.parametrize("text", ["1-8", "0", "", "1,,2", "12345678", "one"])
def test_batch_sizes_are_plain_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="written as 1,8,64"):
        engines.parse_batches(text)
    assert engines.parse_batches("64,1,8,8") == (1, 8, 64)


@needs_triton
def test_other_gpus_are_refused_by_name(tmp_path: Path) -> None:
    command = ["engines", str(VERSION), "--runtime", "cuda", "--cache", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--compute-capability", "7.5"])
    assert done.exit_code != 0
    assert "there are no kernels for sm_75" in done.output
    with pytest.raises(UnsupportedDevice):
        build(VERSION / "model.onnx", "float16", "sm_103")


def test_another_version_of_the_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "TRITON", "0.0.1")
    with pytest.raises(NoTriton, match=r"compiling the CUDA engine needs the package triton 0\.0\.1:"):
        require_triton()


def test_version_of_the_compiler_is_the_one_of_the_extra() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.findall(r'"triton==([\d.]+)', text) == [compiler.TRITON]
