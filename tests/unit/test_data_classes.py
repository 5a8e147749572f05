"""Classes of a data set are those of the network by name, or are refused."""

from __future__ import annotations

import numpy as np
import pytest

from models.data import ArrayDataset, DataError, match_classes

NETWORK = ("T-shirt/top", "Ankle boot", "Bag", "crane", "crane")


def data_set(*classes: str) -> ArrayDataset:
    """Two images of each class; their pixels are the position of the class."""
    labels = np.repeat(np.arange(len(classes)), 2)
    return ArrayDataset("pictures", classes, labels, labels.astype(np.uint8)[:, None, None, None])


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (NETWORK, [0, 1, 2, 3, 4]),
        (("Bag", "T-shirt/top", "Ankle boot"), [2, 0, 1]),
        (("ankle_boot", "bag", "t-shirt_top"), [1, 2, 0]),
        (("Bag",), [2]),
    ],
)
def test_labels_follow_the_names(classes: tuple[str, ...], expected: list[int]) -> None:
    matched = match_classes(data_set(*classes), NETWORK)
    assert matched.classes == NETWORK
    assert matched.labels.tolist() == np.repeat(expected, 2).tolist()
    assert matched.images(np.arange(2 * len(classes))).ravel().tolist() == np.repeat(range(len(classes)), 2).tolist()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ("cat", "dog", "Bag", "a", "b"),
            "4 of its 5 classes are not classes of the network: 'cat', 'dog', 'a', 'b' .*--by-position",
        ),
        (("crane", "Bag"), "1 of its 2 classes .*: 'crane' "),
        (("bag", "Bag!"), "several of its classes are the same class"),
        (("*",), "1 of its 1 classes"),
    ],
)
def test_unknown_names_are_listed(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_classes(data_set(*classes), NETWORK)


def test_position_instead_of_names() -> None:
    """Folders of ImageNet have numbers of WordNet as names."""
    matched = match_classes(data_set("n1", "n2", "n3", "n4", "n5"), NETWORK, by_position=True)
    assert (matched.classes, matched.labels.tolist()) == (NETWORK, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    with pytest.raises(DataError, match="has 2 classes, the network has 5"):
        match_classes(data_set("n1", "n2"), NETWORK, by_position=True)
