"""Fusion reports of the runtimes, for graphs with additions that can be fused and that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from benchmarks.unfuse import unfuse
from export import fusion
from export.build import build
from export.formats import onnx as onnx_format
from export.fusion import onnxruntime, openvino, tensorrt
from export.graph import ServingGraph
from models.artifact import manifest
from tests.support.networks import make_checkpoint

ADDS = {
    "tiny": 2,
    "resnet14t": 4,
    "resnet20": 9,
    "plain20": 0,
    "preact-resnet20": 9,
    "linear-join-resnet20": 9,
    "resnext50_32x4d": 16,
}


def write(arch: str, path: Path) -> None:
    checkpoint = make_checkpoint(arch)
    onnx_format.write(ServingGraph(checkpoint.model(), checkpoint.preprocess), checkpoint.preprocess, path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ADDS)
def test_openvino_fuses_every_addition(arch: str, tmp_path: Path) -> None:
    write(arch, tmp_path / "model.onnx")
    report = openvino.report(tmp_path / "model.onnx")
    assert (report.residual_adds, report.fused, report.unfused) == (ADDS[arch], ADDS[arch], ())


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["B", "D"])
def test_int8_additions_are_reported(shortcut: str, tmp_path: Path) -> None:
    make_checkpoint("tiny", shortcut=shortcut).save(tmp_path / "checkpoint.safetensors")
    version = build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "tiny", int8=True)
    reports = {artifact.file: artifact.fusion for artifact in manifest.read(version).artifacts}
    assert reports["model.int8.onnx"]["openvino"].fused == 2
    own = reports["model.int8-ort.onnx"]["onnxruntime-cpu"]
    assert (own.residual_adds, own.fused, len(own.unfused)) == (2, 0, 2)
    assert "QLinearAdd" in own.unfused[0].reason


def inspection(layers: list[object], tensors: dict[str, object]) -> str:
    return json.dumps({"Layers": layers, **tensors})


TENSORRT_10: dict[str, object] = {"Bindings": ["images", "logits"]}
TENSORRT_11: dict[str, object] = {"I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "UInt8"}]}


@pytest.mark.slow
@pytest.mark.parametrize("tensors", [TENSORRT_10, TENSORRT_11], ids=["TensorRT 10", "TensorRT 11"])
def test_inspector_text_is_parsed(tensors: dict[str, object], tmp_path: Path) -> None:
    """Layers in the form of TensorRT issues 3583 and 4020: by metadata, by name, and one that is not fused."""
    write("tiny", tmp_path / "model.onnx")
    first, second = (node.name for node in fusion.residual_adds(onnx.load(tmp_path / "model.onnx").graph))
    by_metadata = {
        "Name": "__myl_Conv",
        "LayerType": "correlation",
        "Metadata": f"[ONNX Layer: node_conv2d_2]\x1e[ONNX Layer: {first}]",
    }
    by_name = {"Name": f"node_conv2d_4 + {second} + node_relu_4", "LayerType": "CaskConvolution", "HasResidual": 1}
    apart = {"Name": f"PWN({second})", "LayerType": "PointWiseV2", "Metadata": f"[ONNX Layer: {second}]"}

    whole = tensorrt.read_inspection(inspection([by_metadata, by_name], tensors), tmp_path / "model.onnx")
    assert (whole.residual_adds, whole.fused, whole.unfused) == (2, 2, ())
    half = tensorrt.read_inspection(inspection([by_metadata, apart], tensors), tmp_path / "model.onnx")
    assert (half.residual_adds, half.fused) == (2, 1)
    assert [(add.node, add.reason) for add in half.unfused] == [(second, "computed by a layer of type PointWiseV2")]


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": ["conv1 + relu1"]}', "Layers: conv1"])
def test_inspectors_text_without_types_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(tensorrt.UnreadableInspection, match="DETAILED"):
        tensorrt.read_inspection(text, tmp_path / "model.onnx")
