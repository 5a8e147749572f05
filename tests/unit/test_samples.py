"""Images to make choices on are never those of which accuracy is reported, nor those of the training."""

from __future__ import annotations

import gzip
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from export import samples
from models.data import DataError, load
from models.training.checkpoint import Checkpoint
from models.training.input.splits import split
from models.training.recipe import Recipe
from tests.support.networks import make_checkpoint

SIZE = 8


def write_idx(folder: Path, *, train: int | None = 30, test: int = 12, names: str | None = None) -> Path:
    """A data set in the IDX format with different images, each of which holds its number."""
    folder.mkdir()
    numbers = 0
    for prefix, count in (("train", train), ("t10k", test)):
        if count is None:
            continue
        pixels = np.zeros((count, SIZE, SIZE), np.uint8)
        pixels[:, 0, 0] = np.arange(numbers, numbers + count)
        numbers += count
        for stem, array in (("images-idx3", pixels), ("labels-idx1", (np.arange(count) % 3).astype(np.uint8))):
            header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{prefix}-{stem}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    if names is not None:
        (folder / "labels.txt").write_text(names)
    return folder


def trained(**training: object) -> Checkpoint:
    checkpoint = make_checkpoint("tiny", size=SIZE, channels=1, classes=3)
    return Checkpoint(checkpoint.architecture, ("0", "1", "2"), checkpoint.preprocess, checkpoint.weights, training)


def numbers_of(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())


def test_choices_are_made_on_training_images_held_out(tmp_path: Path) -> None:
    recipe = Recipe("tiny", validation=10)
    used = samples.from_data(trained(recipe=asdict(recipe), images=20), write_idx(tmp_path / "data"))
    held_out = split(load(tmp_path / "data", "train"), recipe)[1]
    assert held_out is not None
    assert used.test is not None
    assert numbers_of(used.selection) == numbers_of(held_out.images(np.arange(10)))
    assert used.selection_source == "held-out training images"
    assert numbers_of(used.test.images(np.arange(len(used.test.labels)))) == set(range(30, 42))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "train"),
    [
        ({}, 30),
        ({}, None),
        ({"recipe": asdict(Recipe("tiny", validation=0)), "images": 30}, 30),
        # The folder has grown since the training: the seed holds out others.
        ({"recipe": asdict(Recipe("tiny", validation=10)), "images": 15}, 30),
    ],
)
def test_without_such_images_one_half_of_the_test_images_is_for_choices(
    training: dict[str, object], train: int | None, tmp_path: Path
) -> None:
    used = samples.from_data(trained(**training), write_idx(tmp_path / "data", train=train))
    assert used.test is not None
    chosen, reported = numbers_of(used.selection), numbers_of(used.test.images(np.arange(len(used.test.labels))))
    first = 0 if train is None else train
    assert chosen | reported == set(range(first, first + 12))
    assert len(chosen) == len(reported) == 6
    assert used.selection_source == "held-out test images"


def test_one_test_image_is_used_for_choices_and_no_accuracy_is_reported(tmp_path: Path) -> None:
    used = samples.from_data(trained(), write_idx(tmp_path / "data", test=1))
    assert (used.test, len(used.selection)) == (None, 1)


@pytest.mark.parametrize(("count", "photographed"), [(1, True), (2, True), (3, False)])
def test_artifacts_are_compared_on_photographs_if_there_are_few_test_images(
    count: int, photographed: bool, tmp_path: Path
) -> None:
    """The logits of one image have no spread that an error could be compared with."""
    network = trained()
    used = samples.from_data(network, write_idx(tmp_path / "data", test=count))
    others = samples.photographs(network.preprocess)
    assert np.array_equal(used.parity, others) == photographed
    assert len(used.parity) == (len(others) if photographed else count)


@pytest.mark.slow
def test_labels_are_those_of_the_network(tmp_path: Path) -> None:
    data = write_idx(tmp_path / "data", names="2\n0\n1\n")
    used = samples.from_data(trained(), data)
    assert used.selection_labels is not None
    assert used.selection_labels.tolist() == [2, 1, 0, 2, 1, 0]
    write_idx(tmp_path / "other", names="cat\ndog\nbird\n")
    with pytest.raises(DataError, match="'cat', 'dog', 'bird'"):
        samples.from_data(trained(), tmp_path / "other")
    assert samples.from_data(trained(), tmp_path / "other", by_position=True).selection_labels is not None


@pytest.mark.slow
def test_choices_for_an_ensemble_are_made_on_images_that_no_member_was_trained_on(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "data")
    recipes = [Recipe("tiny", validation=20, seed=seed) for seed in (0, 1)]
    members = [trained(recipe=asdict(recipe), images=10) for recipe in recipes]
    training = load(folder, "train")
    trained_on = [split(training, recipe)[0] for recipe in recipes]
    seen = [numbers_of(part.images(np.arange(len(part.labels)))) for part in trained_on]
    assert seen[0] != seen[1]
    used = samples.from_data(members[0], folder, others=members[1:])
    assert numbers_of(used.selection) == set(range(30)) - seen[0] - seen[1]
    # Of the second member nothing is known, so any training image may be one of its own.
    used = samples.from_data(members[0], folder, others=[trained()])
    assert used.selection_source == "held-out test images"
