"""Configurations of CUDA engines, measured on a fake GPU: the fastest right one is built, and stored."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.kernels.build import build
from export.kernels.compile import COMPILER
from export.kernels.measuring.candidates import MAX_CANDIDATES, candidates
from export.kernels.measuring.measuring import Measuring
from export.kernels.measuring.timing import REPEATS, ROUNDS
from export.kernels.tiles import Problem, ProblemKey, fits, load_bytes, select_tile, shared_bytes, target
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.cuda_engine.cache import tiles_file
from models.runtime.cuda_engine.file import CudaEngine, decode, encode
from models.runtime.cuda_engine.plan import Kernel, Precision
from models.runtime.engine_plan import ComputeCapability
from tests.support import fake_gpu, tiny
from tests.support.fake_compiler import Configuration, FakeCompiler
from tests.support.fake_gpu import CAPABILITY, FakeGpu

VERSION = tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1"
FILES: dict[Precision, str] = {"float16": "model.onnx", "bfloat16": "model.onnx", "int8": "model.int8.onnx"}
BATCHES = (1, 8)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def compiler(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler(gpu)
    fake.install(monkeypatch)
    return fake


def build_tiny(cache: Path, precision: Precision = "int8", enabled: bool = True) -> CudaEngine:
    return build(VERSION / FILES[precision], precision, "sm_90", BATCHES, Measuring(cache, enabled))


def convolutions(engine: CudaEngine) -> list[tuple[int, Kernel, Any]]:
    """Batch size, kernel and origin of each convolution."""
    return [
        (program.batch, engine.plan.kernels[launch.kernel], launch.tile_origin)
        for program in engine.plan.programs
        for launch in program.launches
        if engine.plan.kernels[launch.kernel].source.startswith("convolution")
    ]


def configurations(engine: CudaEngine) -> list[Configuration]:
    return [Configuration.of(kernel) for _, kernel, _ in convolutions(engine)]


def origins(engine: CudaEngine) -> set[str]:
    return {made.origin for _, _, made in convolutions(engine)}


def test_candidates_begin_with_what_is_used_without_a_measurement() -> None:
    seen = 0
    for architecture in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"):
        wanted = target(architecture)
        for precision in ("int8", "float16"):
            for out, span in ((32, 32), (96, 96), (512, 2048)):
                for rows in (49, 3136, 200_704):
                    for stride, pixels, grouped in ((1, False, False), (2, False, False), (2, True, False)):
                        key = ProblemKey(precision, 3, stride, span, out, 14, False, 8)
                        problem = Problem(key, rows, span, 9, grouped, pixels)
                        tiles = candidates(problem, wanted)
                        assert tiles[0] == select_tile(problem, wanted).tile
                        assert 3 < len(tiles) == len(set(tiles)) <= MAX_CANDIDATES
                        assert all(fits(tile, problem, wanted) for tile in tiles)
                        assert all(load_bytes(tile, problem) <= shared_bytes(wanted) for tile in tiles)
                        assert any(tile.tensor_maps for tile in tiles) == (architecture == "sm_90" and stride == 1)
                        blocks = {(tile.rows, tile.columns) for tile in tiles}
                        assert len(blocks) >= 4 or blocks >= {(128, 32), (64, 32), (32, 32)}
                        seen += 1
    assert seen == 6 * 2 * 3 * 3 * 3


def test_grouped_convolution_has_one_candidate() -> None:
    problem = Problem(ProblemKey("float16", 3, 1, 128, 128, 14, False, 8), 1568, 128, 9, grouped=True, pixels=False)
    assert candidates(problem, target("sm_90")) == (select_tile(problem, target("sm_90")).tile,)


@pytest.mark.parametrize("precision", FILES)
def test_fastest_candidate_is_built(compiler: FakeCompiler, tmp_path: Path, precision: Precision) -> None:
    """The time of a launch depends on its configuration alone, so the fastest one of each shape is known."""
    compiler.milliseconds = lambda each, _: 0.001 * (1000 - each.rows + 10 * each.stages + each.warps)
    before = build(VERSION / FILES[precision], precision, "sm_90", BATCHES)
    engine = build_tiny(tmp_path, precision)
    assert origins(before) <= {"table", "rule"} and origins(engine) == {"measured"}
    for used, usual, (_, _, made) in zip(
        configurations(engine), configurations(before), convolutions(engine), strict=True
    ):
        assert compiler.milliseconds(used, 1) <= compiler.milliseconds(usual, 1)
        assert made.microseconds == pytest.approx(1000 * compiler.milliseconds(used, 1), abs=1e-3)
    assert configurations(engine) != configurations(before)
    assert decode(encode(engine)).plan == engine.plan


def test_each_batch_size_has_its_own_fastest_candidate(compiler: FakeCompiler, tmp_path: Path) -> None:
    """A launch is the faster the nearer its number of blocks is to four."""
    compiler.milliseconds = lambda each, blocks: 1.0 + abs(blocks - 4)
    engine = build_tiny(tmp_path)
    of_one, of_eight = (
        [int(str(kernel.constants["BM"])) for size, kernel, _ in convolutions(engine) if size == batch]
        for batch in BATCHES
    )
    assert all(one <= eight for one, eight in zip(of_one, of_eight, strict=True)) and of_one != of_eight
    stored = json.loads(tiles_file(tmp_path, CAPABILITY).read_text())["tiles"]["sm_90"]
    assert Counter(row["batch"] for row in stored) == {1: len(stored) / 2, 8: len(stored) / 2}


def test_first_candidate_wins_a_tie(compiler: FakeCompiler, tmp_path: Path) -> None:
    before = build(VERSION / FILES["int8"], "int8", "sm_90", BATCHES)
    assert configurations(build_tiny(tmp_path)) == configurations(before)


def test_candidates_are_launched_as_documented(compiler: FakeCompiler, tmp_path: Path) -> None:
    """Each runs once for its output, and in one graph more than there are rounds, for its time."""
    build_tiny(tmp_path)
    counts = Counter(compiler.launched)
    turns = 1 + REPEATS * (ROUNDS + 1)
    assert counts and all(count % turns == 0 for count in counts.values())


def test_wrong_candidate_is_discarded(
    compiler: FakeCompiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In int8 all bytes must be equal: the fastest kernel is one step off."""
    usual = set(configurations(build(VERSION / FILES["int8"], "int8", "sm_90", BATCHES)))
    compiler.milliseconds = lambda each, _: 1.0 if each in usual else 0.5
    assert set(configurations(build_tiny(tmp_path / "right"))) != usual
    assert capsys.readouterr().err == ""
    compiler.steps_off = lambda each: int(each not in usual)
    assert set(configurations(build_tiny(tmp_path / "wrong"))) == usual
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("left out, because its output is wrong: int8, ") for line in lines)


def test_candidate_that_writes_nothing_is_discarded(compiler: FakeCompiler, tmp_path: Path) -> None:
    """The values of the candidate before it are not there any more."""
    usual = set(configurations(build(VERSION / FILES["int8"], "int8", "sm_90", BATCHES)))
    compiler.milliseconds = lambda each, _: 1.0 if each in usual else 0.5
    compiler.is_idle = lambda each: each not in usual
    assert set(configurations(build_tiny(tmp_path))) == usual


@pytest.mark.parametrize(("steps", "accepted"), [(2, True), (40, False)])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_sums_in_half_precision_may_differ_by_rounding(
    compiler: FakeCompiler, tmp_path: Path, precision: Precision, steps: int, accepted: bool
) -> None:
    usual = set(configurations(build(VERSION / FILES[precision], precision, "sm_90", BATCHES)))
    compiler.milliseconds = lambda each, _: 1.0 if each in usual else 0.5
    compiler.steps_off = lambda each: 0 if each in usual else steps
    assert (set(configurations(build_tiny(tmp_path, precision))) != usual) == accepted


def test_candidates_that_cannot_be_compiled_are_left_out(
    compiler: FakeCompiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed."""
    compiler.milliseconds = lambda each, _: float(each.stages)
    compiler.is_refused = lambda each: each.source == "convolution_pointer" and each.stages == 2
    refused = build_tiny(tmp_path)
    assert not any(compiler.is_refused(each) for each in compiler.launched)
    assert origins(refused) == {"measured"}
    assert capsys.readouterr().err == ""


def test_stored_choices_are_used_by_the_next_build(compiler: FakeCompiler, tmp_path: Path) -> None:
    compiler.milliseconds = lambda each, _: 1.0 / each.rows
    first = build_tiny(tmp_path)
    compiler.launched.clear()
    compiler.compiled.clear()
    compiler.milliseconds = lambda each, _: float(each.rows)
    for enabled in (True, False):
        again = build_tiny(tmp_path, enabled=enabled)
        assert configurations(again) == configurations(first) and origins(again) == {"measured"}
        assert [made for _, _, made in convolutions(again)] == [
            made.model_copy(update={"microseconds": pytest.approx(made.microseconds, abs=1e-3)})
            for _, _, made in convolutions(first)
        ]
    assert compiler.launched == []
    assert len(compiler.compiled) == 2 * len(first.plan.kernels)
    build_tiny(tmp_path, "float16")  # has other convolutions, whose choices are added
    assert compiler.launched
    rows = json.loads(tiles_file(tmp_path, CAPABILITY).read_text())["tiles"]["sm_90"]
    assert {row["precision"] for row in rows} == {"int8", "float16"}


def damage(content: dict[str, Any], damaged: str) -> str:
    row = content["tiles"]["sm_90"][0]
    if damaged == "another block":
        row["rows"] = 100
    elif damaged == "another compiler":
        content["compiler"] = "triton 1.0.0"
    elif damaged == "another architecture":
        content["tiles"] = {"sm_80": content["tiles"]["sm_90"]}
    elif damaged == "another format":
        content["format"] = 2
    text = json.dumps(content)
    return text[:-40] if damaged == "cut" else text


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("cut", "damaged: Invalid JSON"),
        ("another block", "damaged: tiles.sm_90.0.rows: "),
        ("another compiler", "is for sm_90 with triton 1.0.0, not for sm_90 with triton"),
        ("another architecture", "is for sm_80 with triton"),
        ("another format", "damaged: format: "),
    ],
)
def test_unusable_stored_choices_are_measured_again(
    compiler: FakeCompiler, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str, reason: str
) -> None:
    build_tiny(tmp_path)
    path = tiles_file(tmp_path, CAPABILITY)
    content = path.read_bytes()
    path.write_text(damage(json.loads(content), damaged))
    compiler.launched.clear()
    assert origins(build_tiny(tmp_path)) == {"measured"}
    assert compiler.launched and path.read_bytes() == content
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tiles-sm90-cuda2.json: {reason}")


def test_stored_choices_that_do_not_fit_a_shape_are_not_used(compiler: FakeCompiler, tmp_path: Path) -> None:
    build_tiny(tmp_path)
    path = tiles_file(tmp_path, CAPABILITY)
    content = json.loads(path.read_text())
    for row in content["tiles"]["sm_90"]:
        row["columns"] = 256  # no network of the tests has so many channels
    path.write_text(json.dumps(content))
    assert origins(build_tiny(tmp_path)) <= {"table", "rule"}


def no_driver() -> list[Device]:
    raise NoDevice("no NVIDIA driver")


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (no_driver, "no NVIDIA driver"),
        (
            lambda: [Device("Other GPU", ComputeCapability(8, 6))],
            r"this machine has no GPU of compute capability 9\.0, only Other GPU \(8\.6\)",
        ),
    ],
    ids=["no GPU", "another GPU"],
)
def test_without_the_gpu_the_table_chooses(
    compiler: FakeCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    devices: Any,
    reason: str,
) -> None:
    before = build(VERSION / FILES["int8"], "int8", "sm_90", BATCHES)
    monkeypatch.setattr(cuda_driver, "devices", devices)
    assert build_tiny(tmp_path).plan == before.plan
    assert compiler.launched == [] and list(tmp_path.iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"configurations are not measured: {reason}: the table and its rule choose them", line)


def test_second_gpu_is_used_if_it_is_the_one_to_build_for(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.gpu.cuda.devices = 2
    compiler.gpu.cuda.lost.add(0)
    devices = [Device("Other GPU", ComputeCapability(8, 6)), Device("Fake GPU", CAPABILITY)]
    monkeypatch.setattr(cuda_driver, "devices", lambda: devices)
    assert origins(build_tiny(tmp_path)) == {"measured"}


def test_measuring_can_be_skipped(compiler: FakeCompiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert origins(build_tiny(tmp_path, enabled=False)) <= {"table", "rule"}
    assert compiler.launched == [] and capsys.readouterr().err == ""


def test_failure_of_the_gpu_ends_measuring(
    compiler: FakeCompiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine is built with the table, nothing is stored, and the GPU is not used again."""
    before = {each: build(VERSION / FILES[each], each, "sm_90", BATCHES).plan for each in FILES}

    def lose(configuration: Configuration) -> None:
        if len(compiler.launched) > 3:
            compiler.gpu.cuda.lost.add(0)

    compiler.before_launch = lose
    measuring = Measuring(tmp_path)
    assert build(VERSION / FILES["int8"], "int8", "sm_90", BATCHES, measuring).plan == before["int8"]
    assert list(tmp_path.iterdir()) == []
    compiler.gpu.cuda.lost.clear()
    compiler.launched.clear()
    assert build(VERSION / FILES["float16"], "float16", "sm_90", BATCHES, measuring).plan == before["float16"]
    assert compiler.launched == []
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("configurations")]
    assert re.match(
        r"configurations are not measured: the GPU failed with a convolution \(int8, .*\): "
        r"cuda\w+: an illegal memory access was encountered \(700\): the table and its rule choose them$",
        line,
    )


def test_nothing_stays_on_the_gpu(compiler: FakeCompiler, tmp_path: Path) -> None:
    build_tiny(tmp_path)
    assert (compiler.gpu.cuda.allocations, compiler.gpu.driver.loaded) == (0, 0)


def test_command_measures_and_shows(compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    compiler.milliseconds = lambda each, _: 0.0125
    command = ["engines", str(VERSION), "--runtime", "cuda", "--cache", str(tmp_path), "--precision", "int8"]
    skipped = CliRunner().invoke(app, [*command, "--no-measure"])
    assert skipped.exit_code == 0 and " measured" not in skipped.output
    measured = CliRunner().invoke(app, [*command, "--again"])
    assert re.search(r"; configurations: \d+ measured$", measured.output, re.M)
    shown = CliRunner().invoke(app, ["inspect", str(VERSION), "--cache", str(tmp_path), "--kernels"])
    assert re.search(r"4 warps, \d stages, 32 registers, measured 12\.5 µs", shown.output)


def test_file_is_the_table_with_times(compiler: FakeCompiler, tmp_path: Path) -> None:
    build_tiny(tmp_path)
    content = json.loads(tiles_file(tmp_path, CAPABILITY).read_text())
    table = json.loads((Path(__file__).parents[2] / "export" / "kernels" / "tiles.json").read_text())
    assert (content["format"], content["compiler"]) == (1, COMPILER)
    assert content["tiles"]["sm_90"][0].keys() == {*table["sm_90"][0], "microseconds"}
