"""Checkpoints are read as written; other files are refused with one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from tests.support.networks import make_checkpoint


def header_of(path: Path) -> dict[str, object]:
    """The JSON header of a safetensors file, read by hand."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    parsed: dict[str, object] = json.loads(data[8 : 8 + length])
    return parsed


def header_with(**changes: object) -> str:
    """The description of a checkpoint with other values, as JSON."""
    made = make_checkpoint("tiny")
    header = {
        "architecture": made.architecture.model_dump(exclude_none=True),
        "labels": made.labels,
        "preprocess": made.preprocess.model_dump(),
    }
    return json.dumps({**header, **changes})


def test_round_trip(tmp_path: Path) -> None:
    original = make_checkpoint("tiny", classes=3, shortcut="B")
    original.training["note"] = "ünïcode"
    original.save(tmp_path / "a.safetensors")
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    assert loaded.architecture == original.architecture
    assert loaded.labels == ("class 0", "class 1", "class 2")
    assert loaded.preprocess == original.preprocess
    assert loaded.training == {"note": "ünïcode"}
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model()(x), original.model()(x), rtol=0, atol=0)
    assert not loaded.model().training


def test_any_safetensors_reader_can_read_it(tmp_path: Path) -> None:
    original = make_checkpoint("tiny")
    original.save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == original.weights.keys()
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o044, "readable by others"


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    make_checkpoint("tiny").save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save_tensors({"a": torch.zeros(1)}, path, {"key": 1})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.safetensors"
    make_checkpoint("tiny").save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        checkpoint.load(path)


def test_pickle_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


def test_weights_without_a_description_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="give a checkpoint that resnet-train wrote"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("not JSON", "Invalid JSON"),
        ("{}", "architecture"),
        ('{"architecture": {"name": "tiny"}}', "num_classes"),
        (header_with(labels=["a"]), "1 labels for 10 classes"),
        (header_with(labels=[1] * 10), "labels"),
        (header_with(training=None), "training"),
        (header_with(preprocess={"size": [8, 8], "mean": [0.5], "std": [0.5], "mode": "L"}), "1 colour channels"),
    ],
)
def test_damaged_header_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"resnet-serve": header})
    with pytest.raises(CheckpointError, match=f"its header cannot be understood.*{reason}"):
        checkpoint.load(path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    make_checkpoint("tiny").save(path)
    header = header_of(path)["__metadata__"]
    assert isinstance(header, dict)
    described = json.loads(header["resnet-serve"])
    described["architecture"]["name"] = "resnet20"
    save_file(load_file(path), path, {"resnet-serve": json.dumps(described)})
    with pytest.raises(CheckpointError, match=r"not the weights of resnet20: \d+ missing, the first is"):
        checkpoint.load(path).model()


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    loaded = make_checkpoint("tiny", classes=10)
    narrow = make_checkpoint("tiny", classes=4)
    mixed = checkpoint.Checkpoint(narrow.architecture, narrow.labels, narrow.preprocess, loaded.weights)
    with pytest.raises(CheckpointError, match=r"'classifier.weight' has shape \[10, 16\], expected \[4, 16\]"):
        mixed.model()
