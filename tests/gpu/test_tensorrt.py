"""Engines of TensorRT, by modules with the recorded names of two versions, and of the real TensorRT for RTX."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from export import engines
from export.__main__ import app
from export.errors import BadProfile, EngineError, UnreadableModel, UnsupportedDevice, UnsupportedOperator
from export.formats import onnx as onnx_format
from export.formats import tensorrt
from export.formats.tensorrt import BuildOptions
from models.artifact import manifest
from models.progress import Phases
from models.runtime import cuda_driver, engine_cache, tensorrt_runtime
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.engine_plan import BatchRange, ComputeCapability, Hardware, Platform
from service.core.settings import shipped_repository
from tests.support import fake_tensorrt, recorded
from tests.support.tensorrt_names import ABSENT

NAME = "fashion-mnist-resnet20"
ADDS = 9
IMAGE = [28, 28, 1]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def version() -> Path:
    """The shipped ResNet-20, which has every kind of artifact."""
    return shipped_repository() / NAME / "1"


@pytest.fixture(params=recorded.VERSIONS)
def trt(request: pytest.FixtureRequest) -> ModuleType:
    """`tensorrt` of each recorded version."""
    return fake_tensorrt.module(request.param)


@pytest.fixture
def rtx() -> ModuleType:
    module: ModuleType = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    return module


def told(engine: tensorrt.BuiltEngine) -> dict[str, Any]:
    """The arguments that the fake got."""
    content: dict[str, Any] = json.loads(engine.content)
    return content


def test_network_is_strongly_typed_with_one_profile_per_range(trt: ModuleType, version: Path) -> None:
    ranges = (BatchRange(min=1, opt=1, max=1), BatchRange(min=2, opt=8, max=16))
    built = told(tensorrt.build(trt, version / "model.fp16.onnx", BuildOptions(ranges)))
    assert built["strongly_typed"]
    assert built["flags"] == []  # TF32 is on unless it is cleared
    assert (built["hardware"], built["verbosity"]) == ("NONE", "DETAILED")
    assert built["profiles"] == [
        {"images": [[1, *IMAGE], [1, *IMAGE], [1, *IMAGE]]},
        {"images": [[2, *IMAGE], [8, *IMAGE], [16, *IMAGE]]},
    ]


@pytest.mark.parametrize(
    ("hardware", "level"), [("compute-capability", "SAME_COMPUTE_CAPABILITY"), ("ampere+", "AMPERE_PLUS")]
)
def test_compatible_engines(hardware: Hardware, level: str, trt: ModuleType, version: Path) -> None:
    options = BuildOptions(version_compatible=True, hardware=hardware)
    built = told(tensorrt.build(trt, version / "model.onnx", options))
    assert (built["flags"], built["hardware"]) == (["VERSION_COMPATIBLE"], level)


def test_unsupported_compatibility_is_refused(trt: ModuleType, version: Path) -> None:
    del trt.HardwareCompatibilityLevel.AMPERE_PLUS
    with pytest.raises(EngineError, match=r"TensorRT 1[01]\..* has no engines that are compatible by ampere\+"):
        tensorrt.build(trt, version / "model.onnx", BuildOptions(hardware="ampere+"))


def test_times_of_kernels_are_kept(trt: ModuleType, version: Path, tmp_path: Path) -> None:
    timing = tmp_path / "timing.bin"
    found = []
    for content in (None, None, b"of another version"):
        if content is not None:
            timing.write_bytes(content)
        found.append(told(tensorrt.build(trt, version / "model.onnx", timing=timing))["timings"])
        assert timing.read_bytes() == b"timed"
    assert found == ["", "timed", ""]


def test_progress_is_reported(trt: ModuleType, version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[object, ...]] = []
    for name in ("start", "update", "finish"):
        monkeypatch.setattr(Phases, name, lambda self, *arguments, name=name: lines.append((name, *arguments)))
    tensorrt.build(trt, version / "model.onnx")
    assert lines == [
        ("start", "Building", 2),
        ("update", "Building", 1),
        ("update", "Building", 2),
        ("finish", "Building"),
    ]
    del trt.IProgressMonitor
    tensorrt.build(trt, version / "model.onnx")
    assert len(lines) == 4


def test_ctrl_c_ends_a_build(trt: ModuleType, rtx: ModuleType, version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def press(self: Phases, phase: str, completed: int) -> None:
        updates.append(phase)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Phases, "update", press)
    for module in (trt, rtx):
        updates.clear()
        with pytest.raises(KeyboardInterrupt):
            tensorrt.build(module, version / "model.onnx")
        assert len(updates) < 10  # of hundreds
    assert signal.getsignal(signal.SIGINT) is before


def test_inspector_reports_fused_additions(trt: ModuleType, version: Path) -> None:
    engine = tensorrt.build(trt, version / "model.onnx")
    report = engines._fusion(trt, engine, version / "model.onnx", rtx=False)
    assert report is not None
    assert (report.residual_adds, report.fused) == (ADDS, ADDS)
    with pytest.raises(EngineError, match=r"cannot be loaded: Version tag does not match\."):
        tensorrt.inspect(trt, tensorrt.BuiltEngine(b"{}", ""))


def test_failed_builder_is_reported(trt: ModuleType, version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bindings' error for a null pointer, with TensorRT's message for a GPU that is too old."""

    def null(self: object, logger: Any) -> None:
        logger.log(trt.ILogger.ERROR, "Target GPU SM 61 is not supported by this TensorRT release.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Builder, "__init__", null)
    with pytest.raises(UnsupportedDevice, match="SM 61 is not supported"):
        tensorrt.build(trt, version / "model.onnx")


SOURCE = inspect.getsource(tensorrt)


@pytest.mark.parametrize(("name", "number", "there", "instead"), ABSENT, ids=[name for name, *_ in ABSENT])
def test_missing_name_of_the_api_is_detected(name: str, number: str, there: str, instead: str, version: Path) -> None:
    """The same builder with a name of one version only."""
    assert SOURCE.count(there) == 1
    changed = ModuleType(tensorrt.__name__)
    exec(compile(SOURCE.replace(there, instead), "changed.py", "exec"), changed.__dict__)
    trt = fake_tensorrt.module(number)
    with pytest.raises(AttributeError, match=rf"\b{name}\b"):
        changed.inspect(trt, changed.build(trt, version / "model.onnx"))


def written_names(source: str) -> set[tuple[str, ...]]:
    """Every `trt.A` and `trt.A.B` in a source, run or not."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        public = [name for name in names[:2] if not name.startswith("_")]
        if public and isinstance(node, ast.Name) and node.id == "trt":
            found.add(tuple(public))
    return found


@pytest.mark.parametrize("number", recorded.VERSIONS)
def test_used_names_exist_in_both_versions(number: str) -> None:
    there = recorded.names(number)
    used = {
        names
        for package in ("export", "models", "service")
        for file in (ROOT / package).rglob("*.py")
        for names in written_names(file.read_text(encoding="utf-8"))
    }
    assert {("Builder",), ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")} <= used
    missing = {names for names in used if names[0] not in there or not set(names[1:]) <= set(there[names[0]])}
    # Only TensorRT for RTX builds for GPUs of other machines; hasattr of the configuration tells whether it can.
    assert missing == {("ComputeCapability",)}


def test_tensorrt_for_rtx_builds_for_gpus_of_other_machines(rtx: ModuleType, version: Path) -> None:
    for file in ("model.onnx", "model.fp16.onnx"):
        engine = tensorrt.build(rtx, version / file, compute_capability=ComputeCapability(8, 9))
        report = engines._fusion(rtx, engine, version / file, rtx=True)
        assert report is not None
        assert (report.residual_adds, report.fused, report.unfused) == (ADDS, ADDS, ())
        assert len(engine.content) > 500_000  # 0.27 million weights


def test_tensorrt_for_rtx_reports_progress(rtx: ModuleType, version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    steps: dict[str, int] = {}
    for name, function in {
        "start": lambda self, phase, count: started.append(phase),
        "update": lambda self, phase, done: steps.update({phase: done}),
        "finish": lambda self, phase: None,
    }.items():
        monkeypatch.setattr(Phases, name, function)
    tensorrt.build(rtx, version / "model.onnx")
    assert "Building engine" in started
    assert steps["Building engine"] > 1


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing(path: Path) -> None:
    path.unlink()


def edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        onnx_format.save(model, path)

    return spoil


def relu(model: onnx.ModelProto) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type == "Relu")
    return found


def unknown_operator(model: onnx.ModelProto) -> None:
    relu(model).op_type = "Frobnicate"


def foreign_operator(model: onnx.ModelProto) -> None:
    relu(model).op_type, relu(model).domain = "FusedConv", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def dangling(model: onnx.ModelProto) -> None:
    relu(model).input[0] = "nothing"


def without_probabilities(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


SPOILT = [
    (garbage, UnreadableModel, "Failed to parse the ONNX model"),
    (empty, UnreadableModel, r"takes \[\]"),
    (truncated, UnreadableModel, "Failed to parse the ONNX model"),
    (missing, UnreadableModel, "cannot be found"),
    (edited(dangling), UnreadableModel, "not registered"),
    (edited(without_probabilities), UnreadableModel, r"gives \['logits', 'embedding', 'feature_map'\]"),
    (edited(unknown_operator), UnsupportedOperator, r"the node .* \(Frobnicate\)"),
    (edited(foreign_operator), UnsupportedOperator, r"the node .* \(FusedConv\)"),
]


@pytest.mark.parametrize(("spoil", "kind", "reason"), SPOILT)
def test_files_that_tensorrt_for_rtx_refuses(
    spoil: Callable[[Path], None], kind: type[EngineError], reason: str, rtx: ModuleType, version: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(version / "model.onnx", tmp_path))
    spoil(path)
    with pytest.raises(kind, match=rf"^[^\n]*{reason}[^\n]*$"):
        tensorrt.build(rtx, path)


def test_unsigned_quantisation_is_refused(rtx: ModuleType, version: Path) -> None:
    with pytest.raises(UnsupportedOperator, match="QuantizeLinear"):
        tensorrt.build(rtx, version / "model.int8-ort.onnx")


@pytest.mark.parametrize("sizes", [(8, 4, 2), (1, 8, 4), (4, 2, 8)])
def test_bad_profiles(sizes: tuple[int, int, int], trt: ModuleType, rtx: ModuleType, version: Path) -> None:
    smallest, best, largest = sizes
    options = BuildOptions((BatchRange(min=smallest, opt=best, max=largest),))
    for module in (trt, rtx):
        with pytest.raises(BadProfile, match=rf"batches of {smallest} to {largest}, best at {best}: .*MIN<=OPT<=MAX"):
            tensorrt.build(module, version / "model.onnx", options)


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((9, 0), r"not build for compute capability 9\.0, only for 7\.5, 8\.0"), ((7, 5), "SM75.*not supported")],
    ids=["Hopper", "Turing has no float32 GEMM"],
)
def test_unsupported_gpu_of_tensorrt_for_rtx_is_refused(
    capability: tuple[int, int], reason: str, rtx: ModuleType, version: Path
) -> None:
    with pytest.raises(UnsupportedDevice, match=reason):
        tensorrt.build(rtx, version / "model.onnx", compute_capability=ComputeCapability(*capability))


def test_tensorrt_for_rtx_has_no_compatible_engines(rtx: ModuleType, version: Path) -> None:
    for options in (BuildOptions(version_compatible=True), BuildOptions(hardware="ampere+")):
        with pytest.raises(EngineError, match="leave the option out"):
            tensorrt.build(rtx, version / "model.onnx", options)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of `resnet-export engines`."""
    done = CliRunner().invoke(app, ["engines", *map(str, arguments)])
    return done.exit_code, done.output


def test_command_builds_artifacts_that_tensorrt_for_rtx_supports(
    rtx: ModuleType, version: Path, tmp_path: Path
) -> None:
    arguments = (version.parent.parent, "--cache", tmp_path, "--compute-capability", "8.9")
    code, output = run(*arguments)
    results = re.findall(rf"^(\w+): {NAME} version 1: (\S+): (.*)$", output, re.MULTILINE)
    assert code == 0
    assert [(result, file) for result, file, _ in results] == [
        ("built", "model.onnx"),
        ("built", "model.fp16.onnx"),
        ("skipped", "model.int8-ort.onnx"),
        ("skipped", "model.int8.onnx"),
    ]
    assert all("9 of 9 residual additions fused" in text for result, _, text in results if result == "built")
    assert "for another runtime" in results[2][2]
    assert "no convolutions in int8" in results[3][2]
    here = Platform("tensorrt_rtx", rtx.__version__, ComputeCapability(8, 9), "NVIDIA L4")
    for artifact in manifest.read(version).artifacts[:2]:
        plan, _ = engine_cache.find(tmp_path, artifact.sha256, artifact.precision, here)
        assert plan.fusion is not None
        assert (plan.fusion.fused, plan.batches) == (ADDS, tensorrt.DEFAULT_BATCHES)
    assert run(*arguments)[1].count("exists already") == 2
    assert run(*arguments, "--again")[1].count("built: ") == 2


def test_command_builds_for_the_gpu_of_this_machine(
    trt: ModuleType, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Device("NVIDIA H100", ComputeCapability(9, 0)), Device("NVIDIA L4", ComputeCapability(8, 9))]
    monkeypatch.setattr(cuda_driver, "devices", lambda: gpus)
    monkeypatch.setattr(tensorrt_runtime, "load", lambda flavour: trt)
    code, output = run(version, "--cache", tmp_path, "--version-compatible", "--batches", "1,2-16")
    assert code == 0
    assert output.count("built: ") == 3
    assert "skipped: NVIDIA L4" in output
    h100 = Platform("tensorrt", trt.__version__, ComputeCapability(9, 0), "NVIDIA H100")
    for artifact in manifest.read(version).artifacts:
        if artifact.format == "onnx":
            plan, content = engine_cache.find(tmp_path, artifact.sha256, artifact.precision, h100)
            assert (plan.version_compatible, plan.hardware) == (True, "device")
            assert json.loads(content)["flags"] == ["VERSION_COMPATIBLE"]
            assert [(batch.min, batch.opt, batch.max) for batch in plan.batches] == [(1, 1, 1), (2, 16, 16)]
    assert engine_cache.timing_file(tmp_path, h100).read_bytes() == b"timed"


def test_command_reports_why_it_builds_no_engine(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device() -> list[Device]:
        raise NoDevice("no NVIDIA driver")

    monkeypatch.setattr(cuda_driver, "devices", no_device)
    fixed = (version, "--cache", tmp_path / "cache")
    for arguments, reason in (
        ((), "no NVIDIA driver: --compute-capability builds for a GPU of another machine"),
        (("--compute-capability", "8.9", "--runtime", "tensorrt"), "only for the GPUs of this machine"),
        (("--batches", "8-"), "batches are written as 1,2-8,9-32, not '8-'"),
        (("--batches", "0"), "batches are written as"),
    ):
        code, output = run(*fixed, *arguments)
        assert (code, reason in output) == (2, True), output
    assert not (tmp_path / "cache").exists()
    code, output = run(tmp_path)
    output = " ".join(output.split())
    assert (code, "holds no exported model" in output) == (2, True)


def test_command_refuses_an_altered_file(
    trt: ModuleType, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(version, tmp_path / NAME / "1"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(cuda_driver, "devices", lambda: [Device("NVIDIA H100", ComputeCapability(9, 0))])
    monkeypatch.setattr(tensorrt_runtime, "load", lambda flavour: trt)
    code, output = run(copy, "--cache", tmp_path / "cache")
    assert code == 2
    assert re.search(r"^failed: .*model\.onnx: its content is not what the manifest describes", output, re.MULTILINE)
    assert output.count("built: ") == 2


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")
def test_engines_are_built_without_torch(version: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from export.__main__ import app; "
        f"app(['engines', {str(version)!r}, '--cache', {str(tmp_path)!r}, '--compute-capability', '8.9'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("built: ") == 2
