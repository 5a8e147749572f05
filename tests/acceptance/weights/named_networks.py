"""Random networks with settled statistics, as projects publish them, and what they compute of photographs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from models.artifact.parity import Float32Array
from tests.support.foreign_networks import BasicBlock

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPHS = 32


class Bottleneck(nn.Module):
    """torchvision's, with its names; the stride is in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """The `resnet18` or `resnet50` of torchvision and timm."""

    def __init__(self, layers: int, classes: int) -> None:
        super().__init__()
        block, depths, expansion = (BasicBlock, (2, 2, 2, 2), 1) if layers == 18 else (Bottleneck, (3, 4, 6, 3), 4)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                width, stride = 64 * 2**stage, 2 if stage and not index else 1
                blocks.append(block(inputs, width, stride))
                inputs = width * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Published:
    """Files of a network, and its logits for the photographs by its own code and preprocessing."""

    files: Mapping[str, bytes]
    logits: Float32Array
    labels: Sequence[str] | None = None


@cache
def photographs() -> tuple[bytes, ...]:
    """32 crops of the shipped photographs, as PNG."""
    paths = sorted(Path(str(resources.files("export").joinpath("photographs"))).glob("*.jpg"))
    crops = []
    for index in range(PHOTOGRAPHS):
        image = Image.open(paths[index % len(paths)]).convert("RGB")
        width, height = image.width * 2 // 3, image.height * (3 + index % 4) // 8
        left, top = (image.width - width) * (index // 6) // 5, (image.height - height) * (index % 5) // 4
        crop = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(crop, "PNG")
        crops.append(crop.getvalue())
    assert len(set(crops)) == PHOTOGRAPHS
    return tuple(crops)


def torchvision_transform(data: bytes, size: int, resize: int, resample: Image.Resampling) -> Tensor:
    """`Resize`, `CenterCrop` and `Normalize` of torchvision and timm, in Pillow's operations: float32 [3, h, w]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short, long = sorted(image.size)
    longer = int(resize * long / short)
    image = image.resize((resize, longer) if image.width <= image.height else (longer, resize), resample)
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)


def settle(model: nn.Module, head: Any, forward: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Statistics of photographs, weak residual branches and centred logits, so that a comparison can fail."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average
            last = name.endswith(("bn3", "layer.2.normalization"))
            nn.init.uniform_(module.weight, *((0.1, 0.3) if last else (0.7, 1.3)), generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    nn.init.normal_(head.weight, std=0.05, generator=generator)
    with torch.no_grad():
        model.train()
        forward(images)
        model.eval()
        head.bias.sub_(forward(images).mean(0))


def logits(forward: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> Float32Array:
    """Logits, float32 [n, classes], of images [3, h, w], one at a time."""
    with torch.inference_mode():
        return np.concatenate([forward(image[None]).numpy() for image in images])


def timm_network(layers: int, tag: str, classes: int, crop: float, pickled: bool) -> Published:
    """A repository as timm writes it; with other classes than ImageNet's, their names are in the configuration."""
    size, own = 224, classes != 1000
    images = [torchvision_transform(each, size, int(size / crop), Image.Resampling.BICUBIC) for each in photographs()]
    torch.manual_seed(layers)
    model = ResNet(layers, classes)
    settle(model, model.fc, model, torch.stack(images[::2]))
    names = [f"n{index:08}" for index in range(classes)]
    described = {name: f"thing {index}" for index, name in enumerate(names)}
    config = {
        "architecture": f"resnet{layers}",
        "num_classes": classes,
        "num_features": model.fc.in_features,
        **({"label_names": names, "label_descriptions": described} if own else {}),
        "pretrained_cfg": {
            "tag": tag, "custom_load": False, "input_size": [3, size, size], "fixed_input_size": False,
            "interpolation": "bicubic", "crop_pct": crop, "crop_mode": "center", "mean": MEAN, "std": STD,
            "test_input_size": [3, 288, 288], "test_crop_pct": 1.0, "num_classes": classes, "pool_size": [7, 7],
            "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0",
        },
    }  # fmt: skip
    card = b"---\nlibrary_name: timm\nlicense: apache-2.0\ntags:\n- image-classification\n---\n# Model card\n"
    weights = (
        {"pytorch_model.bin": pickled_state(model)} if pickled else {"model.safetensors": save(model.state_dict())}
    )
    files = {"config.json": json.dumps(config).encode(), "README.md": card, ".gitattributes": b"", **weights}
    return Published(files, logits(model, images), list(described.values()) if own else None)


def pickled_state(model: nn.Module) -> bytes:
    """The state dict as `torch.save` writes it."""
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return content.getvalue()


def _safetensors(model: nn.Module) -> bytes:
    return save(model.state_dict())


def torchvision_file(resize: int) -> Published:
    """A ResNet-18 with torchvision's preprocessing, of ImageNet's classes."""
    images = [torchvision_transform(each, 224, resize, Image.Resampling.BILINEAR) for each in photographs()]
    torch.manual_seed(resize)
    model = ResNet(18, 1000)
    settle(model, model.fc, model, torch.stack(images[::2]))
    return Published({"resnet18.pth": pickled_state(model)}, logits(model, images))


def transformers_network(sharded: bool, **config: Any) -> Published:
    """A repository as transformers writes it, with the library's own network and preprocessing."""
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 224}, crop_pct=0.875, image_mean=list(MEAN), image_std=list(STD)
    )
    labels = [f"object {index}" for index in range(20)]
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(**config, id2label=dict(enumerate(labels))))
    images = [
        torch.from_numpy(processor(Image.open(io.BytesIO(each)).convert("RGB"), return_tensors="np")["pixel_values"][0])
        for each in photographs()
    ]
    forward: Callable[[Tensor], Tensor] = lambda x: model(x).logits  # noqa: E731
    settle(model, model.classifier[1], forward, torch.stack(images[::2]))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="20MB" if sharded else "5GB")
        processor.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Published(files, logits(forward, images), labels)
