"""Traffic policies: their file, and the version that a request gets."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from models.artifact.traffic import TrafficFileError, TrafficPolicy, change_traffic, read_traffic
from service.inference.routing import select_version
from tests.support.documentation import ROOT, blocks

KEYS = [f"tiny\n{number:x}" for number in range(20_000)]


@pytest.mark.parametrize("weights", [{1: 95, 2: 5}, {1: 50, 2: 50}, {1: 0.5, 2: 0, 7: 0.25, 9: 0.25}])
def test_each_version_gets_its_share(weights: dict[int, float]) -> None:
    policy = TrafficPolicy(weights=weights)
    counts = Counter(select_version(policy, weights, key) for key in KEYS)
    for number, weight in weights.items():
        share = weight / sum(weights.values())
        bound = 4 * math.sqrt(len(KEYS) * share * (1 - share))  # of a binomial distribution
        assert abs(counts[number] - len(KEYS) * share) <= bound


def test_keys_only_move_to_the_version_that_grows() -> None:
    before, after = TrafficPolicy(weights={1: 90, 2: 5, 3: 5}), TrafficPolicy(weights={1: 90, 2: 40, 3: 5})
    moved = Counter((select_version(before, {1, 2, 3}, key), select_version(after, {1, 2, 3}, key)) for key in KEYS)
    assert {new for old, new in moved if old != new} == {2}
    assert moved[1, 2] > 0


def test_the_others_get_the_requests_of_a_version_that_is_away() -> None:
    policy = TrafficPolicy(weights={1: 50, 2: 30, 3: 20})
    for key in KEYS[:1000]:
        chosen = select_version(policy, {1, 2, 3}, key)
        assert select_version(policy, {1, 3}, key) == (chosen if chosen != 2 else select_version(policy, {1, 3}, key))
    assert {select_version(policy, {2}, key) for key in KEYS[:100]} == {2}
    assert select_version(policy, {4}, "key") is None


def test_a_file_is_changed_model_by_model(tmp_path: Path) -> None:
    path = tmp_path / "traffic.toml"
    assert read_traffic(path) == {}
    change_traffic(path, "b", TrafficPolicy(weights={2: 5, 1: 95.5}, sticky_header="X-User"))
    change_traffic(path, "a.b_c-d", TrafficPolicy(weights={1: 1}))
    content = tomllib.loads(path.read_text())
    assert content == {
        "model": [
            {"name": "b", "weights": {"1": 95.5, "2": 5}, "sticky_header": "X-User"},
            {"name": "a.b_c-d", "weights": {"1": 1}},
        ]
    }
    assert change_traffic(path, "b", None) == read_traffic(path) == {"a.b_c-d": TrafficPolicy(weights={1: 1})}


def entry(rest: str) -> str:
    return f'[[model]]\nname = "m"\n{rest}'


INVALID = {
    "no TOML": ("[[model", "cannot be read"),
    "an unknown key": (entry("weights = {1 = 1}\nweight = 2"), "weight"),
    "no weights": (entry(""), "weights"),
    "no traffic": (entry("weights = {1 = 0}"), "no version has a weight above 0"),
    "a negative weight": (entry("weights = {1 = -1}"), "greater than or equal to 0"),
    "an infinite weight": (entry("weights = {1 = inf}"), "finite"),
    "a version that is no number": (entry("weights = {new = 1}"), "integer"),
    "version 0": (entry("weights = {0 = 1}"), "greater than or equal to 1"),
    "many versions": (entry(f"weights = {{{', '.join(f'{n} = 1' for n in range(1, 18))}}}"), "at most 16"),
    "no header": (entry('weights = {1 = 1}\nsticky_header = "X User"'), "sticky_header"),
    "a model twice": (2 * entry("weights = {1 = 1}\n"), "two entries have the same name"),
    "no model name": ('[[model]]\nname = "../m"\nweights = {1 = 1}', "name"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_file_is_refused_in_words(case: str, tmp_path: Path) -> None:
    text, message = INVALID[case]
    path = tmp_path / "traffic.toml"
    path.write_text(text)
    with pytest.raises(TrafficFileError, match=message) as refused:
        read_traffic(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_documented_file_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    path = tmp_path / "traffic.toml"
    path.write_text(next(block.text for block in blocks(text) if block.language == "toml"))
    assert read_traffic(path)["resnet50"].weights == {1: 95, 2: 5}
