"""Training as named steps: `train` is the outline, the other functions follow in the order of their use.

`models.training.run_directory` holds the files of a run. All random numbers come from generators seeded with
(seed, epoch) or (seed, epoch, step), so a resumed run takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models import architectures
from models.artifact.manifest import Architecture
from models.data import Dataset, Indices, LabelledBatch, Subset, read_ahead
from models.data.files import check_images
from models.imaging.preprocess import Preprocess
from models.progress import ProgressBar, progress_bar
from models.training import checkpoint
from models.training.augment import random_crop, random_erasing, random_flip
from models.training.checkpoint import Checkpoint
from models.training.device import best_device, compute_dtype, memory_format
from models.training.evaluate import evaluate, normalise
from models.training.optim import learning_rate, make_optimizer, set_learning_rate
from models.training.recipe import Recipe, RecipeError
from models.training.run_directory import RunDirectory, TrainingState
from models.training.signals import stop_signals

_STATISTICS_IMAGES = 65_536


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run; its state is saved."""


class Diverged(Exception):
    """The loss or a weight is not a finite number any more; the last finished epoch before is kept."""


def train(
    recipe: Recipe,
    data: Dataset,
    test: Dataset | None,
    out: Path,
    *,
    resume: bool = False,
    watched: Mapping[str, Dataset] | None = None,
) -> Checkpoint:
    """Train a network and write the run to `out`.

    Args:
        recipe: options of the run.
        data: the training split; `recipe.validation` of its images are held out.
        test: images to report on after the last epoch; never used for a choice.
        out: folder of the run.
        resume: continue from the state in `out`, if there is one.
        watched: data sets whose error is recorded after each epoch as `NAME_error`; never used for a choice.

    Raises:
        Interrupted: SIGINT or SIGTERM was received; the state is saved.
        Diverged: the loss or a weight is not finite; nothing of this epoch is saved.
        RecipeError: no images are left to train on, or too few for batch normalisation.
        CheckpointError: `resume` with the state of another recipe or other data, or another process trains in `out`.
        DataError: images cannot be read or decoded.
    """
    device = best_device()
    training, validation = split(data, recipe)
    check_batches(len(training.labels), recipe)
    check_images(data, test, *(watched or {}).values())
    preprocess = measure_preprocess(training)
    architecture = Architecture(
        name=recipe.arch, num_classes=len(data.classes), in_channels=preprocess.channels, options=recipe.options
    )
    state = start(recipe, architecture, device)
    count = len(training.labels)
    run = RunDirectory(out, {**asdict(recipe), "data": data.name, "images": count, **preprocess.model_dump()})
    watched = {**({} if validation is None else {"validation": validation}), **(watched or {})}

    bar = progress_bar("training", total=recipe.epochs * count)
    with run.locked(), bar as progress, stop_signals() as stop, ThreadPoolExecutor(1) as reader:
        history = run.resume(state) if resume else []
        progress.update(state.epoch * count + state.images_done)
        while state.epoch < recipe.epochs:
            rate = run_epoch(state, recipe, training, preprocess, device, reader, progress, stop)
            check_finite(state, recipe, run)
            if stop:
                run.save_state(state, history)
                raise Interrupted(f"stopped in epoch {state.epoch + 1}, saved in {out}: continue with --resume")
            history.append(finish_epoch(state, rate, watched, preprocess))
            details = {"recipe": asdict(recipe), "dataset": data.name, "images": count, "metrics": history[-1]}
            trained = Checkpoint(architecture, data.classes, preprocess, state.model.state_dict(), details)
            run.save_epoch(trained, state, history)
            progress.note(describe(history[-1], recipe))

    result = checkpoint.load(run.checkpoint)
    if test is not None:
        result.training["test"] = measure_test(state, test, preprocess)
        result.save(run.checkpoint)
    return result


def split(data: Dataset, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """Training images, and the `recipe.validation` images that are held out, the same ones for the same seed."""
    if recipe.validation == 0:
        return data, None
    if recipe.validation >= len(data.labels):
        raise RecipeError(f"--validation {recipe.validation} holds out all {len(data.labels)} images: give fewer")
    order = np.random.default_rng(recipe.seed).permutation(len(data.labels))
    return Subset(data, np.sort(order[recipe.validation :])), Subset(data, np.sort(order[: recipe.validation]))


def check_batches(count: int, recipe: Recipe) -> None:
    """Check that batch normalisation has more than one image per batch to measure its statistics on."""
    if min(count, recipe.batch_size) < 2 and recipe.options.get("norm", "batch") == "batch":
        what = "one training image" if count < 2 else "batches of one image"
        raise RecipeError(f"batch normalisation cannot train on {what}: give more images per batch, or --norm none")


def measure_preprocess(data: Dataset) -> Preprocess:
    """The geometry of the images, with the mean and standard deviation of each channel of the data.

    Of more than `_STATISTICS_IMAGES` images only every second, third, ... image is read: reading all of ImageNet would
    take as long as an epoch and change the mean by less than 0.001.
    """
    count = len(data.labels)
    chosen = np.arange(0, count, -(-count // _STATISTICS_IMAGES))
    total = squares = np.zeros(1, np.int64)
    with progress_bar("measuring mean and deviation", total=len(chosen)) as progress:
        for first in range(0, len(chosen), 256):
            values = data.images(chosen[first : first + 256]).reshape(-1, data.geometry.channels)
            # Integer sums are exact, so the figures do not depend on how the images are grouped.
            total = total + values.sum(0, dtype=np.int64)
            squares = squares + np.square(values, dtype=np.uint16).sum(0, dtype=np.int64)
            progress.update(min(first + 256, len(chosen)))
    height, width = data.geometry.size
    pixels = len(chosen) * height * width
    mean = total / (255.0 * pixels)
    std = np.sqrt(np.maximum(squares / (255.0**2 * pixels) - mean**2, 1e-12))
    return Preprocess(
        **data.geometry.model_dump(),
        mean=tuple(np.round(mean, 6).tolist()),
        std=tuple(np.round(std, 6).tolist()),
    )


def start(recipe: Recipe, architecture: Architecture, device: torch.device) -> TrainingState:
    """A newly initialised network and its optimiser."""
    torch.manual_seed(recipe.seed)
    model = architectures.build(
        architecture.name, architecture.num_classes, architecture.in_channels, **architecture.options
    )
    model = model.to(device).to(memory_format=memory_format(model, device))  # type: ignore[call-overload]  # not in stubs
    return TrainingState(model, make_optimizer(model, recipe.momentum, recipe.weight_decay))


def run_epoch(
    state: TrainingState,
    recipe: Recipe,
    training: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    reader: Executor,
    progress: ProgressBar,
    stop: list[int],
) -> float:
    """The remaining batches of an epoch, or until `stop` has an item or the loss is not finite; gives images/s."""
    count = len(training.labels)
    started, images_before = time.perf_counter(), state.images_done
    for batch in read_ahead(training, batches(count, recipe, state), reader):
        step(state, recipe, count, batch, preprocess, device)
        progress.update(state.epoch * count + state.images_done, loss=state.loss_sum / state.images_done)
        if stop or not math.isfinite(state.loss_sum):
            break
    return (state.images_done - images_before) / (time.perf_counter() - started)


def batches(count: int, recipe: Recipe, state: TrainingState) -> Iterator[Indices]:
    """The indices of the epoch's remaining batches, in an order drawn from (seed, epoch)."""
    order = np.random.default_rng((recipe.seed, state.epoch)).permutation(count)
    steps = steps_per_epoch(count, recipe.batch_size)
    for step in range(state.step, steps):
        first = step * recipe.batch_size
        yield order[first : count if step == steps - 1 else first + recipe.batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of batches; one image that is left over joins the last batch, for batch normalisation needs two."""
    left_over = count % batch_size
    return max(1, count // batch_size + (left_over > 1))


def step(
    state: TrainingState,
    recipe: Recipe,
    count: int,
    batch: LabelledBatch,
    preprocess: Preprocess,
    device: torch.device,
) -> None:
    """One batch of an epoch of `count` images: augment, forward, backward, update."""
    per_epoch = steps_per_epoch(count, recipe.batch_size)
    rate = learning_rate(
        state.epoch * per_epoch + state.step,
        peak=recipe.peak_lr,
        warmup_steps=round(recipe.warmup_epochs * per_epoch),
        total_steps=recipe.epochs * per_epoch,
        schedule=recipe.schedule,
    )
    set_learning_rate(state.optimizer, rate)
    seed = np.random.SeedSequence((recipe.seed, state.epoch, state.step)).generate_state(1)[0]
    generator = Generator().manual_seed(int(seed))
    images = augment(torch.from_numpy(batch.images).permute(0, 3, 1, 2), recipe, preprocess, generator)
    inputs = normalise(images.to(device), preprocess).contiguous(memory_format=memory_format(state.model, device))
    labels = torch.from_numpy(batch.labels).to(device)

    state.model.train()
    dtype = compute_dtype(recipe.compute, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = state.model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()

    state.step += 1
    state.images_done += len(labels)
    state.loss_sum += loss.item() * len(labels)
    state.correct += int((logits.argmax(1) == labels).sum())


def augment(images: Tensor, recipe: Recipe, preprocess: Preprocess, generator: Generator) -> Tensor:
    """Random crop, flip and erasing of uint8 images [N, C, H, W]."""
    images = random_crop(images, recipe.crop_padding, generator)
    if recipe.flip:
        images = random_flip(images, generator)
    fill = (torch.tensor(preprocess.mean) * 255).round().to(torch.uint8)[:, None, None]
    return random_erasing(images, recipe.erasing, fill, generator)


def check_finite(state: TrainingState, recipe: Recipe, run: RunDirectory) -> None:
    """Check the loss and the weights before they are saved.

    Raises:
        Diverged: one is not finite.
    """
    if math.isfinite(state.loss_sum) and all(
        bool(values.isfinite().all()) for values in state.model.state_dict().values() if values.is_floating_point()
    ):
        return
    kept = f"{run.checkpoint} keeps epoch {state.epoch}" if state.epoch else "nothing was saved"
    raise Diverged(
        f"training diverged in epoch {state.epoch + 1}, step {state.step}: the loss is not a finite number; {kept}: "
        f"train again with a lower --lr than {recipe.peak_lr:g}, or a longer --warmup"
    )


def finish_epoch(
    state: TrainingState, rate: float, watched: Mapping[str, Dataset], preprocess: Preprocess
) -> dict[str, Any]:
    """The epoch's figures; moves the state to the next epoch."""
    figures: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "lr": state.optimizer.param_groups[0]["lr"],
        "train_loss": state.loss_sum / state.images_done,
        "train_error": 1.0 - state.correct / state.images_done,
        "images_per_second": round(rate, 1),
    }
    for name, images in watched.items():
        figures[f"{name}_error"] = 1.0 - evaluate(state.model, images, preprocess).top1
    state.epoch, state.step, state.images_done, state.correct, state.loss_sum = state.epoch + 1, 0, 0, 0, 0.0
    return figures


def measure_test(state: TrainingState, test: Dataset, preprocess: Preprocess) -> dict[str, float]:
    """The accuracy on the test images, for the checkpoint."""
    report = evaluate(state.model, test, preprocess)
    return {"top1": report.top1, "top5": report.top5, "images": report.images}


def describe(figures: dict[str, Any], recipe: Recipe) -> str:
    """The figures of an epoch in one line."""
    line = f"epoch {figures['epoch']}/{recipe.epochs}  loss {figures['train_loss']:.4f}"
    line += f"  training error {figures['train_error']:.2%}"
    if "validation_error" in figures:
        line += f"  validation error {figures['validation_error']:.2%}"
    return line
