"""Training: the real loop on tiny data."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.architectures import VARIANTS, ResNet, build
from models.artifact.manifest import Architecture
from models.cli.app import app
from models.data import ArrayDataset, DataError
from models.imaging.preprocess import Preprocess
from models.training import checkpoint, recipes
from models.training.augmentation.pipeline import Pipeline, TrainingBatch
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.device import memory_format
from models.training.evaluate import evaluate, normalise
from models.training.execution import Execution
from models.training.input.sampling import BatchPlan
from models.training.input.splits import measure_preprocess, split
from models.training.recipe import Recipe, RecipeError
from models.training.run_directory import RunDirectory
from models.training.signals import Interrupted
from models.training.step import TrainingStep, start
from models.training.train import Diverged, train
from models.training.transfer.initial import load_initial
from tests.support.example_files import write_torchvision_resnet18
from tests.support.marks import slow_except


def stripes(count: int = 96, channels: int = 1) -> ArrayDataset:
    """Three classes that a network of two blocks tells apart: horizontal, vertical, no stripes."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, 16, 16, channels), dtype=np.uint8)
    images[labels == 0, ::2] += 190
    images[labels == 1, :, ::2] += 190
    return ArrayDataset("stripes", ("rows", "columns", "noise"), labels, images)


RECIPE = Recipe("tiny", epochs=2, batch_size=16, validation=24, erasing=0.5, compute="float32", warmup_epochs=0.5)


def assert_same(first: Path, second: Path) -> None:
    """The checkpoints and the states hold the same numbers."""
    for name in ("model.safetensors", "state.safetensors"):
        expected, found = load_file(first / name), load_file(second / name)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_training_learns_and_writes_a_run(tmp_path: Path) -> None:
    recipe = Recipe("tiny", epochs=6, batch_size=16, validation=24, crop_padding=1, compute="float32")
    result = train(recipe, stripes(), stripes(48), tmp_path)
    assert result.training["test"]["top1"] > 0.9
    history = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [figures["epoch"] for figures in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["validation_error"] < 0.1
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert loaded.labels == ("rows", "columns", "noise")
    assert evaluate(loaded.model(), stripes(48), loaded.preprocess).top1 == result.training["test"]["top1"]


@pytest.mark.parametrize(
    "name",
    slow_except("tiny", (name for name in VARIANTS if VARIANTS[name].input_size <= 32 and "1" not in name)),
)
def test_real_step_with_every_small_architecture(name: str, tmp_path: Path) -> None:
    recipe = Recipe(name, epochs=1, batch_size=8, compute="float32")
    data = stripes(8, channels=3)
    torch.manual_seed(recipe.seed)
    before = {key: value.clone() for key, value in _fresh(recipe, data).items()}
    after = train(recipe, data, None, tmp_path).weights
    moved = [key for key, value in before.items() if key.endswith("weight") and not torch.equal(value, after[key])]
    assert len(moved) == sum(key.endswith("weight") for key in before)


def _fresh(recipe: Recipe, data: ArrayDataset) -> dict[str, torch.Tensor]:

    architecture = Architecture(name=recipe.arch, num_classes=len(data.classes), in_channels=3)
    return start(recipe, architecture, torch.device("cpu")).model.state_dict()


RICH = replace(
    RECIPE,
    optimizer="adamw",
    peak_lr=0.002,
    ema=0.9,
    mixup=0.2,
    cutmix=1.0,
    accumulate=2,
    clip=1.0,
    auto_augment="trivialaugment",
    random_crop=0.5,
    stochastic_depth=0.2,
    loss="bce",
    repeats=2,
)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, RICH, replace(RICH, optimizer="sgd", compute="float16")])
def test_stopped_in_mid_epoch_and_resumed_equals_uninterrupted(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, stripes(), None, tmp_path / "straight")
    original = TrainingStep.__call__
    count = 0

    def step_then_signal(*arguments: Any) -> None:
        nonlocal count
        original(*arguments)
        count += 1
        if count in {2, 7}:
            os.kill(os.getpid(), signal.SIGTERM if count == 2 else signal.SIGINT)

    monkeypatch.setattr(TrainingStep, "__call__", step_then_signal)
    for _ in range(2):
        with pytest.raises(Interrupted, match="--resume"):
            train(recipe, stripes(), None, tmp_path / "broken", resume=True)
    assert (tmp_path / "broken" / "metrics.jsonl").read_text().count("\n") < recipe.epochs
    train(recipe, stripes(), None, tmp_path / "broken", resume=True)
    assert_same(tmp_path / "straight", tmp_path / "broken")
    assert (tmp_path / "straight" / "metrics.jsonl").read_text().count("\n") == 2


def test_run_that_stopped_after_its_last_step_has_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to compute in the resumed epoch, whose figures belong to steps of the process before."""
    recipe = replace(RECIPE, epochs=1)
    train(recipe, stripes(), None, tmp_path / "straight")
    original = TrainingStep.__call__

    def step_then_signal(step: TrainingStep, batch: TrainingBatch) -> None:
        original(step, batch)
        if step.state.images_done == 72:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingStep, "__call__", step_then_signal)
    with pytest.raises(Interrupted):
        train(recipe, stripes(), None, tmp_path / "broken")
    monkeypatch.undo()
    train(recipe, stripes(), None, tmp_path / "broken", resume=True)
    (expected,), (found,) = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("straight", "broken")
    )
    measured = {"images_per_second", "waiting_for_data"}
    assert {key: found[key] for key in found.keys() - measured} == {
        key: expected[key] for key in expected.keys() - measured
    }


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(RECIPE, stripes(), None, tmp_path / "straight")
    original = TrainingStep.__call__
    count = 0

    def step_then_die(*arguments: Any) -> None:
        nonlocal count
        original(*arguments)
        count += 1
        if count == 7:
            raise KeyboardInterrupt  # nothing is saved on the way out

    monkeypatch.setattr(TrainingStep, "__call__", step_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, stripes(), None, tmp_path / "broken")
    monkeypatch.undo()
    train(RECIPE, stripes(), None, tmp_path / "broken", resume=True)
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_state_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    train(recipe, stripes(), None, tmp_path)
    tensors, metadata = checkpoint.load_tensors(tmp_path / "state.safetensors")
    header = json.loads(metadata["state"])
    del header["version"]
    checkpoint.save_tensors(tensors, tmp_path / "state.safetensors", {"state": json.dumps(header)})
    with pytest.raises(CheckpointError, match="was saved by another version of resnet-train"):
        train(recipe, stripes(), None, tmp_path, resume=True)


@pytest.mark.slow
def test_best_epoch_is_kept_and_a_run_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, epochs=6, early_stopping=2)
    accuracies = iter([0.5, 0.8, 0.8, 0.6, 0.7, 0.9])
    kept: list[torch.Tensor] = []

    def evaluate_as_told(model: ResNet, *_: object, **__: object) -> SimpleNamespace:
        kept.append(model.classifier.weight.detach().clone())
        return SimpleNamespace(top1=next(accuracies))

    monkeypatch.setattr("models.training.train.evaluate", evaluate_as_told)
    result = train(recipe, stripes(), None, tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert result.training["metrics"]["epoch"] == 3
    torch.testing.assert_close(result.weights["classifier.weight"], kept[2])
    with pytest.raises(RecipeError, match="--patience needs validation images"):
        train(replace(recipe, validation=0), stripes(), None, tmp_path / "other")


def test_accumulated_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Without batch normalisation, whose statistics are those of each part."""
    recipe = replace(RECIPE, epochs=1, options={"norm": "none"}, mixup=0.5, peak_lr=0.01)
    whole = train(recipe, stripes(), None, tmp_path / "whole").weights
    parts = train(replace(recipe, accumulate=3), stripes(), None, tmp_path / "parts").weights
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_averaged_weights_are_evaluated_and_exported(tmp_path: Path) -> None:
    result = train(replace(RECIPE, ema=0.9), stripes(), stripes(48), tmp_path)
    state = load_file(tmp_path / "state.safetensors")
    for key, value in result.weights.items():
        torch.testing.assert_close(value, state[f"averaged.{key}"])
    assert not torch.equal(state["averaged.classifier.weight"], state["model.classifier.weight"])
    assert result.training["test"]["top1"] == evaluate(result.model(), stripes(48), result.preprocess).top1


@pytest.mark.slow
def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    train(RECIPE, stripes(), None, tmp_path / "a")
    train(RECIPE, stripes(), None, tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")


def test_resuming_with_another_recipe_is_refused(tmp_path: Path) -> None:
    train(Recipe("tiny", epochs=1, compute="float32"), stripes(), None, tmp_path)
    with pytest.raises(CheckpointError, match="saved with another epochs, peak_lr"):
        train(Recipe("tiny", epochs=2, peak_lr=0.3, compute="float32"), stripes(), None, tmp_path, resume=True)


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    recipe = Recipe("tiny", epochs=1, compute="float32")
    train(recipe, stripes(96), None, tmp_path)
    with pytest.raises(CheckpointError, match="another images, set of labels, mean, std: resume with the same options"):
        train(recipe, stripes(64), None, tmp_path, resume=True)


def test_held_out_images_are_not_trained_on() -> None:
    training, validation = split(stripes(), RECIPE)
    assert validation is not None
    assert (len(training.labels), len(validation.labels)) == (72, 24)
    seen = {image.tobytes() for image in training.images(np.arange(72))}
    assert not seen & {image.tobytes() for image in validation.images(np.arange(24))}


def test_mean_and_deviation_are_measured_on_the_data_set() -> None:
    data = stripes(channels=3)
    preprocess = measure_preprocess(data)
    values = data.array.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(preprocess.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(preprocess.std, values.std(0), atol=1e-6)
    inputs = normalise(torch.from_numpy(data.array).permute(0, 3, 1, 2), preprocess)
    np.testing.assert_allclose(inputs.mean((0, 2, 3)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 2, 3)).numpy(), 1, atol=1e-3)


@pytest.mark.slow
def test_watched_data_sets_are_recorded_and_change_nothing(tmp_path: Path) -> None:
    recipe = Recipe("tiny", epochs=2, batch_size=16, compute="float32")
    watched = {"test": stripes(48), "training": stripes()}
    result = train(recipe, stripes(), None, tmp_path / "watched", watched=watched)
    last = json.loads((tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()[-1])
    for name, data in watched.items():
        assert last[f"{name}_error"] == 1 - evaluate(result.model(), data, result.preprocess).top1
    train(recipe, stripes(), None, tmp_path / "alone")
    assert_same(tmp_path / "watched", tmp_path / "alone")


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    options = ("--out", tmp_path / "run", "--arch", "tiny", "--data")
    assert "there is no such folder" in fail(*options, tmp_path / "none")
    assert "holds no data set" in fail(*options, tmp_path)
    assert "--shortcut takes A, B, C, D, none" in fail(*options, "x", "--shortcut", "E")


@pytest.mark.slow
def test_table_of_architectures() -> None:
    result = CliRunner().invoke(app, ["train", "--list"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in VARIANTS)


def test_evaluation_counts_the_argmax(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.architectures import build

    torch.manual_seed(0)
    data, model = stripes(50, channels=3), build("tiny", 3).eval()
    preprocess = Preprocess(size=(16, 16), mean=(0.4,) * 3, std=(0.2,) * 3)
    inputs = (torch.from_numpy(data.array).permute(0, 3, 1, 2) / 255.0 - 0.4) / 0.2
    with torch.no_grad():
        predicted = model(inputs).argmax(1).numpy()
    monkeypatch.setattr("models.training.evaluate._BATCH_PIXELS", 16 * 16 * 16)  # several batches
    report = evaluate(model, data, preprocess)
    assert report.top1 == (predicted == data.labels).mean()
    assert report.top5 == 1.0  # three classes
    for true in range(3):
        for given in range(3):
            assert report.confusion[true, given] == ((data.labels == true) & (predicted == given)).sum()
        assert report.per_class[true] == pytest.approx((predicted[data.labels == true] == true).mean())


@pytest.mark.slow
def test_epoch_with_a_last_batch_of_one_image_on_the_smallest_maps(tmp_path: Path) -> None:
    """The last feature map of a ResNet-18 has one pixel per channel here: one image has no statistics."""
    data = stripes(9, channels=3)
    train(Recipe("resnet18", epochs=1, batch_size=8, compute="float32"), data, None, tmp_path)
    assert checkpoint.load(tmp_path / "model.safetensors").training["images"] == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet20", torch.channels_last), ("resnet50", torch.channels_last), ("tiny", torch.contiguous_format)],
)
def test_images_are_channels_last_unless_pytorch_crashes(name: str, expected: torch.memory_format) -> None:
    assert memory_format(build(name, 3), torch.device("cpu")) == expected
    assert memory_format(build(name, 3), torch.device("cuda")) == torch.channels_last


def test_smallest_network_trains_on_an_odd_number_of_images(tmp_path: Path) -> None:
    """In channels_last, this ends the process on some CPUs."""
    train(replace(RECIPE, epochs=1, batch_size=25, validation=0), stripes(25), None, tmp_path)
    assert checkpoint.load(tmp_path / "model.safetensors").training["images"] == 25


@pytest.mark.parametrize("seed", range(20))
def test_a_class_keeps_a_training_image(seed: int) -> None:
    """40 images of one class and one image each of two others; 20 images are to be held out."""
    labels = np.array([0] * 40 + [1, 2])
    data = ArrayDataset("rare", ("often", "once", "once more"), labels, np.zeros((42, 4, 4, 3), np.uint8))
    training, validation = split(data, replace(RECIPE, validation=20, seed=seed))
    assert {1, 2} <= set(training.labels.tolist())
    assert validation is not None and set(validation.labels.tolist()) == {0}
    assert 18 <= len(validation.labels) <= 20
    assert len(training.labels) + len(validation.labels) == 42


@pytest.mark.parametrize(
    ("change", "count", "message"),
    [
        ({"validation": 96}, 96, "--validation 96 holds out all 96 images"),
        ({"validation": 200}, 96, "--validation 200 holds out all 96 images"),
        ({"validation": 2}, 3, "--validation 2 holds out no image: each class has a single image"),
        ({}, 1, "cannot train on one training image"),
        ({"batch_size": 1}, 96, "cannot train on batches of one image"),
    ],
)
def test_recipes_that_do_not_fit_the_data_are_refused(
    change: dict[str, Any], count: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(replace(RECIPE, **{"validation": 0, **change}), stripes(count), None, tmp_path)


@pytest.mark.slow
def test_diverged_run_stops_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    """The learning rate is so high that the weights of the second epoch are not finite."""
    recipe = replace(RECIPE, epochs=3, warmup_epochs=0.0, validation=0)
    good = train(replace(recipe, epochs=1), stripes(), None, tmp_path / "good")

    def spoil(step: TrainingStep, batch: TrainingBatch) -> None:
        real_step(step, batch)
        if step.state.epoch == 1:
            with torch.no_grad():
                next(step.state.model.parameters()).mul_(math.inf)

    real_step = TrainingStep.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", spoil)
        with pytest.raises(
            Diverged, match=r"diverged in epoch 2, step \d.*model.safetensors keeps the best epoch up to 1.*lower --lr"
        ):
            train(recipe, stripes(), None, tmp_path / "run")
    kept = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert kept.training["metrics"]["epoch"] == 1
    assert all(bool(values.isfinite().all()) for values in kept.weights.values())
    assert kept.weights.keys() == good.weights.keys()
    resumed = train(recipe, stripes(), None, tmp_path / "run", resume=True)
    assert resumed.training["metrics"]["epoch"] == 3


def test_loss_that_is_not_a_number_ends_the_command_with_one_line(image_folder: Path, tmp_path: Path) -> None:
    options = ("--lr", "1e30", "--warmup", "0", "--batch-size", "4")
    stderr = fail("--arch", "tiny", "--data", image_folder, "--out", tmp_path / "run", *options)
    assert "error: training diverged in epoch 1" in stderr
    assert "nothing was saved" in stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_reading_processes_end_with_a_failed_command(image_folder: Path, tmp_path: Path) -> None:
    """They ignore SIGTERM, so the command would wait for them for ever."""
    options = ("--arch", "tiny", "--lr", "1e30", "--warmup", "0", "--batch-size", "4", "--data-workers", "2")
    command = [sys.executable, "-m", "models", "train", "--data", image_folder, "--out", tmp_path / "run", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "error: training diverged in epoch 1" in done.stderr


def test_epoch_is_not_lost_if_its_validation_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(RECIPE, stripes(), None, tmp_path / "straight")

    def fail_to_evaluate(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("models.training.train.evaluate", fail_to_evaluate)
    with pytest.raises(MemoryError):
        train(RECIPE, stripes(), None, tmp_path / "broken")
    monkeypatch.undo()
    original, steps = TrainingStep.__call__, []

    def count_steps(step: TrainingStep, batch: TrainingBatch) -> None:
        steps.append(step.state.epoch)
        original(step, batch)

    monkeypatch.setattr(TrainingStep, "__call__", count_steps)
    train(RECIPE, stripes(), None, tmp_path / "broken", resume=True)
    assert set(steps) == set(range(1, RECIPE.epochs))
    assert_same(tmp_path / "straight", tmp_path / "broken")


def test_steps_before_an_unreadable_image_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline.read
    batches = 0

    def read_two(pipeline: Pipeline, plan: BatchPlan) -> TrainingBatch:
        nonlocal batches
        batches += 1
        if batches > 2:
            raise DataError("the disk is away")
        return original(pipeline, plan)

    monkeypatch.setattr(Pipeline, "read", read_two)
    with pytest.raises(DataError, match="the disk is away"):
        train(RECIPE, stripes(), None, tmp_path / "broken", execution=Execution(data_workers=0))
    monkeypatch.undo()
    train(RECIPE, stripes(), None, tmp_path / "straight")
    train(RECIPE, stripes(), None, tmp_path / "broken", resume=True)
    assert_same(tmp_path / "straight", tmp_path / "broken")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "state.safetensors"), "state.safetensors: No space left on device"),
        (MemoryError(), "out of memory: give --accumulate 2 or more"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: give --accumulate 2 or more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: give --accumulate"),
    ],
)
def test_errors_of_the_machine_end_the_command_with_one_line(
    error: Exception, message: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_not(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("models.cli.train.train", train_not)
    stderr = fail("--arch", "tiny", "--data", image_folder, "--out", tmp_path / "run")
    assert f"error: {message}" in stderr


@pytest.mark.slow
def test_lost_metrics_are_restored_on_resume(tmp_path: Path) -> None:
    train(RECIPE, stripes(), None, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.unlink()
    train(RECIPE, stripes(), None, tmp_path / "run", resume=True)
    assert metrics.read_text() == whole


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Photographs of three classes: 12 training images, and 3 test images."""
    data = stripes(15, channels=3)
    for index, image in enumerate(data.images(np.arange(15))):
        path = tmp_path / "photos" / ("train" if index < 12 else "test") / data.classes[index % 3] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((80, 60)).save(path, quality=95)
    return tmp_path / "photos"


def fail(*arguments: object) -> str:
    """Run `resnet-train`, which must end with exit code 2, and return what it prints."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.stderr


def pretrained(tmp_path: Path, labels: tuple[str, ...]) -> Checkpoint:
    torch.manual_seed(7)
    weights = build("tiny", len(labels)).state_dict()
    preprocess = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), interpolation="bicubic")
    result = Checkpoint(Architecture(name="tiny", num_classes=len(labels)), labels, preprocess, weights)
    result.save(tmp_path / "begin.safetensors")
    return result


@pytest.mark.parametrize(
    ("labels", "said"),
    [(("noise", "rows", "columns"), "classifier kept"), (("rows", "columns"), "new classifier for 3 classes")],
)
def test_training_begins_with_a_checkpoint(
    labels: tuple[str, ...], said: str, image_folder: Path, tmp_path: Path
) -> None:
    initial = pretrained(tmp_path, labels)
    options = ["--init", "begin.safetensors", "--data", "photos", "--out", "run", "--lr", "0", "--freeze", "trunk"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["train", *options, "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert said in result.stderr
    trained = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert trained.preprocess == initial.preprocess
    assert trained.training["recipe"]["random_crop"] == recipes.read("finetune")["random_crop"]
    same = {key for key, value in initial.weights.items() if torch.equal(value, trained.weights[key])}
    if "kept" in said:
        assert trained.labels == labels
        assert same == trained.weights.keys()
    else:
        assert trained.labels == ("columns", "noise", "rows")
        assert same == {key for key in trained.weights if not key.startswith("classifier.")}


@pytest.mark.slow
def test_training_begins_with_weights_of_another_project(image_folder: Path, tmp_path: Path) -> None:
    write_torchvision_resnet18(tmp_path)
    (weights,) = tmp_path.glob("*.pth")
    options = ["--init", str(weights), "--data", str(image_folder), "--out", str(tmp_path / "run")]
    options += ["--size", "32", "--lr", "0", "--freeze", "trunk", "--epochs", "1"]
    result = CliRunner().invoke(app, ["train", *options])
    assert result.exit_code == 0, result.output
    assert "begins with the weights of resnet18: new classifier for 3 classes" in " ".join(result.stderr.split())
    trained = checkpoint.load(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(trained.weights["stem.conv.weight"], torch.load(weights)["conv1.weight"])


def test_files_that_one_cannot_begin_with_are_refused(image_folder: Path, tmp_path: Path) -> None:
    pretrained(tmp_path, ("a", "b"))
    checkpoint.save_tensors({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors", {})
    options = ("--data", image_folder, "--out", tmp_path / "run", "--init")
    refused = fail(*options, tmp_path / "foreign.safetensors")
    assert "foreign.safetensors: is no checkpoint of resnet-train, and cannot be imported: " in refused
    assert "there is no such file" in fail(*options, tmp_path / "none.safetensors")
    assert "has the weights of a tiny" in fail(*options, tmp_path / "begin.safetensors", "--arch", "resnet20")
    assert "--freeze 3: tiny has 2 stages" in fail(*options, tmp_path / "begin.safetensors", "--freeze", "3")
    assert "--arch is missing" in fail(*options[:-1])
    scratch = fail(*options[:-1], "--arch", "tiny", "--recipe", "finetune")
    assert "needs weights to begin with: --init" in scratch


def test_run_is_resumed_with_its_recipe(image_folder: Path, tmp_path: Path) -> None:
    options = ["train", "--data", str(image_folder), "--out", str(tmp_path / "run")]
    given = ["--recipe", "fast", "--arch", "tiny", "--epochs", "2", "--batch-size", "8", "--no-flip", "--shortcut", "A"]
    assert CliRunner().invoke(app, [*options, *given]).exit_code == 0
    recipe = recipes.make(recipes.read(str(tmp_path / "run" / "recipe.toml")))
    fast = recipes.make(recipes.read("fast"))
    expected = replace(fast, arch="tiny", epochs=2, batch_size=8, flip=False, options={"shortcut": "A"})
    assert recipe == expected
    assert (tmp_path / "run" / "samples.png").read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(app, [*options, "--resume"])
    assert result.exit_code == 0, result.output
    assert "saved with another epochs" in fail(*options[1:], "--resume", "--epochs", "3")


def test_a_run_is_not_resumed_with_other_classes(image_folder: Path, tmp_path: Path) -> None:
    options = ("--data", image_folder, "--out", tmp_path / "run")
    begun = CliRunner().invoke(app, ["train", *map(str, options), "--arch", "tiny", "--epochs", "1"])
    assert begun.exit_code == 0, begun.output
    for part in ("train", "test"):
        (image_folder / part / "columns").rename(image_folder / part / "zebras")
    assert "saved with another set of labels" in fail(*options, "--resume")


def test_weights_are_not_imported_into_the_folder_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "initial.safetensors").write_bytes(b"those of the other run")
    with RunDirectory(tmp_path, {}).locked(), pytest.raises(CheckpointError, match="another process trains in it"):
        load_initial("hf-hub:owner/name", tmp_path, resume=False)
    assert (tmp_path / "initial.safetensors").read_bytes() == b"those of the other run"


def test_a_file_called_export_is_not_taken_for_the_importer(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("export.py").write_text("open('was-run', 'w')")
    checkpoint.save_tensors({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors", {})
    fail("--data", image_folder, "--out", "run", "--init", "foreign.safetensors")
    assert not Path("was-run").exists()


def test_damaged_images_are_all_named_before_training(image_folder: Path, tmp_path: Path) -> None:
    damaged = [image_folder / name for name in ("train/rows/0.jpg", "train/noise/5.jpg", "test/rows/12.jpg")]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:400])
    stderr = fail("--arch", "tiny", "--data", image_folder, "--out", tmp_path / "run")
    assert "3 of 15 images cannot be used" in stderr
    assert all(str(path) in stderr for path in damaged)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("options", "printed", "size"),
    [([], "16 x 16 pixels (the input of tiny; --size sets another)", 16), (["--size", "24"], "24 x 24 pixels", 24)],
)
def test_size_follows_from_the_architecture_and_is_printed(
    options: list[str], printed: str, size: int, image_folder: Path, tmp_path: Path
) -> None:
    command = ["train", "--arch", "tiny", "--data", str(image_folder), "--out", str(tmp_path / "run"), "--epochs", "1"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    assert "12 training and 3 test images of 3 classes" in result.stderr
    assert printed in result.stderr
    assert checkpoint.load(tmp_path / "run" / "model.safetensors").preprocess.size == (size, size)


def test_folder_of_the_run_is_checked_before_anything_is_read(image_folder: Path, tmp_path: Path) -> None:
    options = ("--arch", "tiny", "--data", image_folder)
    assert "mistyped: holds no run to resume" in fail(*options, "--out", tmp_path / "mistyped", "--resume")
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "file").touch()
    assert "file/run: cannot be written" in fail(*options, "--out", tmp_path / "file" / "run")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "model.safetensors").touch()
    assert "done: already holds a run" in fail(*options, "--out", tmp_path / "done")
    (tmp_path / "odd").mkdir()
    checkpoint.save_tensors({"x": torch.zeros(1)}, tmp_path / "odd" / "state.safetensors", {})
    assert "is not the state of a run" in fail(*options, "--out", tmp_path / "odd", "--resume")
    assert "no architecture is named 'resnet21'" in fail("--arch", "resnet21", *options[2:], "--out", tmp_path / "new")


def test_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {}).locked(), pytest.raises(CheckpointError, match="another process trains in it"):
        train(RECIPE, stripes(), None, tmp_path)
