"""The results of a run: the checkpoint of the best epoch, its figures on the test images, a line for each epoch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from models.artifact.manifest import Architecture
from models.data import Dataset
from models.imaging.preprocess import Preprocess
from models.training import checkpoint
from models.training.augmentation.pipeline import Pipeline
from models.training.checkpoint import Checkpoint
from models.training.choice import best_epoch, is_best
from models.training.device import best_device
from models.training.distributed.processes import Processes
from models.training.evaluate import evaluate
from models.training.recipe import Recipe
from models.training.run_directory import RunDirectory
from models.training.state import TrainingState


def describe_network(recipe: Recipe, data: Dataset, preprocess: Preprocess) -> Architecture:
    """The architecture of the recipe, for the classes and channels of the data."""
    return Architecture(
        name=recipe.arch, num_classes=len(data.classes), in_channels=preprocess.channels, options=recipe.options
    )


def save_checkpoint(state: TrainingState, pipeline: Pipeline, figures: dict[str, Any], run: RunDirectory) -> None:
    """Write the network of an epoch with these figures."""
    data = pipeline.data
    details = {"dataset": data.name, "images": len(data.labels), "recipe": asdict(pipeline.recipe), "metrics": figures}
    architecture = describe_network(pipeline.recipe, data, pipeline.preprocess)
    weights = state.evaluated.state_dict()
    Checkpoint(architecture, data.classes, pipeline.preprocess, weights, details).save(run.checkpoint)


def finish(run: RunDirectory, test: Dataset | None, processes: Processes) -> Checkpoint:
    """The checkpoint of the best epoch, with its accuracy on the test images."""
    result = processes.from_first(lambda: checkpoint.load(run.checkpoint))
    if test is not None:
        model = result.model().to(best_device())
        report = evaluate(model, test, result.preprocess, processes=processes)
        result.training["test"] = {"top1": report.top1, "top5": report.top5, "images": report.images}
        if run.writes:
            result.save(run.checkpoint)
    return result


def test_figures(result: Checkpoint) -> dict[str, float]:
    """The accuracy on the test images, if there are any, in the names of the other figures."""
    return {f"test_{name}": value for name, value in result.training.get("test", {}).items() if name != "images"}


def describe(history: list[dict[str, Any]], recipe: Recipe) -> str:
    """The figures of the last epoch in one line."""
    figures = history[-1]
    line = f"epoch {figures['epoch']}/{recipe.epochs}  loss {figures['train_loss']:.4f}"
    line += f"  training error {figures['train_error']:.2%}"
    if "validation_error" in figures:
        line += f"  validation error {figures['validation_error']:.2%}"
        line += "  (the best so far)" if is_best(history) else f"  (best in epoch {best_epoch(history)})"
    return line
