"""`model.lesion.onnx` against PyTorch networks whose branches have zero weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.formats import onnx as onnx_format
from export.formats.lesion import write_lesion
from export.graph import ServingGraph
from export.samples import from_photographs, photographs
from models.artifact import manifest
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from models.training.checkpoint import Checkpoint
from models.training.evaluate import predict
from tests.support.lesions import scaled
from tests.support.networks import make_checkpoint


def build(trained: Checkpoint, folder: Path) -> tuple[int, str]:
    """Exit status and output of the command."""
    trained.save(folder / "checkpoint.safetensors")
    arguments = ["build", str(folder / "checkpoint.safetensors"), "--repository", str(folder), "--name", "net"]
    result = CliRunner().invoke(app, [*arguments, "--lesions"])
    return result.exit_code, result.output


def check(file: Path, trained: Checkpoint, images: UInt8Array, blocks: int) -> None:
    """Compare the file with PyTorch: all blocks, the first, the last, two of them deleted, and random factors."""
    session = ort.InferenceSession(file)
    signature = [(given.name, given.type, given.shape[1:]) for given in session.get_inputs()]
    assert signature == [("images", "tensor(uint8)", list(images.shape[1:])), ("gates", "tensor(float)", [])]
    assert session.get_inputs()[1].shape == [blocks]
    whole = predict(trained.model(), images, trained.preprocess).numpy()
    for deleted in ([], [0], [blocks - 1], [0, 1], None):
        gates = (
            np.random.default_rng(0).uniform(0, 1, blocks).astype(np.float32)
            if deleted is None
            else np.ones(blocks, np.float32)
        )
        gates[deleted or []] = 0
        (logits,) = session.run(["logits"], {"images": images, "gates": gates})
        expected = predict(scaled(trained, gates), images, trained.preprocess).numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        assert (np.abs(expected - whole).max() > 0.05 * np.abs(whole).max()) == (deleted != [])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "blocks"), [("resnet14t", 4), ("preact-resnet20", 9), ("linear-join-resnet20", 9)])
def test_gates_scale_the_branches_of_every_kind_of_block(arch: str, blocks: int, tmp_path: Path) -> None:
    trained = make_checkpoint(arch)
    samples = from_photographs(trained.preprocess)
    onnx_format.write(ServingGraph(trained.model(), trained.preprocess), trained.preprocess, tmp_path / "model.onnx")
    lesion = write_lesion(trained.model(), trained.preprocess, 1.0, tmp_path, samples)
    assert len(lesion.blocks) == blocks
    check(tmp_path / lesion.artifact.file, trained, samples.parity[:7], blocks)


@pytest.mark.slow
def test_command_writes_the_file_and_verify_checks_it(tmp_path: Path) -> None:
    trained = make_checkpoint("tiny")
    status, output = build(trained, tmp_path)
    assert status == 0, output
    assert "model.lesion.onnx: any of 2 blocks can be deleted" in output
    version = tmp_path / "net" / "1"
    described = manifest.read(version)
    assert described.lesion is not None
    assert [block.changes_shape for block in described.lesion.blocks] == [False, True]
    assert [artifact.file for artifact in described.artifacts] == ["model.onnx"]
    file = version / described.lesion.artifact.file
    check(file, trained, photographs(trained.preprocess)[:7], 2)

    verified = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert verified.exit_code == 0
    assert "model.lesion.onnx: logit error" in verified.output
    file.write_bytes(file.read_bytes()[:-1])
    altered = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert altered.exit_code == 2
    assert "model.lesion.onnx: its content is not what the manifest describes" in altered.output


def test_plain_network_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    status, output = build(make_checkpoint("plain20"), tmp_path)
    assert status == 2
    assert "--lesions needs a network with shortcuts" in output
    assert not (tmp_path / "net").exists()
