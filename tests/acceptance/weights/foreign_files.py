"""Files that are no usable state dict of a ResNet, and the words that must be in the refusal of each."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from tests.acceptance.weights.checkpoint_files import network, optimiser, state, write_index
from tests.support.foreign_networks import ResNet18
from tests.support.networks import make_checkpoint

MARK = "ran"
"""Name of the file that code in a checkpoint would leave."""

Write = Callable[[Path], Path]
"""Writes a file in a folder, and gives its path."""


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


class Learner:
    """Stands for fastai's learner, a pickled object with the model inside."""

    def __init__(self) -> None:
        self.model = network()


def saved(content: Callable[[], Any], name: str = "a.pth") -> Write:
    """A file of `torch.save`."""

    def write(folder: Path) -> Path:
        torch.save(content(), folder / name)
        return folder / name

    return write


def bytes_of(name: str, content: bytes) -> Write:
    """A file with these bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def archive(name: str, **files: bytes) -> Write:
    """A zip archive; `__` in the name of a file stands for a point, `___` for a slash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for file, content in files.items():
            made.writestr(file.replace("___", "/").replace("__", "."), content)
    return bytes_of(name, buffer.getvalue())


def folder_of(name: str, *files: str) -> Write:
    """A folder with empty files."""

    def write(folder: Path) -> Path:
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).touch()
        return folder / name

    return write


def _script(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(network(), torch.zeros(1, 3, 64, 64))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, folder / "a.pt")
    return folder / "a.pt"


def _program(folder: Path) -> Path:
    torch.export.save(torch.export.export(network(), (torch.zeros(1, 3, 64, 64),)), folder / "a.pt2")
    return folder / "a.pt2"


def _protocol_4(folder: Path) -> Path:
    torch.save(state(), folder / "a.pth", pickle_protocol=4)
    return folder / "a.pth"


def _part(folder: Path) -> Path:
    write_index(folder)
    return folder / "model-00001-of-00002.safetensors"


def _index_only(folder: Path) -> Path:
    index = write_index(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return index


def _leaving_index(folder: Path) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv1.weight": "../../secret.safetensors"}}))
    return index


def _cut(write: Write, share: float) -> Write:
    def cut(folder: Path) -> Path:
        path = write(folder)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return cut


def _safetensors(folder: Path) -> Path:
    save_file(state(), folder / "a.safetensors")
    return folder / "a.safetensors"


def _changed(**values: torch.Tensor | None) -> dict[str, torch.Tensor]:
    given = {name.replace("__", "."): value for name, value in values.items()}
    return {key: value for key, value in {**state(), **given}.items() if value is not None}


def _bad(value: float) -> torch.Tensor:
    weight = state()["layer3.0.conv1.weight"].clone()
    weight[0, 0, 0, 0] = value
    return weight


def _quantised() -> dict[str, torch.Tensor]:
    return _changed(fc__weight=torch.quantize_per_tensor(state()["fc.weight"], 0.1, 0, torch.qint8))


def _pickle_bomb(folder: Path) -> Path:
    """A bytearray of 200 GB in a pickle of 60 bytes, which `weights_only` accepts."""
    body = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (200 * 10**9).to_bytes(5, "little") + b"\x85R."
    return _torch_archive(folder, body, zipfile.ZIP_STORED)


def _zip_bomb(folder: Path) -> Path:
    return _torch_archive(folder, b"\x80\x02}." + bytes(4 * 10**8), zipfile.ZIP_DEFLATED)


def _torch_archive(folder: Path, body: bytes, compression: int) -> Path:
    with zipfile.ZipFile(folder / "a.pth", "w", compression) as made:
        made.writestr("a/data.pkl", body)
        made.writestr("a/version", b"3\n")
        made.writestr("a/byteorder", b"little")
    return folder / "a.pth"


def _deep(folder: Path) -> Path:
    body = b"\x80\x02" + b"}U\x01a" * 100_000 + b"N" + b"s" * 100_000 + b"."
    return _torch_archive(folder, body, zipfile.ZIP_STORED)


def _huge_header(folder: Path) -> Path:
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b'{"a":')
    return folder / "a.safetensors"


def _ours(folder: Path) -> Path:
    make_checkpoint("resnet20").save(folder / "model.safetensors")
    return folder / "model.safetensors"


def _training_state(folder: Path) -> Path:
    save_file({"model.stem.conv.weight": torch.zeros(1)}, folder / "state.safetensors", {"state": json.dumps({})})
    return folder / "state.safetensors"


def _tar(folder: Path) -> Path:
    with tarfile.open(folder / "a.pth.tar", "w") as made:
        made.addfile(tarfile.TarInfo("weights.pth"))
    return folder / "a.pth.tar"


def _npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", conv1=np.zeros(3))
    return folder / "a.npz"


class _Part:
    """Is pickled as a part of a tensor."""

    def __reduce__(self) -> tuple[object, ...]:
        return ShardedTensor, ()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46830571\n"

FOREIGN: Mapping[str, tuple[Write, str]] = {
    "whole pickled model": (saved(network), "holds an object of tests.support.foreign_networks.ResNet18"),
    "pickled model in a dictionary": (saved(lambda: {"model": network(), "ema": None}), "holds objects of "),
    "fastai learner": (saved(Learner, "export.pkl"), "holds an object of "),
    "pickle with code": (saved(lambda: Payload(Path(MARK).resolve())), "could run code"),
    "plain pickle with code": (bytes_of("a.pkl", pickle.dumps(Payload(Path(MARK).resolve()))), "holds more than"),
    "pickle protocol 4": (_protocol_4, "a pickle protocol other than 2"),
    "pickle of numpy arrays": (bytes_of("a.pkl", pickle.dumps({"w": np.zeros(3)})), "a.pkl: "),
    "numpy arrays by torch.save": (saved(lambda: {"conv1.weight": np.zeros((64, 3, 7, 7))}), "arrays of NumPy"),
    "TorchScript": (_script, "TorchScript"),
    "torch.export": (_program, "torch.export"),
    "GGUF": (bytes_of("a.gguf", b"GGUF\x03\0\0\0" + bytes(64)), "GGUF"),
    "HDF5": (bytes_of("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)), "Keras"),
    ".keras": (archive("a.keras", metadata__json=b"{}", config__json=b"{}", model__weights__h5=b"\x89HDF"), "Keras"),
    "TensorFlow checkpoint": (bytes_of("model.ckpt.index", b"\0\0\1\2\x80\xff"), "checkpoint of TensorFlow"),
    "SavedModel": (folder_of("saved", "saved_model.pb"), "SavedModel"),
    "frozen graph": (bytes_of("a.pb", b"\n\x1d\n\x05input\x12\x0bPlaceholder\xff"), "graph of TensorFlow"),
    "TensorFlow Lite": (bytes_of("a.tflite", b"\x1c\0\0\0TFL3" + bytes(32)), "TensorFlow Lite"),
    "ONNX": (bytes_of("a.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff"), "give it with --onnx"),
    "ONNX by another name": (bytes_of("a.pth", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff"), "give it with --onnx"),
    "TensorRT plan": (bytes_of("a.plan", b"ftrt" + bytes(64)), "TensorRT"),
    "Core ML": (bytes_of("a.mlmodel", b"\x08\x01\x12\x93\xff\x01"), "Core ML"),
    "Core ML package": (folder_of("a.mlpackage", "Manifest.json"), "Core ML"),
    "OpenVINO": (bytes_of("a.xml", b'<?xml version="1.0"?>\n<net name="a">'), "OpenVINO"),
    "npz": (_npz, "NumPy"),
    "npy": (bytes_of("a.npy", b"\x93NUMPY\x01\0" + bytes(64)), "NumPy"),
    "MXNet": (bytes_of("a.params", b"\x12\x01\0\0\0\0\0\0" + bytes(64)), "MXNet"),
    "Caffe": (bytes_of("a.caffemodel", b"\n\x06ResNet\xa2\x06\xff"), "Caffe"),
    "Flax": (bytes_of("flax_model.msgpack", b"\x82\xa6params\x83\xff"), "Flax"),
    "Git LFS pointer": (bytes_of("a.safetensors", LFS), "git lfs pull"),
    "web page": (bytes_of("a.pth", b"<!DOCTYPE html><html><head><title>404</title>"), "web page"),
    "error in XML": (bytes_of("a.pth", b'<?xml version="1.0"?><Error><Code>AccessDenied'), "fetch it again"),
    "error in JSON": (bytes_of("a.safetensors", b'{"error":"Repository not found"}'), "JSON"),
    "error as text": (bytes_of("a.bin", b"Entry not found"), "fetch it again"),
    "gzip": (bytes_of("a.pth.gz", gzip.compress(b"weights")), "unpack it"),
    "tar": (_tar, "unpack it"),
    "zip with weights": (archive("a.zip", weights__pth=b"PK"), "unpack it"),
    "empty": (bytes_of("a.pth", b""), "is empty"),
    "cut torch.save": (_cut(saved(state), 0.6), "fetch it again"),
    "cut safetensors": (_cut(_safetensors, 0.6), "fetch it again"),
    "cut in the first bytes": (_cut(saved(state), 1e-6), "a.pth: "),
    "random bytes": (bytes_of("a.pth", bytes(range(255, 100, -1)) * 20), "neither safetensors nor"),
    "header of 2^60 bytes": (_huge_header, "a.safetensors: "),
    "zip that unpacks to 400 MB": (_zip_bomb, "unpacks to more bytes"),
    "bytearray of 200 GB": (_pickle_bomb, "more memory than is free"),
    "100,000 dictionaries deep": (_deep, "nested too deeply"),
    "expanded tensor": (saved(lambda: _changed(fc__weight=torch.zeros(1, 1).expand(10**9, 512))), "more elements"),
    "sparse": (saved(lambda: _changed(fc__weight=torch.eye(10, 512).to_sparse())), "fc.weight is sparse"),
    "quantised": (saved(_quantised), "fc.weight is quantised"),
    "whole numbers": (saved(lambda: _changed(fc__weight=torch.ones(10, 512, dtype=torch.int8))), "whole numbers"),
    "meta": (saved(lambda: _changed(fc__weight=torch.empty(10, 512, device="meta"))), "meta device"),
    "not a number": (saved(lambda: _changed(layer3__0__conv1__weight=_bad(float("nan")))), "not a number"),
    "infinite": (saved(lambda: _changed(layer3__0__conv1__weight=_bad(float("inf")))), "infinite"),
    "no last layer": (saved(lambda: _changed(fc__weight=None, fc__bias=None)), "fc.weight"),
    "auxiliary head": (saved(lambda: _changed(aux__fc__weight=torch.ones(10, 256))), "aux.fc.weight"),
    "a tensor missing": (saved(lambda: _changed(layer2__1__bn2__weight=None)), "layer2.1.bn2.weight"),
    "another width": (saved(lambda: ResNet18(10, width=32).state_dict()), "of another shape"),
    "two networks": (saved(lambda: {"student": state(), "teacher": state(1)}), "several networks"),
    "MoCo": (saved(lambda: {"state_dict": {**state(0, "module.encoder_q."), **state(1, "module.encoder_k.")}}),
             "several networks"),
    "another kind of network": (saved(lambda: nn.Linear(3, 4).state_dict()), "of no known layout"),
    "pycls": (saved(lambda: {"model_state": {"stem.conv.weight": torch.ones(1), "s1.b1.f.a.weight": torch.ones(1)}}),
              "of no known layout"),
    "optimiser only": (saved(optimiser), "state of an optimiser"),
    "DeepSpeed optimiser": (saved(lambda: {"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(9)]}}),
                            "state of an optimiser"),
    "DeepSpeed, stage 3": (saved(lambda: {"module": {key: torch.empty(0) for key in state()}}), "zero_to_fp32.py"),
    "FSDP, flat": (saved(lambda: {"_fsdp_wrapped_module._flat_param": torch.ones(99)}), "flat parameters"),
    "FSDP, in parts": (saved(lambda: {"model": {key: _Part() for key in state()}}), "parts of tensors"),
    "distributed folder": (folder_of("ckpt", ".metadata", "__0_0.distcp"), "dcp_to_torch"),
    "DeepSpeed folder": (folder_of("ds", "latest", "zero_to_fp32.py"), "zero_to_fp32.py"),
    "Orbax folder": (folder_of("orbax", "_CHECKPOINT_METADATA"), "Orbax"),
    "a checkpoint of ours": (_ours, "resnet-export build"),
    "a training's state of ours": (_training_state, "resnet-train --resume"),
    "one part of two": (_part, "give their folder"),
    "index without its parts": (_index_only, "fetch that file, too"),
    "index that leaves its folder": (_leaving_index, "is no file beside it"),
    "folder with nothing": (folder_of("nothing"), "has none of model.safetensors"),
    "no file": (lambda folder: folder / "none.pth", "No such file"),
}  # fmt: skip
"""How each file is written, and words of its refusal."""
