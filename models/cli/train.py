"""`resnet-train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from models.architectures import VARIANTS, UnknownArchitecture
from models.cli.architectures import list_architectures
from models.cli.recipe_options import with_recipe_options
from models.console import console, fail
from models.data import ArrayDataset, DataError, Dataset, load, load_held_out
from models.data.files import EncodedDataset, centre_crop
from models.imaging.preprocess import Geometry
from models.training import recipes
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.device import is_out_of_memory
from models.training.distributed.processes import ProcessesError, is_first, join
from models.training.execution import Execution
from models.training.recipe import Recipe, RecipeError
from models.training.run_directory import CHECKPOINT_FILE, RECIPE_FILE, check_folder
from models.training.signals import Interrupted
from models.training.trackers import choose_trackers
from models.training.train import Diverged, train
from models.training.transfer.initial import keep_classes, load_initial

Size = Annotated[
    int | None,
    typer.Option(
        help="Height and width in pixels of the centre crop of image files, after their shorter side is scaled to "
        "256/224 of it. Default: the input of the architecture; data sets of arrays keep their size.",
        min=1,
    ),
]
DataWorkers = Annotated[
    int | None,
    typer.Option(
        help="Processes that read and change images, for each process of the training; 0 reads in a thread. More if "
        "the share of time spent waiting for data is high. Default: by the CPUs.",
        min=0,
    ),
]
Cache = Annotated[
    bool,
    typer.Option(help="Decode training images once and keep them in memory. For small sets read from slow disks."),
]

TensorBoard = Annotated[
    bool,
    typer.Option(
        help="Write event files for TensorBoard to OUT/tensorboard. MLflow and Weights & Biases need no option: they "
        "are used if they are installed and their own environment variables are set, such as MLFLOW_TRACKING_URI and "
        "WANDB_PROJECT.",
    ),
]


class Splits(NamedTuple):
    """The images of a data set by their use."""

    training: Dataset
    validation: Dataset | None
    test: Dataset | None


@with_recipe_options
def train_command(
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder for the run: checkpoint, state, recipe, metrics, curves.")],
    arch: Annotated[
        str | None, typer.Option(help="Name in the table of architectures; see --list. Default: that of --init.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: a checkpoint, or anything that resnet-export import reads. The classifier is "
            "a new one if the classes differ. Better than random weights for any small set of photographs.",
            metavar="WEIGHTS",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Values of the options below: he2016, fast, a1, finetune, or a file such as the recipe.toml of a run. "
            "Options that are given as well come first. Default: finetune with --init.",
            metavar="NAME|FILE",
        ),
    ] = None,
    size: Size = None,
    shortcut: Annotated[
        str | None, typer.Option(help="Shortcut option A, B, C, D or none, instead of the architecture's own.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Normalisation: batch, or none, to study it.")] = None,
    zero_gamma: Annotated[bool, typer.Option(help="Initialise each block as its shortcut, for large batches.")] = False,
    resume: Annotated[bool, typer.Option(help="Continue the stopped run in --out, with its recipe.")] = False,
    data_workers: DataWorkers = None,
    cache: Cache = False,
    tensorboard: TensorBoard = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the architectures.", is_eager=True, callback=list_architectures)
    ] = False,
    **given: Any,
) -> None:
    """Train a network. Ctrl-C saves the run, and --resume continues it."""
    if not is_first():
        console.quiet = True
    network = {"shortcut": shortcut, "norm": norm, "zero_gamma": zero_gamma or None}
    try:
        check_folder(out, resume=resume)
        base = recipe or (str(out / RECIPE_FILE) if resume and (out / RECIPE_FILE).is_file() else None)
        trackers = choose_trackers(tensorboard)
        with join() as processes:
            initial = None if init is None else processes.from_first(lambda: load_initial(init, out, resume=resume))
            chosen = _make_recipe(arch, base, given, network, initial)
            training, validation, test = _load_splits(data, chosen.arch, size, initial)
            execution = Execution(processes, data_workers, cache, trackers)
            result = train(
                chosen, training, test, out, validation=validation, initial=initial, resume=resume, execution=execution
            )
    except Interrupted as interrupted:
        console.print(str(interrupted), highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(130) from None
    except Exception as error:
        fail(_explain(error, out))
    _report(result, out)


def _explain(error: Exception, out: Path) -> str:
    """The message for an error that can be expected. Raises any other error again."""
    if isinstance(error, (DataError, CheckpointError, Diverged, ProcessesError, ValueError)):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: give --accumulate 2 or more, a smaller --batch-size, or a smaller --size"
    if isinstance(error, OSError):
        return f"{error.filename or out}: {error.strerror or error}"
    raise error


def _make_recipe(
    arch: str | None, base: str | None, given: dict[str, Any], network: dict[str, Any], initial: Checkpoint | None
) -> Recipe:
    """The values of the base, those of the options, and the architecture of the checkpoint to begin with.

    Raises:
        RecipeError: a value is wrong, or there is no architecture.
    """
    base = base or ("finetune" if initial is not None else None)
    values = {**({} if base is None else recipes.read(base)), **given}
    options = {key: value for key, value in network.items() if value is not None and (key, value) != ("norm", "batch")}
    values["options"] = {**values.get("options", {}), **options}
    if arch is not None:
        values["arch"] = arch
    if initial is not None:
        named = arch or initial.architecture.name
        if named != initial.architecture.name or options:
            raise RecipeError(
                f"--init has the weights of a {initial.architecture.name}: give no --arch, and no option of the network"
            )
        values |= {"arch": named, "options": dict(initial.architecture.options)}
    if not values.get("arch"):
        raise RecipeError("--arch is missing: give an architecture of --list, or weights to begin with as --init")
    return recipes.make(values)


def _load_splits(folder: Path, arch: str, size: int | None, initial: Checkpoint | None) -> Splits:
    """The splits in the size of the option, or else of the checkpoint or the architecture; prints the size.

    Raises:
        DataError, UnknownArchitecture.
    """
    if arch not in VARIANTS:
        raise UnknownArchitecture(arch)
    input_size = VARIANTS[arch].input_size
    geometry: Geometry | None = None if size is None else centre_crop(size)
    if initial is not None:
        kept = {"mode", "interpolation"} if size else set(Geometry.model_fields)
        cut = {} if geometry is None else geometry.model_dump()
        geometry = Geometry(**cut | initial.preprocess.model_dump(include=kept))
    training = load(folder, "train", geometry, file_size=input_size)
    if size and initial is None and isinstance(training, ArrayDataset) and training.array.shape[1:3] == (size, size):
        geometry = Geometry(size=(size, size), mode=training.geometry.mode)  # arrays of that size are taken whole
        training = replace(training, requested=geometry)
    splits = Splits(training, *load_held_out(folder, geometry, file_size=input_size))
    if initial is not None:
        splits = Splits(*(None if each is None else keep_classes(each, initial) for each in splits))  # type: ignore[arg-type]
    height, width = training.geometry.size
    origin = "as --size says" if size else "as they are stored" if initial is None else "the input of --init"
    if size is None and initial is None and isinstance(training, EncodedDataset):
        origin = f"the input of {arch}; --size sets another"
    counts = f"{len(training.labels):,} training"
    if splits.validation is not None:
        counts += f", {len(splits.validation.labels):,} validation"
    counts += f" and {0 if splits.test is None else len(splits.test.labels):,} test images"
    console.print(
        f"{counts} of {len(training.classes):,} classes, {height} x {width} pixels ({origin})",
        highlight=False,
        soft_wrap=True,
    )
    return splits


def _report(result: Checkpoint, out: Path) -> None:
    """Print the accuracy of the checkpoint, and where it is."""
    metrics = result.training["metrics"]
    if "validation_error" in metrics:
        best = f"best epoch {metrics['epoch']}, with a validation error of {metrics['validation_error']:.2%}"
        console.print(best, highlight=False)
    if test := result.training.get("test"):
        console.print(f"top-1 {test['top1']:.2%} on {test['images']} test images", highlight=False)
    console.print(f"checkpoint: {out / CHECKPOINT_FILE}", highlight=False, soft_wrap=True, markup=False)
