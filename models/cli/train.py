"""`resnet-train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from models.architectures import VARIANTS, UnknownArchitecture
from models.architectures.blocks import ShortcutKind
from models.architectures.resnet import NormKind
from models.cli.architectures import list_architectures
from models.console import console, fail
from models.data import DataError, Dataset, load
from models.data.files import EncodedDataset, centre_crop
from models.training.checkpoint import CheckpointError
from models.training.device import Compute
from models.training.recipe import Recipe
from models.training.run_directory import CHECKPOINT_FILE, check_folder
from models.training.train import Diverged, Interrupted, train

_default = Recipe("")


def train_command(
    arch: Annotated[str, typer.Option(help="Name in the table of architectures; see --list.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder for the run: checkpoint, state, metrics, curves.")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels of the centre crop of image files, after their shorter side is scaled to "
            "256/224 of it. Default: the input of the architecture; data sets of arrays keep their size.",
            min=1,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes through the training images.", min=1)] = _default.epochs,
    batch_size: Annotated[int, typer.Option(help="Images per step.", min=1)] = _default.batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate after warm-up.", min=0)] = _default.peak_lr,
    momentum: Annotated[float, typer.Option(min=0, max=1)] = _default.momentum,
    weight_decay: Annotated[
        float, typer.Option(help="Of weights; biases and normalisation have none.", min=0)
    ] = _default.weight_decay,
    warmup: Annotated[float, typer.Option(help="Epochs of linear warm-up.", min=0)] = _default.warmup_epochs,
    label_smoothing: Annotated[float, typer.Option(min=0, max=1)] = _default.label_smoothing,
    crop: Annotated[int, typer.Option(help="Largest random shift in pixels.", min=0)] = _default.crop_padding,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images left to right.")] = _default.flip,
    erasing: Annotated[
        float, typer.Option(help="Share of images with a random rectangle erased.", min=0, max=1)
    ] = _default.erasing,
    shortcut: Annotated[
        str | None, typer.Option(help="Shortcut option A, B, C or none, instead of the architecture's own.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Normalisation: batch or none.")] = "batch",
    zero_gamma: Annotated[bool, typer.Option(help="Initialise each block as its shortcut.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = _default.seed,
    validation: Annotated[
        int, typer.Option(help="Training images to hold out, to make choices on.", min=0)
    ] = _default.validation,
    compute: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 if the device supports it.")
    ] = _default.compute,
    resume: Annotated[bool, typer.Option(help="Continue the stopped run in --out.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the architectures.", is_eager=True, callback=list_architectures)
    ] = False,
) -> None:
    """Train a network. Ctrl-C saves the run, and --resume continues it."""
    for name, value, choices in (
        ("--shortcut", shortcut or "A", get_args(ShortcutKind)),
        ("--norm", norm, get_args(NormKind)),
        ("--compute", compute, get_args(Compute)),
    ):
        if value not in choices:
            fail(ValueError(f"{name} takes {', '.join(choices)}, not {value!r}"))
    options = {"shortcut": shortcut, "norm": norm, "zero_gamma": zero_gamma}
    defaults = {"shortcut": None, "norm": "batch", "zero_gamma": False}
    recipe = Recipe(
        arch=arch,
        epochs=epochs,
        batch_size=batch_size,
        peak_lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup_epochs=warmup,
        label_smoothing=label_smoothing,
        crop_padding=crop,
        flip=flip,
        erasing=erasing,
        seed=seed,
        validation=validation,
        compute=cast(Compute, compute),
        options={key: value for key, value in options.items() if value != defaults[key]},
    )
    try:
        check_folder(out, resume=resume)
        images, test_images = _load_splits(data, arch, size)
        result = train(recipe, images, test_images, out, resume=resume)
    except Interrupted as interrupted:
        console.print(str(interrupted), highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except (DataError, CheckpointError, Diverged, ValueError) as error:
        fail(error)
    test = result.training["test"]
    console.print(f"top-1 {test['top1']:.2%} on {test['images']} test images", highlight=False)
    console.print(f"checkpoint: {out / CHECKPOINT_FILE}", highlight=False, soft_wrap=True)


def _load_splits(folder: Path, arch: str, size: int | None) -> tuple[Dataset, Dataset]:
    """The training and the test split, in the size of the option or else of the architecture; prints the size.

    Raises:
        DataError, UnknownArchitecture.
    """
    if arch not in VARIANTS:
        raise UnknownArchitecture(arch)
    geometry = None if size is None else centre_crop(size)
    input_size = VARIANTS[arch].input_size
    training = load(folder, "train", geometry, file_size=input_size)
    test = load(folder, "test", geometry, file_size=input_size)
    height, width = training.geometry.size
    origin = "as --size says" if size else "as they are stored"
    if size is None and isinstance(training, EncodedDataset):
        origin = f"the input of {arch}; --size sets another"
    console.print(
        f"{len(training.labels):,} training and {len(test.labels):,} test images of {len(training.classes):,} classes, "
        f"{height} x {width} pixels ({origin})",
        highlight=False,
        soft_wrap=True,
    )
    return training, test
