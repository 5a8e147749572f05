"""Several processes: their statistics, gradients and figures are those of one process on the whole batch."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.artifact.manifest import Architecture
from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.training.augmentation.pipeline import Pipeline
from models.training.distributed.processes import ALONE, Processes
from models.training.distributed.sync_norm import SyncBatchNorm
from models.training.evaluate import evaluate
from models.training.input.sampling import batch_parts, plan_epoch
from models.training.recipe import Recipe
from models.training.step import TrainingStep, start
from models.training.transfer.trained_parts import set_trained
from tests.support.ranks import run_together

RECIPE = Recipe("tiny", epochs=7, batch_size=16, crop_padding=2, mixup=0.2, cutmix=1.0, warmup_epochs=1, peak_lr=0.05)
RICH = replace(RECIPE, accumulate=2, ema=0.9, clip=1.0, stochastic_depth=0.2, balance="weights", compute="float32")


def photographs(count: int = 117) -> ArrayDataset:
    """Three classes of different brightness, of 8 x 8 pixels."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 128, (count, 8, 8, 3)) + 50 * labels[:, None, None, None]
    return ArrayDataset("noise", ("a", "b", "c"), labels, images.astype(np.uint8))


def _statistics_and_gradients(processes: Processes, bounds: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(7, 5, 4, 3, generator=generator) + 20
    slope = torch.randn(7, 5, 4, 3, generator=generator)
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight, generator=generator)
    nn.init.uniform_(norm.bias, generator=generator)
    shared = SyncBatchNorm.of(nn.BatchNorm2d(5), processes)
    shared.load_state_dict(norm.state_dict())
    whole = x.double().requires_grad_()
    expected = norm.double()(whole)
    expected.backward(slope.double())
    begin, end = bounds[processes.rank : processes.rank + 2]
    own = x[begin:end].clone().requires_grad_()
    found = shared(own)
    found.backward(slope[begin:end])
    processes.add_gradients(shared)
    assert whole.grad is not None and own.grad is not None
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(found, expected[begin:end].float())
    close(own.grad, whole.grad[begin:end].float())
    for name, parameter in norm.named_parameters():
        assert parameter.grad is not None
        close(shared.get_parameter(name).grad, parameter.grad.float())
    for name, values in norm.named_buffers():
        close(shared.get_buffer(name).double(), values.double())


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [[0, 2, 7], [0, 0, 4, 7]], ids=["uneven", "one without images"])
def test_batch_normalisation_is_that_of_the_joined_batch(bounds: list[int]) -> None:
    run_together(len(bounds) - 1, _statistics_and_gradients, bounds, 1)


def _train_steps(processes: Processes, recipe: Recipe, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The mean loss after each step, and the weights."""
    data = photographs()
    preprocess = Preprocess(size=(8, 8), mode="RGB", mean=(0.5,) * 3, std=(0.3,) * 3)
    network = Architecture(name="tiny", num_classes=3, in_channels=3)
    state = start(recipe, network, torch.device("cpu"), processes=processes)
    step = TrainingStep(state, recipe, data, preprocess, torch.device("cpu"), processes)
    pipeline = Pipeline(data, recipe, preprocess, step.blocks)
    losses: list[float] = []
    while len(losses) < steps:
        set_trained(state.model, recipe, state.epoch)
        for plan in plan_epoch(data.labels, recipe, state.epoch):
            before = float(state.sums[0])
            step(pipeline.read(plan.share(recipe.accumulate, processes.rank, processes.count)))
            losses.append((float(state.sums[0]) - before) / len(plan.indices))
        report = evaluate(state.evaluated, data, preprocess, processes)
        assert report.images == len(data.labels)
        state.next_epoch()
    return losses[:steps], state.model.state_dict()


def _write_steps(processes: Processes, recipe: Recipe, steps: int, folder: Path) -> None:
    losses, weights = _train_steps(processes, recipe, steps)
    content: dict[str, Any] = {"losses": losses, "first weight": float(weights["stem.conv.weight"].sum())}
    (folder / f"{processes.rank}.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [replace(RECIPE, compute="float32"), RICH], ids=["plain", "rich"])
def test_loss_of_two_processes_is_that_of_one(recipe: Recipe, tmp_path: Path) -> None:
    """The last batch of an epoch has 5 images."""
    expected, weights = _train_steps(ALONE, recipe, 50)
    run_together(2, _write_steps, recipe, 50, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0]["losses"], expected, rtol=1e-4)
    assert expected[-1] != expected[0]
    np.testing.assert_allclose(found[0]["first weight"], float(weights["stem.conv.weight"].sum()), rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 21, 128])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_shares_hold_every_image_once_and_keep_pairs_together(count: int, processes: int, accumulate: int) -> None:
    (plan,) = plan_epoch(np.zeros(count, np.int64), Recipe("tiny", batch_size=count), 0)
    shares = [plan.share(accumulate, rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate([share.indices for share in shares])) == list(range(count))
    pairs = {frozenset(plan.indices[first : first + 2].tolist()) for first in range(0, count, 2)}
    whole = batch_parts(count, accumulate)
    for rank, share in enumerate(shares):
        parts = batch_parts(count, accumulate, rank, processes)
        assert len(parts) == len(whole)
        assert parts[-1][1] == len(share.indices)
        for begin, end in parts:
            members = share.indices[begin:end].tolist()
            assert {frozenset(members[first : first + 2]) for first in range(0, len(members), 2)} <= pairs
    sizes = [len(share.indices) for share in shares]
    assert max(sizes) - min(sizes) <= 2 * len(whole)
