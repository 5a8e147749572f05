"""The table of architectures against the papers' figures."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from models.architectures import VARIANTS, UnknownArchitecture, build
from models.architectures.blocks import PostActivationBlock
from models.architectures.complexity import count_multiply_adds, count_parameters

# He et al. 2016a, Table 6, and section 4.2; ResNet-1202 from the same. WRN-40-4 and WRN-28-10: Zagoruyko and Komodakis
# 2016, Table 5. WRN-16-2: Zagoruyko and Komodakis 2017, "Paying more attention to attention", Table 1.
PARAMETERS = {
    "resnet20": 0.27e6,
    "resnet32": 0.46e6,
    "resnet44": 0.66e6,
    "resnet56": 0.85e6,
    "resnet110": 1.7e6,
    "resnet1202": 19.4e6,
    "wrn-40-4": 8.9e6,
    "wrn-28-10": 36.5e6,
    "wrn-16-2": 0.7e6,
}

# He et al. 2016a, Table 1; with the stride in the 3x3, torchvision's published figures.
MULTIPLY_ADDS = {
    "resnet18": 1.8e9,
    "resnet34": 3.66e9,
    "resnet50-v1": 3.86e9,
    "resnet101-v1": 7.6e9,
    "resnet152-v1": 11.3e9,
    "resnet101": 7.8e9,
    "resnet152": 11.5e9,
}


# Published figures of torchvision's files (resnext, wide_resnet) and of timm's model cards, which round to 0.1 million.
TWEAKED_PARAMETERS = {
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "resnet10t": 5.4e6,
    "resnet18d": 11.7e6,
    "resnet26": 16.0e6,
    "resnet50c": 25.6e6,
    "resnet50d": 25.6e6,
    "resnet50s": 25.7e6,
    "resnet50t": 25.6e6,
    "resnet101d": 44.6e6,
    "resnet152d": 60.2e6,
    "resnet200d": 64.7e6,
    "resnext50d_32x4d": 25.0e6,
    "resnext101_32x16d": 194.0e6,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_cifar_family(name: str) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=10)
    assert count_parameters(model) == pytest.approx(PARAMETERS[name], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWEAKED_PARAMETERS)
def test_parameters_of_variants_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=1000)
    published = TWEAKED_PARAMETERS[name]
    exact = isinstance(published, int)
    assert count_parameters(model) == pytest.approx(published, rel=0 if exact else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_of_the_imagenet_family(name: str) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=1000)
    assert count_multiply_adds(model, channels=3, size=(224, 224)) == pytest.approx(MULTIPLY_ADDS[name], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "tiny"])
def test_name_says_the_number_of_layers(name: str) -> None:
    """Weighted layers on the longest path: all convolutions but those on shortcuts, and the classifier.

    The paper of the wide ResNets counts the three projections and not the classifier.
    """
    with torch.device("meta"):
        model = build(name, num_classes=10)
    on_shortcuts = {
        id(conv)
        for key, module in model.named_modules()
        if key.endswith("shortcut")
        for conv in module.modules()
        if isinstance(conv, nn.Conv2d)
    }
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) - len(on_shortcuts)
    layers -= len(VARIANTS[name].stem) - 1  # the three convolutions of a deep stem count as the one that they replace
    stated = re.search(r"\d+", name)
    assert stated is not None
    assert layers + (2 if name.startswith("wrn") else 0) == int(stated.group())


@pytest.mark.slow
def test_plain_twins_have_no_shortcut() -> None:
    for name in VARIANTS:
        if name.startswith("plain"):
            with torch.device("meta"):
                model = build(name, num_classes=10)
            assert all(block.shortcut is None for block in model.modules() if isinstance(block, PostActivationBlock))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "resnet20",
        "preact-resnet20",
        pytest.param("linear-join-resnet50", marks=pytest.mark.slow),
        "plain18",
        "resnet10t",
    ],
)
def test_shapes(name: str, channels: int) -> None:
    model = build(name, num_classes=7, in_channels=channels).eval()
    images = torch.zeros(2, channels, 64, 64)
    with torch.no_grad():
        feature_map = model.features(images)
        assert model(images).shape == (2, 7)
    assert feature_map.shape[:2] == (2, model.num_features)


def test_initialisation_keeps_the_variance_that_he_et_al_derive() -> None:
    """Var[w] = 2 / (k^2 c_out); He et al. 2015, Eq. 14."""
    torch.manual_seed(0)
    for module in build("resnet18", num_classes=10).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.var().item() == pytest.approx(2 / fan_out, rel=0.05)


@pytest.mark.parametrize("name", ["resnet20", "preact-resnet20", "linear-join-resnet20", "resnet50"])
def test_zero_gamma_starts_every_block_as_its_shortcut(name: str) -> None:
    torch.manual_seed(0)
    stage: Any = build(name, num_classes=10, zero_gamma=True).eval().stages[0]
    x = torch.rand(2, 256 if name == "resnet50" else 16, 8, 8)
    block = stage[1]
    joined = block.convs[0](x) if name.startswith("linear-join") else x
    expected = joined if name.startswith("preact") else joined.clamp(min=0)
    torch.testing.assert_close(block(x), expected)


def test_without_normalisation_convolutions_have_biases() -> None:
    model = build("resnet20", num_classes=10, norm="none")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10", "'resnet10': did you mean resnet10t or .*resnet-train --list shows all"),
        ("ResNet-50", "'ResNet-50': did you mean resnet50 or .*resnet-train --list shows all"),
        ("vit", "'vit'; resnet-train --list shows all"),
    ],
)
def test_unknown_name_is_answered_with_similar_ones(name: str, message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message) as caught:
        build(name, num_classes=10)
    assert str(len(VARIANTS)) in str(caught.value)


@pytest.mark.parametrize("options", [{"shortcut": "E"}, {"norm": "group"}])
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    """A checkpoint of a later version may name an option that this one would compute in another way."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} is {next(iter(options.values()))!r}, not one of"):
        build("resnet20", num_classes=10, **options)
