"""The most probable classes compared with sorting in plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.inference.top_k import top_k

LABELS = ("cat", "dog", "owl")


def test_most_probable_class_comes_first() -> None:
    (predictions,) = top_k(np.array([[0.25, 0.125, 0.625]], np.float32), LABELS, 2)
    assert [(p.label, p.index, p.probability) for p in predictions] == [("owl", 2, 0.625), ("cat", 0, 0.25)]


def test_k_above_the_classes_gives_all_classes() -> None:
    (predictions,) = top_k(np.array([[0.25, 0.125, 0.625]], np.float32), LABELS, 1_000_000)
    assert [p.index for p in predictions] == [2, 0, 1]


def test_equal_probabilities_keep_the_order_of_the_classes() -> None:
    (predictions,) = top_k(np.array([[0.25, 0.5, 0.25]], np.float32), LABELS, 3)
    assert [p.index for p in predictions] == [1, 0, 2]


def test_no_image_gives_an_empty_result() -> None:
    assert top_k(np.empty((0, 3), np.float32), LABELS, 2) == []


# Few different values, so that there are ties.
ROWS = st.integers(1, 8).flatmap(
    lambda classes: st.lists(
        st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]), min_size=classes, max_size=classes),
        min_size=1,
        max_size=6,
    )
)


@given(ROWS, st.integers(1, 10))
def test_every_row_is_sorted_by_itself(rows: list[list[float]], k: int) -> None:
    answer = top_k(np.array(rows, np.float32), [f"class {index}" for index in range(len(rows[0]))], k)
    for row, predictions in zip(rows, answer, strict=True):
        expected = sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]
        assert [p.index for p in predictions] == expected
        assert [p.probability for p in predictions] == [row[index] for index in expected]
        assert [p.label for p in predictions] == [f"class {index}" for index in expected]
