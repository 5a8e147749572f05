"""Training as named steps: `train` is the outline, the other functions follow in the order of their use.

`models.training.run_directory` holds the files of a run. All random numbers come from generators seeded with
(seed, epoch) or (seed, epoch, step), so a resumed run takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models import architectures
from models.artifact.manifest import Architecture
from models.data import Dataset, Indices, LabelledBatch, Subset, read_ahead
from models.imaging.preprocess import Preprocess
from models.progress import ProgressBar, progress_bar
from models.training import checkpoint
from models.training.augment import random_crop, random_erasing, random_flip
from models.training.checkpoint import Checkpoint
from models.training.device import best_device, compute_dtype
from models.training.evaluate import evaluate, normalise
from models.training.optim import learning_rate, make_optimizer, set_learning_rate
from models.training.recipe import Recipe
from models.training.run_directory import RunDirectory, TrainingState

_STATISTICS_IMAGES = 65_536


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run; its state is saved."""


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
        CheckpointError: `resume` with the state of another recipe or other data.
        DataError: an image cannot be read or decoded.
    """
    device = best_device()
    training, validation = split(data, recipe)
    preprocess = measure_preprocess(training)
    architecture = Architecture(
        name=recipe.arch, num_classes=len(data.classes), in_channels=preprocess.channels, options=recipe.options
    )
    state = start(recipe, architecture, device)
    count = len(training.labels)
    run = RunDirectory(out, {**asdict(recipe), "data": data.name, "images": count, **preprocess.model_dump()})
    history = run.resume(state) if resume else []
    watched = {**({} if validation is None else {"validation": validation}), **(watched or {})}

    with (
        progress_bar("training", total=recipe.epochs * count) as progress,
        _stop_signals() as stop,
        ThreadPoolExecutor(1) as reader,
    ):
        progress.update(state.epoch * count + state.images_done)
        while state.epoch < recipe.epochs:
            rate = run_epoch(state, recipe, training, preprocess, device, reader, progress, stop)
            if stop:
                run.save_state(state)
                raise Interrupted(f"stopped in epoch {state.epoch + 1}, saved in {out}: continue with --resume")
            history.append(finish_epoch(state, rate, watched, preprocess))
            details = {"recipe": asdict(recipe), "dataset": data.name, "images": count, "metrics": history[-1]}
            Checkpoint(architecture, data.classes, preprocess, state.model.state_dict(), details).save(run.checkpoint)
            run.write_history(history)
            run.save_state(state)
            progress.note(describe(history[-1], recipe))

    result = checkpoint.load(run.checkpoint)
    if test is not None:
        report = evaluate(state.model, test, preprocess)
        result.training["test"] = {"top1": report.top1, "top5": report.top5, "images": report.images}
        result.save(run.checkpoint)
    return result


def split(data: Dataset, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """Training images, and the `recipe.validation` images that are held out, the same ones for the same seed."""
    if recipe.validation == 0:
        return data, None
    order = np.random.default_rng(recipe.seed).permutation(len(data.labels))
    return Subset(data, np.sort(order[recipe.validation :])), Subset(data, np.sort(order[: recipe.validation]))


def measure_preprocess(data: Dataset) -> Preprocess:
    """The geometry of the images, with the mean and standard deviation of each channel of the data.

    Of more than `_STATISTICS_IMAGES` images only every second, third, ... image is read: reading all of ImageNet would
    take as long as an epoch and change the mean by less than 0.001.
    """
    count = len(data.labels)
    chosen = np.arange(0, count, -(-count // _STATISTICS_IMAGES))
    total = squares = np.zeros(1, np.int64)
    for first in range(0, len(chosen), 256):
        values = data.images(chosen[first : first + 256]).reshape(-1, data.geometry.channels)
        # Integer sums are exact, so the figures do not depend on how the images are grouped.
        total = total + values.sum(0, dtype=np.int64)
        squares = squares + np.square(values, dtype=np.uint16).sum(0, dtype=np.int64)
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
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
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
    """The remaining batches of an epoch, or of its part until `stop` has an item; returns images per second."""
    count = len(training.labels)
    started, images_before = time.perf_counter(), state.images_done
    for batch in read_ahead(training, batches(count, recipe, state), reader):
        step(state, recipe, count, batch, preprocess, device)
        progress.update(state.epoch * count + state.images_done, loss=state.loss_sum / state.images_done)
        if stop:
            break
    return (state.images_done - images_before) / (time.perf_counter() - started)


def batches(count: int, recipe: Recipe, state: TrainingState) -> Iterator[Indices]:
    """The indices of the epoch's remaining batches, in an order drawn from (seed, epoch)."""
    order = np.random.default_rng((recipe.seed, state.epoch)).permutation(count)
    for first in range(state.step * recipe.batch_size, count, recipe.batch_size):
        yield order[first : first + recipe.batch_size]


def step(
    state: TrainingState,
    recipe: Recipe,
    count: int,
    batch: LabelledBatch,
    preprocess: Preprocess,
    device: torch.device,
) -> None:
    """One batch of an epoch of `count` images: augment, forward, backward, update."""
    per_epoch = -(-count // recipe.batch_size)
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
    inputs = normalise(images.to(device), preprocess).contiguous(memory_format=torch.channels_last)
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


def describe(figures: dict[str, Any], recipe: Recipe) -> str:
    """The figures of an epoch in one line."""
    line = f"epoch {figures['epoch']}/{recipe.epochs}  loss {figures['train_loss']:.4f}"
    line += f"  training error {figures['train_error']:.2%}"
    if "validation_error" in figures:
        line += f"  validation error {figures['validation_error']:.2%}"
    return line


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets an item with the first SIGINT or SIGTERM; a second one ends the process as usual."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
