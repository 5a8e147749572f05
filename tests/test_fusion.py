"""What runtimes say that they fused, on graphs that they can fuse and on graphs that they cannot."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.unfuse import unfuse
from export import fusion
from export.build import build
from export.formats import onnx as onnx_format
from export.fusion import onnxruntime, openvino
from export.graph import ServingGraph
from models import manifest
from tests.networks import make_checkpoint

ADDS = {"tiny": 2, "resnet20": 9, "plain20": 0, "preact-resnet20": 9, "linear-join-resnet20": 9, "resnet50": 16}


def write(arch: str, path: Path) -> None:
    checkpoint = make_checkpoint(arch)
    onnx_format.write(ServingGraph(checkpoint.model(), checkpoint.preprocess), checkpoint.preprocess, path)


@pytest.mark.parametrize("arch", ADDS)
def test_openvino_fuses_every_addition(arch: str, tmp_path: Path) -> None:
    write(arch, tmp_path / "model.onnx")
    report = openvino.report(tmp_path / "model.onnx")
    assert (report.residual_adds, report.fused, report.unfused) == (ADDS[arch], ADDS[arch], ())


@pytest.mark.parametrize("reader", [onnxruntime.report, openvino.report], ids=["onnxruntime", "openvino"])
def test_additions_that_cannot_be_fused_are_reported(reader: fusion.Reader, tmp_path: Path) -> None:
    write("resnet20", tmp_path / "model.onnx")
    onnx_format.save(unfuse(onnx.load(tmp_path / "model.onnx")), tmp_path / "unfused.onnx")
    report = reader(tmp_path / "unfused.onnx")
    assert (report.residual_adds, report.fused, len(report.unfused)) == (9, 0, 9)
    assert all(add.reason for add in report.unfused)


@pytest.mark.parametrize("arch", ["tiny", "resnet20", "plain20"])
def test_tensorrt_rtx_fuses_every_addition(arch: str, tmp_path: Path) -> None:
    tensorrt_rtx = pytest.importorskip(
        "export.fusion.tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed", exc_type=ImportError
    )
    write(arch, tmp_path / "model.onnx")
    report = tensorrt_rtx.report(tmp_path / "model.onnx")
    assert (report.residual_adds, report.fused, report.unfused) == (ADDS[arch], ADDS[arch], ())


def test_int8_is_reported_as_what_it_is(tmp_path: Path) -> None:
    make_checkpoint("tiny").save(tmp_path / "checkpoint.safetensors")
    version = build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "tiny", int8=True)
    reports = {artifact.file: artifact.fusion for artifact in manifest.read(version).artifacts}
    assert reports["model.int8.onnx"]["openvino"].fused == 2
    own = reports["model.int8-ort.onnx"]["onnxruntime-cpu"]
    assert (own.residual_adds, own.fused, len(own.unfused)) == (2, 0, 2)
    assert "QLinearAdd" in own.unfused[0].reason
