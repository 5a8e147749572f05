"""ResNet-18, -50 and their v1.5/v1 strides against Hugging Face's transformers, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from export.importing.transformers import rename
from models.architectures import VARIANTS, build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet50-v1"])
def test_same_weights_give_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    images = torch.randn(4, 3, 96, 96)
    model.train()(images)  # statistics that are not the initial ones
    model.eval()

    variant = VARIANTS[name]
    is_basic = name in {"resnet18", "resnet34"}
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[width * (1 if is_basic else 4) for width in variant.widths],
        depths=list(variant.depths),
        layer_type="basic" if is_basic else "bottleneck",
        downsample_in_bottleneck=name.endswith("-v1"),
        num_labels=10,
    )
    reference = ResNetForImageClassification(config).eval()
    reference.load_state_dict({rename(key): value for key, value in model.state_dict().items()}, strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), reference(images).logits, rtol=1e-5, atol=1e-5)
