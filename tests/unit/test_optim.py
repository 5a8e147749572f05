"""The parts of a training step: batches, learning rate, optimiser, loss, averages, stochastic depth, choice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.architectures import build
from models.training import recipes
from models.training.choice import best_epoch, is_best, stops_early
from models.training.input.sampling import batch_parts, check_batches, plan_epoch
from models.training.optim.ema import AveragedWeights
from models.training.optim.loss import class_weights, image_losses
from models.training.optim.optimizer import make_optimizer, set_learning_rate
from models.training.optim.schedule import image_side, learning_rate
from models.training.optim.stochastic_depth import StochasticDepth
from models.training.recipe import Recipe, RecipeError
from models.training.transfer.trained_parts import set_trained
from tests.support.training_step import prepared


def test_schedule() -> None:
    """Linear to the peak, then half a cosine to zero."""

    def rate(step: int) -> float:
        return learning_rate(step, peak=0.4, warmup_steps=4, total_steps=104)

    assert [rate(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rate(54) == pytest.approx(0.2)
    assert rate(104) == pytest.approx(0.0)
    assert all(rate(step) > rate(step + 1) for step in range(5, 104))


def test_schedule_in_steps() -> None:
    """A tenth from half of the steps on, a hundredth from three quarters."""

    def rate(step: int) -> float:
        return learning_rate(step, peak=0.4, warmup_steps=4, total_steps=100, schedule="step")

    assert [rate(step) for step in (0, 3, 4, 49)] == pytest.approx([0.1, 0.4, 0.4, 0.4])
    assert [rate(step) for step in (50, 74, 75, 99)] == pytest.approx([0.04, 0.04, 0.004, 0.004])


def test_image_sides_grow_linearly() -> None:
    assert [image_side(epoch, 5, 128, 224) for epoch in range(5)] == [128, 152, 176, 200, 224]
    assert [image_side(epoch, 3, 30, 30) for epoch in range(3)] == [30, 30, 30]
    assert [image_side(epoch, 3, 1, 20) for epoch in range(3)] == [4, 12, 20]


@pytest.mark.parametrize("name", recipes.names())
def test_named_recipes_fit_their_own_batches(name: str) -> None:
    recipe = recipes.make({**recipes.read(name), "arch": "resnet50"})
    check_batches(1_281_167, recipe)
    plan = plan_epoch(np.zeros(3 * recipe.batch_size, np.int64), recipe, 0)[0]
    copies = np.unique(plan.indices, return_counts=True)[1]
    assert len(plan.indices) == recipe.batch_size
    assert copies.max() == recipe.repeats
    assert copies.min() >= recipe.repeats - 1


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_no_part_of_a_batch_is_a_single_image(parts: int) -> None:
    for count in range(2 * parts, 40):
        bounds = batch_parts(count, parts)
        assert [begin for begin, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
        assert bounds[-1][1] == count
        assert all(end - begin >= 2 and begin % 2 == 0 for begin, end in bounds)


def test_parts_of_a_batch_do_not_use_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would overwrite the gradient of the part before."""
    modes = []

    def compile_not(model: torch.nn.Module, mode: str) -> torch.nn.Module:
        modes.append(mode)
        return model

    monkeypatch.setattr(torch, "compile", compile_not)
    for accumulate in (1, 2):
        prepared(Recipe("tiny", epochs=1, batch_size=8, accumulate=accumulate, compile=True), torch.device("cpu"))
    assert modes == ["reduce-overhead", "default"]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (96, 16, [16] * 6),
        (97, 16, [16] * 5 + [17]),
        (98, 16, [16] * 6 + [2]),
        (1, 16, [1]),
        (5, 16, [5]),
        (3, 1, [1] * 3),
    ],
)
def test_one_image_that_is_left_over_joins_the_last_batch(count: int, size: int, expected: list[int]) -> None:
    plans = plan_epoch(np.zeros(count, np.int64), Recipe("tiny", batch_size=size), 0)
    assert [len(plan.indices) for plan in plans] == expected
    assert sorted(np.concatenate([plan.indices for plan in plans])) == list(range(count))
    assert not any(plan.repetitions.any() for plan in plans)


def test_balanced_sampling_draws_all_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [9000, 900, 100])
    plans = plan_epoch(labels, Recipe("tiny", balance="sampling"), 0)
    drawn = np.bincount(labels[np.concatenate([plan.indices for plan in plans])])
    assert drawn.sum() == 10_000
    np.testing.assert_allclose(drawn / 10_000, 1 / 3, atol=0.02)


def test_groups_of_the_optimiser() -> None:
    """No decay on normalisation and biases; a factor of the rate for all but the classifier."""
    model = build("tiny", 3)
    optimizer = make_optimizer(model, Recipe("tiny", weight_decay=1e-4, trunk_lr=0.1))
    set_learning_rate(optimizer, 0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        decay = 1e-4 if name.endswith("conv.weight") or name == "classifier.weight" else 0.0
        assert found[id(parameter)] == (pytest.approx(0.5 if name.startswith("classifier") else 0.05), decay)
    everywhere = make_optimizer(model, replace(Recipe("tiny"), decay_norm=True, optimizer="adamw"))
    assert {group["weight_decay"] for group in everywhere.param_groups} == {5e-4}


def test_losses_equal_those_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 1]), torch.rand(4)
    hard, soft = F.one_hot(labels, 4).float(), torch.rand(6, 4).softmax(1)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(image_losses(logits, hard, "cross-entropy", 0.1), expected)
    expected = F.cross_entropy(logits, soft, weight=weights, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(image_losses(logits, soft, "cross-entropy", 0.2, weights), expected)
    expected = F.binary_cross_entropy_with_logits(logits, hard * 0.9 + 0.1 / 4, weights, reduction="none").mean(1)
    torch.testing.assert_close(image_losses(logits, hard, "bce", 0.1, weights), expected)


def test_class_weights_make_classes_count_alike() -> None:
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    weights = class_weights(labels, 4).numpy()
    np.testing.assert_allclose([6 * weights[0], 3 * weights[1], weights[3]], 10 / 3, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)


def test_averaged_weights() -> None:
    model = build("tiny", 3)
    averaged = AveragedWeights(model, 0.9)
    expected = {key: value.clone().double() for key, value in model.state_dict().items()}
    for update in range(1, 30):
        with torch.no_grad():
            for value in (*model.parameters(), model.get_buffer("stem.norm.running_mean")):
                value.add_(1.0)
        averaged.update(update)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = {key: decay * expected[key] + (1 - decay) * value for key, value in model.state_dict().items()}
    for key, value in averaged.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)
    assert not averaged.model.training


def test_stochastic_depth_drops_later_blocks_more_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    model = build("resnet20", 3)
    depth = StochasticDepth(model, 0.5)
    np.testing.assert_allclose(depth.kept, 1 - 0.5 * np.arange(1, 10) / 9, rtol=1e-6)
    block = model.stages[1].get_submodule("1")  # block 4, with an identity shortcut
    changes: list[torch.Tensor] = []
    block.register_forward_hook(lambda _, inputs, output: changes.append(output - inputs[0]))
    images = torch.randn(40, 3, 8, 8)
    draws = torch.rand(40, 9)
    depth.draw(draws)
    model.train()(images)
    identical = changes[0].flatten(1).abs().amax(1) == 0
    assert identical.tolist() == (draws[:, 4] >= depth.kept[4]).tolist()
    before = model.eval()(images)
    depth.draw(torch.ones(40, 9))
    torch.testing.assert_close(model.eval()(images), before)


@pytest.mark.parametrize(
    ("freeze", "epochs", "epoch", "frozen"),
    [
        ("stem", 0, 9, ("stem",)),
        ("1", 2, 1, ("stem", "stages.0")),
        ("1", 2, 2, ()),
        ("trunk", 0, 0, ("stem", "stages", "final_norm")),
    ],
)
def test_frozen_parts_have_no_gradient_and_fixed_statistics(
    freeze: Any, epochs: int, epoch: int, frozen: tuple[str, ...]
) -> None:
    model = build("tiny", 3)
    set_trained(model, Recipe("tiny", freeze=freeze, freeze_epochs=epochs), epoch)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training != name.startswith(frozen)


def test_statistics_are_kept_while_all_weights_are_trained() -> None:
    model = build("tiny", 3)
    set_trained(model, Recipe("tiny", keep_statistics=True), 0)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and not any(module.training for module in norms)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_last_phase_trains_classifier_and_normalisation() -> None:
    model = build("tiny", 3)
    set_trained(model, Recipe("tiny", epochs=5, fixres_epochs=1), 4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "norm" in name or "classifier" in name}


def history(*errors: float) -> list[dict[str, Any]]:
    return [{"epoch": index + 1, "validation_error": error} for index, error in enumerate(errors)]


def test_best_epoch_and_early_stopping() -> None:
    assert best_epoch(history(0.3, 0.2, 0.2, 0.4)) == 3
    assert is_best(history(0.3, 0.2, 0.2))
    assert not is_best(history(0.2, 0.3))
    assert is_best([{"epoch": 1}, {"epoch": 2}])
    assert not stops_early(history(0.3, 0.2, 0.25), 2)
    assert stops_early(history(0.3, 0.2, 0.25, 0.2), 2)
    assert not stops_early(history(0.3, 0.3, 0.3), 0)


@pytest.mark.parametrize("name", recipes.names())
def test_named_recipe_is_written_and_read_again(name: str, tmp_path: Path) -> None:
    recipe = recipes.make({**recipes.read(name), "arch": "resnet20", "options": {"shortcut": "B"}})
    (tmp_path / "recipe.toml").write_text(recipes.to_toml(recipe))
    assert recipes.make(recipes.read(str(tmp_path / "recipe.toml"))) == recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs = 0", "--epochs 0: must be greater than or equal to 1"),
        ("peak_lr = 'x'", "--lr x: must be a valid number"),
        ("loss = 'hinge'", "--loss takes cross-entropy, bce, not 'hinge'"),
        ("epoch = 1", "has the unknown key 'epoch'"),
        ("epochs", "is no file in TOML or JSON"),
        ('{"epochs": 3', "is no file in TOML or JSON"),
        (None, r"is neither a recipe \(a1, fast, finetune, he2016\) nor a file"),
    ],
)
def test_wrong_recipe_files_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        recipes.make(recipes.read(str(path)))


def test_recipe_of_2016_is_that_of_the_paper() -> None:
    recipe = recipes.make(recipes.read("he2016"))
    steps = math.ceil(50_000 / recipe.batch_size) * recipe.epochs
    assert steps == pytest.approx(64_000, rel=0.005)
    assert (recipe.peak_lr, recipe.momentum, recipe.weight_decay, recipe.crop_padding) == (0.1, 0.9, 1e-4, 4)
