"""Training as named steps: `train` is the outline, the other functions follow in the order of their use.

The rooms: `input` chooses the images of each batch, `augmentation` reads and changes them, `step` updates the weights
with the parts in `optim`, `transfer` begins with other weights, `run_directory` holds the files. All random numbers
come from (seed, epoch) or (seed, epoch, image), so a resumed run takes the same steps as an uninterrupted one. Several
processes (`distributed`) run the same lines: each computes its share of every batch, and all of them hold the same
state. Only the first one prints and writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models import malloc
from models.data import DataError, Dataset
from models.data.files import check_images
from models.imaging.preprocess import Preprocess
from models.progress import ProgressBar, progress_bar
from models.training import checkpoint
from models.training.augmentation.pipeline import Pipeline
from models.training.augmentation.sheet import write_sheet
from models.training.cache import cache_images
from models.training.checkpoint import Checkpoint
from models.training.choice import is_best, stops_early
from models.training.device import best_device
from models.training.distributed.processes import Processes
from models.training.evaluate import evaluate
from models.training.execution import DEFAULT, Execution
from models.training.input.sampling import check_batches, plan_epoch
from models.training.input.splits import measure_preprocess, split
from models.training.loader import BatchLoader, default_workers
from models.training.recipe import Recipe, RecipeError
from models.training.results import describe, describe_network, finish, save_checkpoint, test_figures
from models.training.run_directory import RunDirectory
from models.training.signals import Interrupted, stop_signals
from models.training.state import TrainingState
from models.training.step import TrainingStep, start
from models.training.trackers import open_trackers
from models.training.transfer.new_classifier import choose_classifier
from models.training.transfer.trained_parts import set_trained

_READING_SECONDS = 0.5
"""Time between two readings of the loss, for each of which a GPU finishes its work."""


class Diverged(Exception):
    """The loss or a weight is not a finite number any more; the last finished epoch before is kept."""


def train(
    recipe: Recipe,
    data: Dataset,
    test: Dataset | None,
    out: Path,
    *,
    validation: Dataset | None = None,
    initial: Checkpoint | None = None,
    resume: bool = False,
    watched: Mapping[str, Dataset] | None = None,
    execution: Execution = DEFAULT,
) -> Checkpoint:
    """Train a network and write the run to `out`.

    Args:
        recipe: options of the run.
        data: the training split; `recipe.validation` of its images are held out.
        test: images to report on after the last epoch; never used for a choice.
        out: folder of the run.
        validation: images to choose the best epoch on, if none are held out.
        initial: checkpoint with the weights to begin with.
        resume: continue from the state in `out`, if there is one.
        watched: data sets whose error is recorded after each epoch as `NAME_error`; never used for a choice.
        execution: processes, workers, cache and trackers.

    Raises:
        Interrupted: SIGINT or SIGTERM was received; the state is saved.
        Diverged: the loss or a weight is not finite; nothing of this epoch is saved.
        RecipeError: the options do not fit the data or the network.
        CheckpointError: `resume` with the state of another recipe or other data, or another process trains in `out`.
        DataError: images cannot be read or decoded.
        ProcessesError: another process has ended.
    """
    return _train(recipe, data, test, out, validation, initial, resume, watched or {}, execution)


def _train(
    recipe: Recipe,
    data: Dataset,
    test: Dataset | None,
    out: Path,
    validation: Dataset | None,
    initial: Checkpoint | None,
    resume: bool,
    watched: Mapping[str, Dataset],
    execution: Execution,
) -> Checkpoint:
    device, processes = best_device(), execution.processes
    malloc.keep_freed_blocks()
    training, held_out = split(data, recipe)
    validation = held_out if recipe.validation else validation
    check_recipe(recipe, len(training.labels), validation)
    processes.from_first(lambda: check_images(data, test, validation, *watched.values()))
    preprocess = processes.from_first(lambda: choose_preprocess(training, initial))
    network = describe_network(recipe, data, preprocess)
    identity = describe_run(recipe, training, validation, preprocess, initial)
    run = RunDirectory(out, identity, writes=processes.first)
    if initial is not None and not (resume and run.has_state()):
        begin = initial
        initial = processes.from_first(lambda: choose_classifier(begin, training, recipe, preprocess, device))
    state = start(recipe, network, device, data.classes, initial, processes)
    step = TrainingStep(state, recipe, training, preprocess, device, processes)
    pipeline = Pipeline(training, recipe, preprocess, step.blocks)
    pipeline = cache_images(pipeline) if execution.cache else pipeline
    workers = default_workers(pipeline, device) if execution.data_workers is None else execution.data_workers
    loader = BatchLoader(pipeline, workers, pinned=device.type == "cuda")
    watched = {**({} if validation is None else {"validation": validation}), **watched}

    bar = progress_bar("training", total=recipe.epochs * len(training.labels))
    tracking = open_trackers(execution.trackers if run.writes else (), out, identity)
    with run.locked(), closing(loader), bar as progress, stop_signals() as stop, tracking as tracked:
        history = run.resume(state) if resume else []
        run.write_recipe(recipe)
        while state.epoch < recipe.epochs and not stops_early(history, recipe.early_stopping):
            try:
                run_epoch(state, step, pipeline, loader, run, progress, stop, processes)
            except DataError:
                save_alone(state, history, recipe, run, processes)
                raise
            check_finite(state, recipe, run)
            # Nothing of the epoch is lost if one of the next steps fails, or the process is killed meanwhile.
            run.save_state(state, history)
            if processes.any(bool(stop)):
                raise Interrupted(f"stopped in epoch {state.epoch + 1}, saved in {out}: continue with --resume")
            history.append(finish_epoch(state, step, pipeline, watched, processes))
            if is_best(history) and run.writes:
                save_checkpoint(state, pipeline, history[-1], run)
            run.write_history(history)
            tracked.write(state.epoch, history[-1])
            run.save_state(state, history)
            progress.note(describe(history, recipe))

        result = finish(run, test, processes)
        tracked.write(state.epoch, test_figures(result))
        return result


def check_recipe(recipe: Recipe, count: int, validation: Dataset | None) -> None:
    """Check that the options fit each other and the number of training images.

    Raises:
        RecipeError: they do not.
    """
    check_batches(count, recipe)
    if recipe.early_stopping and validation is None:
        raise RecipeError("--patience needs validation images: give --validation, or a folder val/ with the data")
    if recipe.fixres_epochs >= recipe.epochs:
        raise RecipeError(f"--fixres-epochs {recipe.fixres_epochs} leaves none of the {recipe.epochs} --epochs before")


def choose_preprocess(training: Dataset, initial: Checkpoint | None) -> Preprocess:
    """The geometry of the images, with mean and deviation of the checkpoint, or else of the data."""
    if initial is None:
        return measure_preprocess(training)
    return Preprocess(**training.geometry.model_dump(), mean=initial.preprocess.mean, std=initial.preprocess.std)


def describe_run(
    recipe: Recipe, training: Dataset, validation: Dataset | None, preprocess: Preprocess, initial: Checkpoint | None
) -> dict[str, Any]:
    """All values that decide the result of a run."""
    return {
        **asdict(recipe),
        "data": training.name,
        "images": len(training.labels),
        "validation images": 0 if validation is None else len(validation.labels),
        "set of labels": _digest_of_labels(training, validation),
        **preprocess.model_dump(),
        "initial weights": None if initial is None else checkpoint.digest(initial.weights),
    }


def _digest_of_labels(*parts: Dataset | None) -> str:
    """SHA-256 of the names of the classes and of the class of every image."""
    digest = hashlib.sha256()
    for data in parts:
        if data is not None:
            digest.update(json.dumps(data.classes).encode() + data.labels.tobytes())
    return digest.hexdigest()


def run_epoch(
    state: TrainingState,
    step: TrainingStep,
    pipeline: Pipeline,
    loader: BatchLoader,
    run: RunDirectory,
    progress: ProgressBar,
    stop: list[int],
    processes: Processes,
) -> None:
    """The remaining batches of an epoch, or until `stop` has an item or the loss is not finite.

    All processes stop after the same step.
    """
    set_trained(state.model, pipeline.recipe, state.epoch)
    plans = plan_epoch(pipeline.data.labels, pipeline.recipe, state.epoch)[state.step :]
    shares = [plan.share(pipeline.recipe.accumulate, processes.rank, processes.count) for plan in plans]
    finished = state.epoch * len(pipeline.data.labels)
    seconds_before, waited_before = state.seconds, state.waited - loader.waited
    started = read = time.perf_counter()
    loss = None
    for batch in loader.batches(shares):
        if state.epoch == state.step == 0 and run.writes and len(batch.labels):
            write_sheet(batch, run.folder / "samples.png")
        step(batch)
        if (now := time.perf_counter()) - read > _READING_SECONDS or loss is None:
            loss, read = float(state.sums[0]) / state.images_done, now
        state.seconds, state.waited = seconds_before + now - started, waited_before + loader.waited
        progress.update(finished + state.images_done, loss=loss, waiting=state.waited / state.seconds)
        if processes.any(bool(stop) or not math.isfinite(loss)):
            break
    state.sums.tolist()  # waits for a GPU, whose last steps count
    state.seconds = seconds_before + time.perf_counter() - started


def save_alone(
    state: TrainingState, history: list[dict[str, Any]], recipe: Recipe, run: RunDirectory, processes: Processes
) -> None:
    """Save the steps before an error that this process had alone: of several, the others have gone on."""
    if processes.count == 1 and state.step:
        check_finite(state, recipe, run)
        run.save_state(state, history)


def check_finite(state: TrainingState, recipe: Recipe, run: RunDirectory) -> None:
    """Check the loss and the weights before they are saved.

    Raises:
        Diverged: one is not finite.
    """
    if bool(state.sums.isfinite().all()) and all(
        bool(values.isfinite().all()) for values in state.model.state_dict().values() if values.is_floating_point()
    ):
        return
    kept = f"{run.checkpoint} keeps the best epoch up to {state.epoch}" if state.epoch else "nothing was saved"
    raise Diverged(
        f"training diverged in epoch {state.epoch + 1}, step {state.step}: the loss is not a finite number; {kept}: "
        f"train again with a lower --lr than {recipe.peak_lr:g}, or a longer --warmup"
    )


def finish_epoch(
    state: TrainingState,
    step: TrainingStep,
    pipeline: Pipeline,
    watched: Mapping[str, Dataset],
    processes: Processes,
) -> dict[str, Any]:
    """The epoch's figures; moves the state to the next epoch."""
    loss, correct = state.sums.tolist()
    figures: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "train_loss": loss / state.images_done,
        "train_error": 1.0 - correct / state.images_done,
        "image_size": pipeline.size(state.epoch),
        "lr": step.rate(state.epoch, state.step - 1),
        "images_per_second": round(state.images_done / state.seconds, 1),
        "waiting_for_data": round(state.waited / state.seconds, 4),
    }
    for name, images in watched.items():
        report = evaluate(state.evaluated, images, pipeline.preprocess, processes=processes)
        figures[f"{name}_error"] = 1.0 - report.top1
    state.next_epoch()
    return figures
