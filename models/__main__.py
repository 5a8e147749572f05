"""`resnet-train` and `resnet-evaluate`; also `python -m models train` and `python -m models evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import torch
import typer
from rich.table import Table

from models.architectures import VARIANTS, UnknownArchitecture, build
from models.architectures.blocks import ShortcutKind
from models.architectures.complexity import count_multiply_adds, count_parameters
from models.architectures.resnet import NormKind
from models.console import ByPosition, console, fail
from models.data import DataError, Dataset, load, match_classes
from models.data.files import EncodedDataset, centre_crop, check_images
from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from models.training.device import Compute
from models.training.evaluate import EvaluationReport, evaluate
from models.training.plots import plot_confusion
from models.training.recipe import Recipe
from models.training.run_directory import CHECKPOINT_FILE, check_folder
from models.training.train import Diverged, Interrupted, train

app = typer.Typer(help="Train and evaluate networks.", no_args_is_help=True)
_default = Recipe("")


def _list_architectures(wanted: bool) -> None:
    if not wanted:
        return
    table = Table("architecture", "shortcut", "parameters", "multiply-adds", "input")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            model = build(name, 1000 if variant.stem == "imagenet" else 10)
            # Normalisation does not count, and without it this takes a third of the time.
            bare = build(name, 1000 if variant.stem == "imagenet" else 10, norm="none")
        operations = count_multiply_adds(bare, 3, (variant.input_size, variant.input_size))
        table.add_row(
            name,
            variant.shortcut,
            f"{count_parameters(model) / 1e6:.2f} M",
            f"{operations / 1e9:.2f} G" if operations >= 1e9 else f"{operations / 1e6:.1f} M",
            f"{variant.input_size} x {variant.input_size}",
        )
    type(console)().print(table)
    raise typer.Exit


@app.command("train")
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
        bool, typer.Option("--list", help="Show the architectures.", is_eager=True, callback=_list_architectures)
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


@app.command("evaluate")
def evaluate_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint.", metavar="CHECKPOINT")],
    data: Annotated[Path, typer.Option(help="Folder of the data set; its test split is used.")],
    confusion: Annotated[Path | None, typer.Option(help="PNG file for the confusion matrix.")] = None,
    by_position: ByPosition = False,
) -> None:
    """Print top-1, top-5 and the accuracy of each class on the test split."""
    try:
        loaded = checkpoint.load(path)
        test = load(data, "test", loaded.preprocess)
        check_images(test)
        test = match_classes(test, loaded.labels, by_position=by_position)
        report = evaluate(loaded.model(), test, loaded.preprocess)
    except (DataError, CheckpointError) as error:
        fail(error)
    _print_report(report, loaded.labels)
    if confusion is not None:
        try:
            plot_confusion(report.confusion, loaded.labels, confusion)
        except (OSError, ValueError) as error:
            fail(error)


def _print_report(report: EvaluationReport, labels: tuple[str, ...]) -> None:
    table = Table("class", "images", "top-1")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, count, share in zip(labels, report.confusion.sum(1), report.per_class, strict=True):
        table.add_row(label, f"{count}", f"{share:.2%}" if count else "-")
    table.add_section()
    table.add_row("all", f"{report.images}", f"{report.top1:.2%}")
    output = type(console)()
    output.print(table)
    output.print(f"top-1 {report.top1:.4f}  top-5 {report.top5:.4f}  images {report.images}", highlight=False)


def run_train() -> None:
    """`resnet-train`."""
    typer.run(train_command)


def run_evaluate() -> None:
    """`resnet-evaluate`."""
    typer.run(evaluate_command)


if __name__ == "__main__":
    app()
