"""Export against eager PyTorch: the same logits, every addition fused, and mistakes caught."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from export.__main__ import app
from export.build import build
from export.complexity import count_multiply_adds
from export.errors import BuildError
from export.fold import fold
from export.formats import onnx as onnx_format
from export.fusion import onnxruntime
from export.graph import ServingGraph
from export.samples import photographs
from export.verify import OnnxRunner, check_parity, verify_version
from models.architectures.blocks import PreActivationBlock
from models.artifact import classifier_head, golden, manifest
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import OUTPUTS, ManifestError
from models.artifact.parity import ParityError
from models.imaging.preprocess import Preprocess, UInt8Array
from models.runtime.onnxruntime import ort
from models.training.checkpoint import Checkpoint
from models.training.evaluate import normalise, predict
from tests.support.marks import slow_except
from tests.support.networks import make_checkpoint

ADDS = {
    "tiny": 2,
    "resnet20": 9,
    "plain20": 0,
    "preact-resnet20": 9,
    "linear-join-resnet20": 9,
    "resnet18": 8,
    "resnet50": 16,
    "linear-join-resnet50": 16,
    "plain18": 0,
    "resnet14t": 4,
    "resnext50_32x4d": 16,
}


def write(checkpoint: Checkpoint, path: Path, preprocess: Preprocess | None = None) -> UInt8Array:
    """Export to `path`; gives photographs to compare on."""
    onnx_format.write(
        ServingGraph(checkpoint.model(), preprocess or checkpoint.preprocess), checkpoint.preprocess, path
    )
    return photographs(checkpoint.preprocess)


def eager(checkpoint: Checkpoint, images: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return predict(checkpoint.model(), images, checkpoint.preprocess).numpy()


@pytest.mark.parametrize("arch", slow_except("tiny", ADDS))
def test_onnx_runtime_agrees_and_fuses_every_addition(arch: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(arch, channels=1 if arch == "resnet20" else 3)
    images = write(checkpoint, tmp_path / "model.onnx")
    parity = check_parity(OnnxRunner(tmp_path / "model.onnx"), images, eager(checkpoint, images), "float32")
    assert parity.logit_error <= 1e-4
    assert parity.top1_agreement == 1.0
    report = onnxruntime.report(tmp_path / "model.onnx")
    assert (report.residual_adds, report.fused, report.unfused) == (ADDS[arch], ADDS[arch], ())


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["A", "B", "C", "D", "none"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_shortcut_option_is_fused(shortcut: str, norm: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("tiny", shortcut=shortcut, norm=norm)
    images = write(checkpoint, tmp_path / "model.onnx")
    check_parity(OnnxRunner(tmp_path / "model.onnx"), images, eager(checkpoint, images), "float32")
    report = onnxruntime.report(tmp_path / "model.onnx")
    assert report.fused == report.residual_adds == (0 if shortcut == "none" else 2)


@pytest.mark.slow
def test_addition_that_is_not_fused_is_reported(tmp_path: Path) -> None:
    """Zero padding left as a slice and a pad: ONNX Runtime keeps some additions apart (selection_indices: 6 of 9)."""
    checkpoint = make_checkpoint("resnet20")
    graph = ServingGraph(checkpoint.model(), checkpoint.preprocess)
    graph.model = checkpoint.model()  # not rewritten
    onnx_format.write(graph, checkpoint.preprocess, tmp_path / "model.onnx")
    report = onnxruntime.report(tmp_path / "model.onnx")
    assert report.residual_adds == 9
    assert report.fused < 9
    assert len(report.unfused) == 9 - report.fused
    assert all(add.node and add.reason for add in report.unfused)


@pytest.mark.slow
def test_swapped_channels_are_caught(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("tiny", size=64)
    images = write(checkpoint, tmp_path / "model.onnx")
    expected = eager(checkpoint, images)
    with pytest.raises(ParityError, match="differ from the eager model"):
        check_parity(OnnxRunner(tmp_path / "model.onnx"), images[..., ::-1].copy(), expected, "float32")


@pytest.mark.slow
def test_wrong_mean_is_caught(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("tiny", size=64)
    wrong = checkpoint.preprocess.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    images = write(checkpoint, tmp_path / "model.onnx", wrong)
    with pytest.raises(ParityError, match="differ from the eager model"):
        check_parity(OnnxRunner(tmp_path / "model.onnx"), images, eager(checkpoint, images), "float32")


@pytest.mark.slow
def test_signature(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("tiny", size=64, classes=7)
    images = write(checkpoint, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [64, 64, 3])
    assert isinstance(given.shape[0], str)
    assert tuple(output.name for output in session.get_outputs()) == OUTPUTS

    model = checkpoint.model()
    with torch.inference_mode():
        inputs = normalise(torch.from_numpy(images[:5]).permute(0, 3, 1, 2), checkpoint.preprocess)
        feature_map = model.features(inputs)
        logits = model(inputs)
    expected = {
        "logits": logits,
        "probabilities": logits.softmax(1),
        "embedding": feature_map.mean((2, 3)),
        "feature_map": feature_map,
    }
    for name, value in zip(OUTPUTS, session.run(OUTPUTS, {"images": images[:5]}), strict=True):
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_temperature_divides_the_logits(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("tiny")
    images = photographs(checkpoint.preprocess)
    graph = ServingGraph(checkpoint.model(), checkpoint.preprocess, temperature=2.5)
    onnx_format.write(graph, checkpoint.preprocess, tmp_path / "model.onnx")
    (probabilities,) = ort.InferenceSession(tmp_path / "model.onnx").run(["probabilities"], {"images": images})
    expected = torch.from_numpy(eager(checkpoint, images) / 2.5).softmax(1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_only_standard_operators_and_no_source_paths(tmp_path: Path) -> None:
    write(make_checkpoint("preact-resnet20"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content
    assert b"/models/" not in content


@pytest.mark.slow
def test_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    write(make_checkpoint("tiny"), tmp_path / "first.onnx")
    write(make_checkpoint("tiny"), tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


@pytest.mark.parametrize(
    "arch", slow_except("resnet20", ["resnet20", "resnet50", "preact-resnet20", "linear-join-resnet50"])
)
def test_folding_keeps_the_function_and_leaves_no_normalisation_that_it_can_remove(arch: str) -> None:
    model = make_checkpoint(arch).model()
    folded = fold(model).double()
    model = model.double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    left = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    # One before the first ReLU of each pre-activation block, and the last one.
    blocks = [module for module in folded.modules() if isinstance(module, PreActivationBlock)]
    assert len(left) == (len(blocks) + 1 if blocks else 0)


@pytest.mark.slow
def test_build_with_an_unfused_addition_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint("resnet20").save(tmp_path / "checkpoint.safetensors")
    monkeypatch.setattr("export.graph.fold", lambda model: model)  # the slice and the pad stay
    with pytest.raises(BuildError, match=r"leaves \d of 9 residual additions unfused.*--allow-unfused"):
        build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "model")
    assert not (tmp_path / "repository" / "model").exists()
    build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "model", allow_unfused=True)
    assert (tmp_path / "repository" / "model" / "1" / "manifest.json").exists()


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    make_checkpoint("tiny").save(folder / "checkpoint.safetensors")
    return build(folder / "checkpoint.safetensors", folder / "repository", "model")


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    """A version that a test may spoil."""
    return Path(shutil.copytree(version, tmp_path / "model" / "1"))


@pytest.mark.slow
def test_multiply_adds_of_the_network_and_of_its_graph(version: Path) -> None:
    multiply_adds = manifest.read(version).architecture.multiply_adds
    assert multiply_adds is not None
    assert multiply_adds == count_multiply_adds(onnx.load(version / "model.onnx"))


def test_built_version_verifies(version: Path) -> None:
    (parity,) = verify_version(version).values()
    assert parity.logit_error <= 1e-4
    result = CliRunner().invoke(app, ["verify", str(version.parents[1])])
    assert (result.exit_code, "model version 1: model.onnx: logit error" in result.stdout) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "classifier.npz"])
def test_flipped_bit_is_found(copy: Path, file: str) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(ManifestError, match=f"{file}: its content is not what the manifest describes"):
        verify_version(copy)
    result = CliRunner().invoke(app, ["verify", str(copy)])
    assert (result.exit_code, result.stderr.count("error: model version 1")) == (2, 1)


def test_classifier_file_has_the_weights_of_the_last_layer(copy: Path) -> None:
    """Its weights, and the manifest's word for them."""
    described = manifest.read(copy)
    kept = classifier_head.read(copy / "classifier.npz", len(described.labels))
    images, logits = golden.read(copy / "golden.npz")
    session = ort.InferenceSession(str(copy / "model.onnx"))
    (embedding,) = session.run(["embedding"], {"images": images})
    np.testing.assert_allclose(embedding @ kept.weight.T + kept.bias, logits, atol=1e-4)
    classifier_head.write(copy / "classifier.npz", Classifier(kept.weight[:-1], kept.bias))
    content = json.loads((copy / "manifest.json").read_text())
    content["classifier_sha256"] = manifest.sha256(copy / "classifier.npz")
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="not those of 10 classes"):
        verify_version(copy)


def test_golden_images_of_another_model_are_detected(copy: Path) -> None:
    images, logits = golden.read(copy / "golden.npz")
    golden.write(copy / "golden.npz", images, logits[::-1])
    described = json.loads((copy / "manifest.json").read_text())
    described["golden_sha256"] = manifest.sha256(copy / "golden.npz")
    (copy / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(ParityError, match="differ from the eager model"):
        verify_version(copy)


@pytest.mark.slow
def test_manifest_with_a_byte_order_mark_is_read(copy: Path) -> None:
    described = manifest.read(copy)
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text(), encoding="utf-8-sig")
    assert manifest.read(copy) == described


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": ["one"]}, "1 labels for 10 classes"),
        ({"version": 2}, "describes model version 2, but lies in model/1"),
        ({"artifacts": []}, "no artifact is listed"),
        ({"schema": 2}, "schema"),
    ],
)
def test_invalid_manifest_is_refused(copy: Path, change: dict[str, object], reason: str) -> None:
    described = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**described, **change}))
    with pytest.raises(ManifestError, match=reason):
        verify_version(copy)


@pytest.mark.slow
def test_failed_build_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint("tiny").save(tmp_path / "checkpoint.safetensors")

    def full(path: Path, images: object, logits: object) -> None:
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(golden, "write", full)
    with pytest.raises(BuildError, match="No space left on device"):
        build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "model")
    assert not (tmp_path / "repository" / "model").exists()


@pytest.mark.slow
def test_build_without_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint = make_checkpoint("tiny")
    checkpoint.save(path)
    first = build(path, tmp_path / "repository", "model")
    second = build(path, tmp_path / "repository", "model")
    assert (first.name, second.name) == ("1", "2")
    assert sorted(item.name for item in first.parent.iterdir()) == ["1", "2"]
    golden = np.load(first / "golden.npz")
    np.testing.assert_allclose(golden["logits"], eager(checkpoint, golden["images"]), atol=1e-5)
