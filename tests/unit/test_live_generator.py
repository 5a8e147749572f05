"""The random numbers of the live studies; `tests/e2e/test_studies_page.py` checks the same vector in JavaScript."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from models.studies.live.generator import RandomTensors, words

VECTOR = json.loads((Path(__file__).parents[1] / "data" / "philox2x32.json").read_text(encoding="utf-8"))


def test_words_are_those_of_random123() -> None:
    for known in VECTOR["words"]:
        first, second = known["counter"]
        left, right = words(np.asarray([first], np.uint64), second, known["key"])
        assert [int(left[0]), int(right[0])] == known["words"]


def test_normal_numbers_of_the_vector() -> None:
    for known in VECTOR["normals"]:
        draws = RandomTensors(known["seed"])
        for _ in range(known["tensor"]):
            draws.normal(3)
        np.testing.assert_allclose(draws.normal(len(known["values"])), known["values"], rtol=1e-13)


def test_many_numbers_are_normal_and_tensors_differ() -> None:
    draws = RandomTensors(1)
    first, second = draws.normal(400, 500), draws.normal(400, 500)
    for values in (first, second):
        moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]
        np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
    assert abs(float((first * second).mean())) < 0.01
