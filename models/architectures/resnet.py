"""The network of all variants: stem, stages of blocks, average pool, classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.blocks import (
    Block,
    ConvNorm,
    ConvShape,
    LinearJoinBlock,
    Norm,
    PostActivationBlock,
    PreActivationBlock,
    ShortcutKind,
)

NormKind = Literal["batch", "none"]


@dataclass(frozen=True)
class Variant:
    """One row of the table of architectures."""

    depths: tuple[int, ...]
    """Blocks in each stage; every stage but the first halves the resolution."""
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions of each stage."""
    shapes: Callable[[int, int], tuple[ConvShape, ...]]
    """The convolutions of one block, from its width and stride."""
    block: Block = PostActivationBlock
    shortcut: ShortcutKind = "B"
    stem: tuple[ConvShape, ...] = (ConvShape(7, 64, 2),)
    """The convolutions before the first stage. A max pool follows them if they have a stride."""
    input_size: int = 224
    """Height and width in pixels of the paper's figures; the network takes any size."""

    @property
    def reduces_early(self) -> bool:
        """Whether the stem has a stride and a pool, as networks for the photographs of ImageNet do."""
        return self.stem[0].stride > 1


class ResNet(nn.Module):
    """A residual (or plain) network.

    Args:
        variant: row of the table.
        num_classes: number of logits.
        in_channels: channels of the input, 1 for grey and 3 for colour.
        shortcut: overrides the variant's shortcut option.
        norm: "batch", or "none" for no normalisation (the convolutions then have biases).
        zero_gamma: initialise the last scale of each block with zero: the block starts as its shortcut (Goyal et al.
            2017).
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int,
        in_channels: int = 3,
        *,
        shortcut: ShortcutKind | None = None,
        norm: NormKind = "batch",
        zero_gamma: bool = False,
    ) -> None:
        super().__init__()
        for option, given, kinds in (("shortcut", shortcut, ShortcutKind), ("norm", norm, NormKind)):
            if given is not None and given not in get_args(kinds):
                raise ValueError(f"{option} is {given!r}, not one of {', '.join(get_args(kinds))}")
        make_norm: Norm = nn.BatchNorm2d if norm == "batch" else nn.Identity
        pre_activation = variant.block is PreActivationBlock
        # A pre-activation block normalises its own input, so its stem is the bare convolution.
        self.stem = _stem(in_channels, variant.stem, nn.Identity if pre_activation else make_norm)
        self.activates_stem = not pre_activation
        self.pool = nn.MaxPool2d(3, 2, 1) if variant.reduces_early else nn.Identity()
        width = variant.stem[-1].channels

        self.stages = nn.ModuleList()
        for stage, (depth, stage_width) in enumerate(zip(variant.depths, variant.widths, strict=True)):
            blocks = []
            for index in range(depth):
                shapes = variant.shapes(stage_width, 2 if stage > 0 and index == 0 else 1)
                first = stage == 0 and index == 0
                blocks.append(variant.block(width, shapes, shortcut or variant.shortcut, make_norm, first=first))
                width = shapes[-1].channels
            self.stages.append(nn.Sequential(*blocks))

        self.final_norm = make_norm(width) if pre_activation else nn.Identity()
        self.activates_output = pre_activation
        self.classifier = nn.Linear(width, num_classes)
        self.num_features = width
        _initialise(self, zero_gamma)

    def features(self, x: Tensor, stages: list[Tensor] | None = None) -> Tensor:
        """The last block's output [N, features, h, w] for normalised images [N, C, H, W].

        Args:
            x: the images.
            stages: gets the output of each stage, [N, channels, h, w]; in a pre-activation network these are the sums
                before the next normalisation and ReLU.
        """
        x = self.stem(x)
        if self.activates_stem:
            x = F.relu(x)
        x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
            if stages is not None:
                stages.append(x)
        x = self.final_norm(x)
        return F.relu(x) if self.activates_output else x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] for normalised images [N, C, H, W]."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def _stem(in_channels: int, shapes: Sequence[ConvShape], norm: Norm) -> nn.Module:
    """One convolution, or several with ReLUs between them."""
    layers: list[nn.Module] = []
    for shape in shapes:
        layers += [ConvNorm(in_channels, shape, norm), nn.ReLU()]
        in_channels = shape.channels
    return layers[0] if len(shapes) == 1 else nn.Sequential(*layers[:-1])


def _initialise(model: ResNet, zero_gamma: bool) -> None:
    """He initialisation: Var[w] = 2 / (k^2 c_out) keeps the variance of gradients through ReLUs (He et al. 2015)."""
    if model.classifier.weight.is_meta:  # no values to initialise; for 1,202 layers this would take seconds
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.classifier.weight, std=0.01)
    nn.init.zeros_(model.classifier.bias)
    if zero_gamma:
        for module in model.modules():
            if isinstance(module, PostActivationBlock | LinearJoinBlock) and module.shortcut is not None:
                last = module.convs[-1].norm
            elif isinstance(module, PreActivationBlock) and module.shortcut is not None:
                last = module.norms[-1]
            else:
                continue
            if isinstance(last, nn.BatchNorm2d):
                nn.init.zeros_(last.weight)
