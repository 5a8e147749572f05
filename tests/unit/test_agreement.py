"""Agreement of two versions, against NumPy on all images at once."""

from __future__ import annotations

import numpy as np
import pytest

from service.telemetry.agreement import DISTANCES, Agreement, wilson

LABELS = ["cat", "dog", "crane", "crane", "ship"]


def probabilities(seed: int, images: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(5, 0.3), images).astype(np.float32)


def test_counts_are_those_of_all_images_at_once() -> None:
    first, second = probabilities(1), probabilities(2)
    second[:300] = (0.9 * first[:300] + 0.1 * second[:300]).astype(np.float32)
    agreement = Agreement(LABELS, LABELS)
    agrees = [agreement.add(a, b) for a, b in zip(first, second, strict=True)]
    expected = first.argmax(1) == second.argmax(1)
    distance = np.abs(first - second).sum(1) / 2
    report = agreement.report()
    assert agrees == expected.tolist()
    assert (report.images, report.agreed) == (400, expected.sum())
    assert report.distance is not None
    assert report.distance.value == pytest.approx(distance.mean(), abs=1e-6)
    margin = 1.96 * distance.std(ddof=1) / 20
    assert report.distance.high - report.distance.value == pytest.approx(margin, rel=1e-3)
    counts, _ = np.histogram(distance, [-1, *DISTANCES])
    assert report.distances == counts.tolist()
    assert sum(each.images for each in report.classes) == 400
    for each in report.classes:
        if each.label != "crane":
            chosen = first.argmax(1) == LABELS.index(each.label)
            assert (each.images, each.agreed) == (chosen.sum(), (expected & chosen).sum())


def test_classes_are_compared_by_their_labels() -> None:
    first = probabilities(3)
    order = np.array([4, 2, 0, 1, 3])
    permuted = Agreement(LABELS, [LABELS[place] for place in order])
    for row in first:
        assert permuted.add(row, row[order])
    report = permuted.report()
    assert report.distance is not None
    assert report.distance.high == 0.0
    fewer = Agreement(["cat", "dog"], ["dog", "bird"])
    assert fewer.add(np.array([0.4, 0.6], np.float32), np.array([0.6, 0.4], np.float32))
    (distance,) = [bound for bound, count in zip(DISTANCES, fewer.report().distances, strict=True) if count]
    assert distance == 0.5  # 0.4 of cat against 0.4 of bird


def test_times_are_quantiles_and_means() -> None:
    agreement = Agreement(LABELS, LABELS)
    seconds = np.random.default_rng(4).lognormal(-4, 1, 1000)
    for index, value in enumerate(seconds):
        agreement.add(probabilities(index, 1)[0], probabilities(index, 1)[0])
        agreement.add_times((value, 4), (2 * value, 1))
    report = agreement.report()
    assert report.first is not None
    assert report.second is not None
    assert report.first.per_image == pytest.approx(seconds.mean() / 4)
    assert report.second.per_image == pytest.approx(2 * seconds.mean())
    for found, share in ((report.first.median, 0.5), (report.first.p99, 0.99)):
        exact = np.quantile(seconds, share, method="inverted_cdf")
        assert exact <= found <= 1.1 * exact


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0), (15, 148, 0.0624, 0.1605)],
)
def test_interval_is_that_of_newcombe_1998(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", table I, method 3 (and its limits)."""
    found = wilson(successes, trials)
    assert found.value == successes / trials
    assert found.low == pytest.approx(low, abs=5e-4)
    assert found.high == pytest.approx(high, abs=5e-4)


def test_without_images_there_is_no_estimate() -> None:
    report = Agreement(LABELS, LABELS).report()
    assert (report.images, report.agreement, report.distance, report.first) == (0, None, None, None)
