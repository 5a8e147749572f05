"""The recipe of a training run: each field is an option of `resnet-train` and a key of a recipe file."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from models.architectures.blocks import ShortcutKind
from models.architectures.resnet import NormKind
from models.training.device import Compute

Schedule = Literal["cosine", "step"]
OptimizerKind = Literal["sgd", "adamw"]
LossKind = Literal["cross-entropy", "bce"]
AutoAugment = Literal["none", "trivialaugment", "randaugment"]
Balance = Literal["none", "weights", "sampling"]
NewClassifier = Literal["fitted", "random"]
Freeze = Literal["none", "stem", "1", "2", "3", "4", "trunk"]

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RecipeError(ValueError):
    """The options and the data do not fit together; the message says which option to change."""


class Option(NamedTuple):
    """An option of the command: its group, why one changes it, and its name if that is not the field's."""

    group: str
    help: str
    flag: str | None = None


def _check_network(options: dict[str, Any]) -> dict[str, Any]:
    """Check the names and values of the options of a network.

    Raises:
        ValueError: there is no such option, or it does not take the value.
    """
    choices: dict[str, tuple[Any, ...]] = {
        "shortcut": get_args(ShortcutKind),
        "norm": get_args(NormKind),
        "zero_gamma": (True, False),
    }
    for name, value in options.items():
        if name not in choices:
            raise ValueError(f"a network has no option {name}, only {', '.join(choices)}")
        if value not in choices[name]:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} takes {', '.join(map(str, choices[name]))}, not {value!r}")
    return options


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """All options that decide the result of a run."""

    arch: str = ""
    """Name in the table of architectures."""
    epochs: Annotated[
        Count,
        Option("Schedule", "Passes through the training images. More reach a lower error, with more augmentation."),
    ] = 30
    batch_size: Annotated[
        Count, Option("Schedule", "Images per update of the weights. Change --lr in proportion with SGD.")
    ] = 128
    peak_lr: Annotated[
        Positive, Option("Schedule", "Learning rate after warm-up. Lower it if the loss diverges.", "--lr")
    ] = 0.1
    warmup_epochs: Annotated[
        Positive, Option("Schedule", "Epochs of linear warm-up. More for large batches and deep networks.", "--warmup")
    ] = 1.0
    schedule: Annotated[
        Schedule,
        Option("Schedule", "Learning rate over time: cosine, or step: a tenth after 1/2 and again after 3/4."),
    ] = "cosine"
    optimizer: Annotated[
        OptimizerKind,
        Option("Optimiser", "sgd, or adamw for mixed images and long runs; give it an --lr of 0.001."),
    ] = "sgd"
    momentum: Annotated[Share, Option("Optimiser", "Of SGD. Lower it for noisy, very small batches.")] = 0.9
    nesterov: Annotated[bool, Option("Optimiser", "Nesterov's form of momentum. The papers of 2016 have none.")] = True
    weight_decay: Annotated[
        Positive, Option("Optimiser", "Of weights. More for small data and long runs; about 0.05 with adamw.")
    ] = 5e-4
    decay_norm: Annotated[
        bool, Option("Optimiser", "Decay biases and normalisation, too, as the papers of 2016 do.")
    ] = False
    clip: Annotated[
        Positive, Option("Optimiser", "Largest norm of the gradient; 0 does not clip it. Against jumps of the loss.")
    ] = 0.0
    ema: Annotated[
        Annotated[float, Field(ge=0, lt=1)],
        Option(
            "Optimiser",
            "Decay per update of averaged weights (EMA), which are evaluated and exported: 0.999 to 0.9999 for long "
            "runs. 0 averages none.",
        ),
    ] = 0.0
    loss: Annotated[
        LossKind, Option("Loss", "cross-entropy, or bce: one binary cross-entropy per class, good with mixed images.")
    ] = "cross-entropy"
    label_smoothing: Annotated[
        Share, Option("Loss", "Share of each label that all classes get. Less if probabilities must be sharp.")
    ] = 0.1
    balance: Annotated[
        Balance, Option("Loss", "For classes of unequal size: weights in the loss, or sampling of the images; or none.")
    ] = "none"
    crop_padding: Annotated[
        Whole,
        Option("Augmentation", "Largest random shift in pixels. 0 with --random-crop.", "--crop"),
    ] = 4
    random_crop: Annotated[
        Share,
        Option(
            "Augmentation",
            "Smallest share of the area in a random resized crop: 0.08 for large sets of photographs, 0.35 for small "
            "ones. 0 cuts from the centre.",
        ),
    ] = 0.0
    flip: Annotated[
        bool, Option("Augmentation", "Mirror half of the images left to right. Not for text and digits.")
    ] = True
    auto_augment: Annotated[
        AutoAugment,
        Option("Augmentation", "Random operations, for long runs: trivialaugment (wide) or randaugment."),
    ] = "none"
    ra_operations: Annotated[Count, Option("Augmentation", "Operations per image of randaugment.")] = 2
    ra_magnitude: Annotated[
        Annotated[int, Field(ge=0, le=30)], Option("Augmentation", "Strength of randaugment. More for large networks.")
    ] = 9
    colour_jitter: Annotated[
        Share, Option("Augmentation", "Largest change of brightness, contrast and saturation: 0.4 if light varies.")
    ] = 0.0
    erasing: Annotated[
        Share, Option("Augmentation", "Share of images with a random rectangle erased. For things that may be covered.")
    ] = 0.0
    mixup: Annotated[
        Positive, Option("Augmentation", "Alpha of mixup: 0.2 for long runs of large networks. 0 mixes none.")
    ] = 0.0
    cutmix: Annotated[
        Positive,
        Option("Augmentation", "Alpha of CutMix: 1 for long runs. With --mixup, each has half of the images."),
    ] = 0.0
    repeats: Annotated[
        Count,
        Option("Augmentation", "Copies of an image in a batch (repeated augmentation). For large batches."),
    ] = 1
    train_size: Annotated[
        Whole,
        Option(
            "Sizes",
            "Shorter side of training images in pixels: 0.8 of the test size is faster, often better. "
            "0 takes the test size.",
        ),
    ] = 0
    start_size: Annotated[
        Whole,
        Option("Sizes", "Shorter side in the first epoch, which then grows: saves time. 0 is off."),
    ] = 0
    fixres_epochs: Annotated[
        Whole,
        Option("Sizes", "Last epochs on test-like images, without the convolutions (FixRes)."),
    ] = 0
    stochastic_depth: Annotated[
        Annotated[float, Field(ge=0, lt=1)],
        Option("Network", "Share of images that skip the last block, fewer the earlier ones: 0.05 to 0.2."),
    ] = 0.0
    freeze: Annotated[
        Freeze,
        Option("Fine-tuning", "Keep weights as they are up to: stem, stage 1 to 4, or trunk, all but the classifier."),
    ] = "none"
    freeze_epochs: Annotated[
        Whole, Option("Fine-tuning", "Epochs for which --freeze holds; 0 for all. More for very small data.")
    ] = 0
    keep_statistics: Annotated[
        bool,
        Option(
            "Fine-tuning",
            "Normalise with the statistics of --init in training, too: for small data and batches. Those of few images "
            "are no measure.",
        ),
    ] = False
    new_classifier: Annotated[
        NewClassifier,
        Option(
            "Fine-tuning",
            "For other classes than those of --init: fitted to features of the training images before the first step, "
            "or random.",
        ),
    ] = "fitted"
    trunk_lr: Annotated[
        Positive,
        Option("Fine-tuning", "Factor of the learning rate of all but the classifier; lower for little data."),
    ] = 1.0
    validation: Annotated[
        Positive,
        Option(
            "Choice",
            "Training images to hold out, a number or a share below 1, to choose the best epoch on. 0 takes "
            "the folder val/ or valid/, if there is one.",
        ),
    ] = 0.0
    early_stopping: Annotated[
        Whole,
        Option(
            "Choice",
            "Stop after this number of epochs without a lower validation error. 0 does not stop.",
            "--patience",
        ),
    ] = 0
    seed: Annotated[Seed, Option("Computing", "Of all random numbers: other seeds show how much chance there is.")] = 0
    compute: Annotated[
        Compute,
        Option("Computing", "float32, bfloat16, float16 for older GPUs, or auto: bfloat16 where it is faster."),
    ] = "auto"
    accumulate: Annotated[
        Count,
        Option("Computing", "Parts that a batch is computed in, if the memory of the GPU is too small."),
    ] = 1
    compile: Annotated[
        bool,
        Option(
            "Computing",
            "torch.compile, on GPUs with CUDA graphs: faster after a minute or two, but hardly on CPUs.",
        ),
    ] = False
    options: Annotated[dict[str, Any], AfterValidator(_check_network)] = field(default_factory=dict)
    """Options `shortcut`, `norm`, `zero_gamma` of the network."""


def options() -> dict[str, Option]:
    """The options of the command, by field."""
    hints = get_type_hints(Recipe, include_extras=True)
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Option)
    }
