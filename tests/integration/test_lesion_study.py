"""The lesion study measures what it names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from models.architectures.lesions import NotDeletable, without_blocks
from models.cli.app import app
from models.studies import deletion, lesion
from models.studies.deletion import Images
from models.training.evaluate import normalise, predict
from tests.support.lesions import scaled
from tests.support.networks import make_checkpoint


def test_network_without_blocks_is_that_with_zero_branches() -> None:
    trained = make_checkpoint("resnet20")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    gates = np.array([1, 0, 1, 0, 1, 1, 0, 1, 1], np.float32)  # block 4 changes the shape
    expected = predict(scaled(trained, gates), pixels, trained.preprocess)
    found = predict(without_blocks(trained.model(), {1, 3, 6}), pixels, trained.preprocess)
    torch.testing.assert_close(found, expected)
    with pytest.raises(NotDeletable, match="there is no block 9: the blocks are 0 to 8"):
        without_blocks(trained.model(), {9})


def test_deleted_block_of_a_plain_network_is_left_out() -> None:
    trained = make_checkpoint("plain20")
    model: Any = trained.model().eval()
    inputs = normalise(torch.rand(3, 3, 32, 32) * 255, trained.preprocess)
    with torch.inference_mode():
        x = F.relu(model.stem(inputs))
        for place, block in enumerate(block for stage in model.stages for block in stage):
            x = x if place == 4 else F.relu(block.convs[1](F.relu(block.convs[0](x))))
        expected = model.classifier(x.mean((2, 3)))
        torch.testing.assert_close(without_blocks(model, {4})(inputs), expected)
    assert deletion.fixed_shape(model) == [0, 1, 2, 4, 5, 7, 8]
    with pytest.raises(NotDeletable, match="cannot be deleted"):
        without_blocks(model, {3})


def test_gradients_along_all_paths_add_up_to_the_gradient() -> None:
    trained = make_checkpoint("tiny")
    model = trained.model().eval().double()
    inputs = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = Images(inputs, torch.arange(4))
    subsets = itertools.chain.from_iterable(itertools.combinations(range(2), count) for count in range(3))
    total = sum(deletion.path_gradient(model, set(subset), images) for subset in subsets)
    inputs = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(inputs), images.labels, reduction="sum"), inputs)
    torch.testing.assert_close(total, expected)
    norms = deletion.gradient_by_length(model, images, 1, np.random.default_rng(0))
    whole = deletion.path_gradient(model, {0, 1}, images).flatten(1).norm(dim=1).mean()
    assert norms[2] == pytest.approx(float(whole))


def test_order_and_shares_by_hand() -> None:
    assert deletion.kendall([0, 1, 2]) == 1
    assert deletion.kendall([1, 0, 2]) == pytest.approx(1 / 3)
    assert deletion.kendall([2, 1, 0]) == -1
    # 1, 3, 3, 1 paths
    assert lesion.effective_share([8, 4, 2, 1]) == pytest.approx([8 / 27, 12 / 27, 6 / 27, 1 / 27])
    assert lesion.central_range([0.02, 0.5, 0.4, 0.06, 0.02]) == (1, 3)
    model = make_checkpoint("resnet20").model()
    order = deletion.random_order(model, 50, np.random.default_rng(0))
    assert [order[place] for place in (3, 6)] == [3, 6]
    assert [sorted(order[first : first + 3]) for first in (0, 3, 6)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert order != sorted(order)


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    command = ["lesion", "--data", str(tmp_path), "--set", f"checkpoints={tmp_path}", "--work", str(tmp_path)]
    result = CliRunner().invoke(app, ["study", *command])
    assert result.exit_code == 2
    assert "plain56-seed0.safetensors: there is no such checkpoint" in " ".join(result.stderr.split())
