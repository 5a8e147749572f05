"""`resnet-export verify` on damaged versions: each is named with the reason, and the others are still verified."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from models.artifact import classifier_head, golden, manifest
from models.artifact.manifest import ManifestError
from service.registry.verification import read_classifier


def npy(shape: tuple[int, ...], dtype: str) -> bytes:
    """An array without its values."""
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def arrays(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def damaged_stream(first: str, second: str) -> bytes:
    content = archive(**{first: bytes(range(256)) * 64, second: b""})
    start = 30 + len(first) + len(".npy") + 20
    return content[:start] + b"\xff" * 40 + content[start + 40 :]


DAMAGED: dict[str, Callable[[str, str], bytes]] = {
    "a damaged stream": damaged_stream,
    "10^13 bytes": lambda first, second: archive(**{first: npy((10**13, 1), "|u1"), second: npy((1, 5), "<f4")}),
    "no arrays": lambda first, second: archive(**{first: b"\x93NUM", second: b"hello"}),
    "text": lambda first, second: arrays(**{first: np.array(["a"]), second: np.array(["b"])}),
    "no zip": lambda first, second: b"hello",
    "nothing": lambda first, second: b"",
    "numbers": lambda first, second: arrays(**{first: np.uint8(1), second: np.float32(1)}),
}


@pytest.fixture
def version(tiny_repository: Path, tmp_path: Path) -> Path:
    """The first of two versions."""
    for number in (1, 2):
        shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "tiny" / str(number))
    describe(tmp_path / "tiny" / "2", version=2)
    return tmp_path / "tiny" / "1"


def describe(version: Path, /, **changes: Any) -> None:
    path = version / manifest.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def check_output(version: Path, message: str) -> None:
    done = CliRunner().invoke(app, ["verify", str(version.parents[1])])
    assert done.exit_code == 2, done.output
    assert f"error: tiny version 1: {version}" in done.output or "error: tiny version 1: model.onnx" in done.output
    assert message in done.output
    assert "tiny version 2: model.onnx: logit error" in done.output


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_golden_images_are_named(damage: str, version: Path) -> None:
    path = version / manifest.GOLDEN_FILE
    path.write_bytes(DAMAGED[damage]("images", "logits"))
    with pytest.raises(ManifestError, match="export the version again"):
        golden.read(path)
    describe(version, golden_sha256=manifest.sha256(path))
    check_output(version, "export the version again")


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_classifier_is_named(damage: str, version: Path) -> None:
    path = version / manifest.CLASSIFIER_FILE
    path.write_bytes(DAMAGED[damage]("weight", "bias"))
    describe(version, classifier_sha256=manifest.sha256(path))
    with pytest.raises(ManifestError, match="export the version again"):
        read_classifier(version, manifest.read(version))
    check_output(version, "export the version again")


def test_golden_file_without_images_is_named(version: Path) -> None:
    golden.write(version / manifest.GOLDEN_FILE, np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 5), np.float32))
    describe(version, golden_sha256=manifest.sha256(version / manifest.GOLDEN_FILE))
    check_output(version, "has images [0, 32, 32, 3]")


def test_written_arrays_are_read(tmp_path: Path) -> None:
    images, logits = np.ones((2, 4, 4, 3), np.uint8), np.ones((2, 5), np.float32)
    golden.write(tmp_path / "golden.npz", images, logits)
    for read, written in zip(golden.read(tmp_path / "golden.npz"), (images, logits), strict=True):
        np.testing.assert_array_equal(read, written, strict=True)
    classifier_head.write(tmp_path / "head.npz", classifier_head.Classifier(logits.T, np.ones(5, np.float32)))
    assert classifier_head.read(tmp_path / "head.npz", 5).weight.shape == (5, 2)


def test_input_of_another_name_is_named(version: Path) -> None:
    model = onnx.load(version / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == manifest.INPUT else name for name in node.input]
    model.graph.input[0].name = "pixels"
    onnx.save(model, version / "model.onnx")
    described = json.loads((version / manifest.FILE_NAME).read_text())
    artifact = {**described["artifacts"][0], "sha256": manifest.sha256(version / "model.onnx")}
    describe(version, artifacts=[artifact])
    check_output(version, "model.onnx: ONNX Runtime cannot compute its logits")


@pytest.mark.parametrize("field", [{"size": [32, 10**9]}, {"resize": 10**9}, {"size": [0, 32]}])
def test_absurd_sizes_are_named(field: dict[str, Any], version: Path) -> None:
    described = json.loads((version / manifest.FILE_NAME).read_text())
    describe(version, preprocess={**described["preprocess"], **field})
    with pytest.raises(ManifestError, match=rf"preprocess\.{next(iter(field))}.*than or equal to (16384|1)"):
        manifest.read(version)
    check_output(version, f"preprocess.{next(iter(field))}")
