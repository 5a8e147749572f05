"""Files that the documentation's examples take from the reader: weights, labelled images, an ONNX classifier."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from export.importing import torchvision
from models.architectures import build

IMAGENET_CLASSES = 1000


def write_torchvision_resnet18(folder: Path) -> None:
    """Random weights of a ResNet-18 with torchvision's names."""
    torch.manual_seed(0)
    model = build("resnet18", IMAGENET_CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    torch.save(
        {torchvision.rename(key): value for key, value in model.state_dict().items()}, folder / "resnet18-f37072fd.pth"
    )


def write_imagenet(folder: Path) -> None:
    """A folder for each of 1,000 classes below `imagenet/val`; six of them hold an image."""
    for number in range(IMAGENET_CLASSES):
        (folder / "imagenet" / "val" / f"n{number:08}").mkdir(parents=True)
    for number, photograph in enumerate(_photographs()):
        (folder / "imagenet" / "val" / f"n{number:08}" / "0.JPEG").write_bytes(photograph)


def write_image_folder(folder: Path) -> None:
    """Two classes of photographs: 12 training and 6 test images each."""
    photographs = [Image.open(io.BytesIO(photograph)).convert("RGB") for photograph in _photographs()]
    for split, count in (("train", 12), ("test", 6)):
        for name, group in (("people", photographs[:3]), ("things", photographs[3:])):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number, photograph in zip(range(count), itertools.cycle(group), strict=False):
                left = 4 * number
                part = photograph.crop((left, left, left + 96, left + 96))
                part.save(folder / "photos" / split / name / f"{number}.jpg")


def write_fashion_mnist(folder: Path) -> None:
    """200 training and 200 test images of noise in Fashion-MNIST's format, ten classes."""
    target = folder / "fashion-mnist"
    target.mkdir()
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        images = rng.integers(0, 256, (200, 28, 28), dtype=np.uint8)
        labels = (np.arange(200) % 10).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (target / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        (target / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))


def write_classifier(folder: Path, classes: int = 3) -> None:
    """An ONNX classifier of colour images [n, 3, 32, 32] with two convolutions, and the names of its classes."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (classes, 8), "b2": (classes,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "classifier", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    onnx.save(model, folder / "classifier.onnx")
    (folder / "classes.txt").write_text("".join(f"class {number}\n" for number in range(classes)))


def _photographs() -> list[bytes]:
    folder = resources.files("export") / "photographs"
    return [file.read_bytes() for file in sorted(folder.iterdir(), key=str) if file.name.endswith(".jpg")]


FILES: dict[str, Callable[[Path], None]] = {
    "resnet18-f37072fd.pth": write_torchvision_resnet18,
    "--data imagenet": write_imagenet,
    "--data photos": write_image_folder,
    "fashion-mnist": write_fashion_mnist,
    "classifier.onnx": write_classifier,
}
"""Text of a document whose commands need files, and the function that writes them into a folder."""
