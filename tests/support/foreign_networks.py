"""Networks of other projects, written out here with their names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """torchvision's, with its names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet18(nn.Module):
    """The `resnet18` of torchvision and timm.

    Args:
        classes: number of classes.
        channels: number of colour channels.
        width: channels of the first stage; 64 in the original.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(4):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            blocks = (BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def resnet18(classes: int, channels: int = 3, seed: int = 0, width: int = 64) -> ResNet18:
    """A network whose statistics are not the initial ones, in evaluation mode, so that a comparison can fail."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = ResNet18(classes, channels, width)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            low, high = (0.1, 0.3) if name.endswith("bn2") else (0.7, 1.3)
            nn.init.uniform_(module.weight, low, high, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            module.momentum = None  # cumulative average
    with torch.no_grad():
        images = torch.randn(8, channels, 64, 64, generator=generator)
        model.train()(images)
        nn.init.normal_(model.fc.weight, std=0.05, generator=generator)
        model.eval().fc.bias.sub_(model(images).mean(0))
    return model
