"""Weights are found in checkpoints as training tools write them, and no code of a file runs."""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

from export.errors import ForeignWeights
from export.importing import source
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

# Importing the compiler warns of parts of PyTorch that it uses itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")


class Network(nn.Module):
    """The first names of torchvision's networks."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 1, bias=False)
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1)))
        self.fc = nn.Linear(4, 2)
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


class Lightning(nn.Module):
    """A module that holds the network, its loss and its average, as a LightningModule does."""

    def __init__(self, name: str, averaged: bool = False) -> None:
        super().__init__()
        self.add_module(name, Network(1))
        if averaged:
            self.ema_model = average(Network(2))
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))


def average(network: nn.Module) -> AveragedModel:
    return AveragedModel(network)


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network)  # type: ignore[return-value]  # its state dict is that of a module


def inner_compiled() -> nn.Module:
    network = Network(1)
    network.layer1 = compiled(network.layer1)  # type: ignore[assignment]
    return network


def hyper_parameters() -> dict[str, Any]:
    """Options of any class, as Lightning saves them."""
    options = argparse.Namespace(lr=0.1, folder=Path("data"))
    return {"options": options, "act": functools.partial(nn.ReLU, True), "loss": nn.CrossEntropyLoss()}


def mmpretrain(value: float, prefix: str = "") -> dict[str, Any]:
    """The names of MMPretrain's classifiers."""
    names = Network(value).state_dict().items()
    return {f"{prefix}{'head' if key.startswith('fc.') else 'backbone'}.{key}": tensor for key, tensor in names}


CHECKPOINTS: dict[str, tuple[Callable[[], Any], float]] = {
    "plain": (lambda: Network(1).state_dict(), 1),
    "compiled": (lambda: compiled(Network(1)).state_dict(), 1),
    "a compiled part": (lambda: inner_compiled().state_dict(), 1),
    "data parallel": (lambda: DataParallel(Network(1)).state_dict(), 1),
    "data parallel, compiled": (lambda: compiled(DataParallel(Network(1))).state_dict(), 1),
    "compiled, data parallel": (lambda: DataParallel(compiled(Network(1))).state_dict(), 1),
    "average": (lambda: average(Network(1)).state_dict(), 1),
    "average of compiled": (lambda: {"model": average(compiled(Network(1))).state_dict()}, 1),
    "net": (lambda: {"net": Network(1).state_dict(), "acc": 93.1, "epoch": 7}, 1),
    "weights": (lambda: {"weights": DataParallel(Network(1)).state_dict()}, 1),
    "nested": (lambda: {"checkpoint": {"model": {"state_dict": Network(1).state_dict()}}}, 1),
    "other word": (lambda: {"best_net": Network(1).state_dict(), "optimizer": {0: {"exp": torch.ones(2)}}}, 1),
    "lightning": (
        lambda: {"state_dict": Lightning("model").state_dict(), "hyper_parameters": hyper_parameters(), "epoch": 3}, 1,
    ),
    "lightning, net": (lambda: {"state_dict": compiled(Lightning("net")).state_dict()}, 1),
    "lightning with an average": (lambda: {"state_dict": Lightning("model", averaged=True).state_dict()}, 2),
    "ema_model": (lambda: {"ema_model": Network(2).state_dict(), "model": Network(1).state_dict()}, 2),
    "state_dict_ema": (lambda: {"state_dict": Network(1).state_dict(), "state_dict_ema": Network(2).state_dict()}, 2),
    "model_ema": (
        lambda: {"model": Network(1).state_dict(), "model_ema": compiled(DataParallel(Network(2))).state_dict()}, 2,
    ),
    "average beside the model": (
        lambda: {"model": Network(1).state_dict(), "shadow": average(Network(2)).state_dict()}, 2,
    ),
    "model and a discriminator": (lambda: {"model": Network(1).state_dict(), "critic": Network(3).state_dict()}, 1),
    "MMPretrain": (lambda: {"meta": {}, "state_dict": mmpretrain(1)}, 1),
    "MMEngine exchanges both": (
        lambda: {"meta": {"mmengine_version": "0.10"}, "state_dict": mmpretrain(2),
                 "ema_state_dict": {"steps": torch.tensor(3), **mmpretrain(1, "module.")}}, 2,
    ),
    "twice the same": (lambda: {"first": Network(1).state_dict(), "second": Network(1).state_dict()}, 1),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", CHECKPOINTS)
def test_weights_are_found_under_their_own_names(form: str, tmp_path: Path) -> None:
    content, value = CHECKPOINTS[form]
    torch.save(content(), tmp_path / "checkpoint.ckpt")
    read = source.read(tmp_path / "checkpoint.ckpt")
    expected = Network(value).state_dict()
    assert sorted(read.tensors) == sorted(expected)
    assert all(read.tensors[name].equal(tensor) for name, tensor in expected.items())
    assert (read.place == "") == (form in ("plain", "compiled", "a compiled part", "average") or "parallel" in form)


def test_several_networks_are_named(tmp_path: Path) -> None:
    torch.save({"student": Network(1).state_dict(), "teacher": Network(2).state_dict()}, tmp_path / "a.pth")
    with pytest.raises(ForeignWeights, match=r"a\.pth: holds several networks: student, teacher: save one of them"):
        source.read(tmp_path / "a.pth")


def touch(path: str) -> None:
    Path(path).touch()


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return touch, (str(self._mark),)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(2, 4).to_sparse(), "is sparse or complex"),
        (torch.ones(2, 4) * 1j, "is sparse or complex"),
        (torch.ones(2, 4, device="meta"), "is on the meta device"),
        (torch.ones(2, 4, dtype=torch.int8), "is of whole numbers"),
        (torch.ones(1, 1).expand(2, 10**9), "has more elements than values in the file"),
        (torch.empty(0), r"has no values, .* zero_to_fp32\.py"),
        (torch.tensor([[1.0, float("nan")]]), "infinite or not a number"),
    ],
)
def test_tensors_without_plain_numbers_are_refused(weight: torch.Tensor, message: str, tmp_path: Path) -> None:
    torch.save({**Network(1).state_dict(), "fc.weight": weight}, tmp_path / "a.pth")
    with pytest.raises(ForeignWeights, match=rf"a\.pth: fc\.weight [^\n]*{message}"):
        source.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: Network(1), r"holds an object of .*Network, no state dict: save only model\.state_dict\(\)"),
        (lambda: {"ema": Network(1), "epoch": 3}, r"holds objects of .*Network, no state dict"),
        (lambda: [1, 2], "holds a list, no state dict"),
        (lambda: {"epoch": 3}, "holds only values without tensors, no state dict"),
    ],
)
def test_files_without_a_state_dict_are_refused(content: Callable[[], Any], message: str, tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "a.pth")
    with pytest.raises(ForeignWeights, match=message):
        source.read(tmp_path / "a.pth")


def test_code_beside_the_weights_does_not_run(tmp_path: Path) -> None:
    mark, state = tmp_path / "ran", Network(1).state_dict()
    torch.save({"state_dict": state, "hyper_parameters": {"x": Payload(mark)}}, tmp_path / "a.ckpt")
    assert sorted(source.read(tmp_path / "a.ckpt").tensors) == sorted(state)
    assert not mark.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert mark.exists(), "the payload does nothing, so the test would see nothing"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gguf", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("a.pth", b"\x08\x08\x12\x07pytorch", "is an ONNX model: give it with --onnx"),
        ("a.pth", b"<html>404", "is a web page, .* fetch it again"),
        ("a.pth", b"", "is empty"),
        ("model-00002-of-00003.bin", b"PK", "is part 2 of 3 of the weights: give their folder"),
        ("a.engine", b"\0\xff", "is an engine of TensorRT"),
    ],
)
def test_files_of_other_programs_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ForeignWeights, match=rf"{name}: {message}"):
        source.read(tmp_path / name)


def test_parts_are_joined_by_their_index(tmp_path: Path) -> None:
    state = Network(1).state_dict()
    parts = {f"model-0000{part}-of-00002.safetensors": dict(list(state.items())[part - 1 :: 2]) for part in (1, 2)}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    read = source.read(index).tensors
    assert read.keys() == state.keys()
    assert all(read[key].equal(value) for key, value in state.items())
    index.write_text(json.dumps({"weight_map": {"conv1.weight": "../a.safetensors"}}))
    with pytest.raises(ForeignWeights, match=r"lists '\.\./a\.safetensors', which is no file beside it"):
        source.read(index)


def test_archives_of_other_programs_are_named(tmp_path: Path) -> None:
    for member, message in (("code/constants.pkl", "TorchScript"), ("a.npy", "NumPy"), ("a.pth", "unpack it")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(member, b"")
        with pytest.raises(ForeignWeights, match=message):
            source.read(tmp_path / "a.zip")


def pickled(folder: Path, body: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file as of `torch.save` with this pickle."""
    with zipfile.ZipFile(folder / "a.pth", "w", compression) as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")
    return folder / "a.pth"


def test_small_files_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A pickle that asks for 200 GB in a type that PyTorch permits, and an archive that unpacks to more than its
    size."""
    huge = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (200 * 10**9).to_bytes(5, "little") + b"\x85R."
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ForeignWeights, match="needs more memory than is free"):
        source.read(pickled(tmp_path, huge))
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit
    with pytest.raises(ForeignWeights, match="unpacks to more bytes than it has"):
        source.read(pickled(tmp_path, b"\x80\x02}." + bytes(10**6), zipfile.ZIP_DEFLATED))


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 102540417{os.linesep}")
    with pytest.raises(ForeignWeights, match="is a pointer of Git LFS, not the file itself: run git lfs pull"):
        source.read(path)
    with pytest.raises(CheckpointError, match="is a pointer of Git LFS"):
        checkpoint.load(path)
