"""Rules that promote a version or roll it back, and requests whose version fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from models.artifact.traffic import Rules, TrafficFileError, TrafficPolicy, change_traffic, read_traffic
from tests.support.api import as_form
from tests.support.service import Client
from tests.support.tiny import Photographs
from tests.support.two_versions import MOSTLY_2, failing, serve_two_versions
from tests.support.worker_processes import wait_until

RULES = Rules(candidate=2, min_images=20, min_agreement=0.9, max_slowdown=1000)


def keep(version: Path) -> None:
    """The same network."""


def reverse_labels(version: Path) -> None:
    path = version / "manifest.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "labels": described["labels"][1:] + described["labels"][:1]}))


def damage(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"no model")


def classify(client: Client, photographs: Photographs) -> list[Any]:
    answers = [client.post("/v1/classify", content=data) for _, data in photographs for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


def wait_for_end(client: Client, folder: Path) -> TrafficPolicy:
    """The policy after the rules have decided."""
    wait_until(lambda: read_traffic(folder / "traffic.toml")["tiny"].rules is None, "the rules decide")
    return read_traffic(folder / "traffic.toml")["tiny"]


def policy(weights: dict[int, float], rules: Rules = RULES) -> TrafficPolicy:
    return TrafficPolicy(weights=weights, shadow={2: 1.0}, rules=rules)


CASES: dict[str, tuple[Callable[[Path], object], dict[int, float], str]] = {
    "an equal version": (keep, {1: 0, 2: 100}, "version 2 gets all requests: 20 of 20"),
    "a version that is wrong": (reverse_labels, {1: 100, 2: 0}, "version 2 gets no requests any more: 0 of 20"),
    "a damaged version": (damage, {1: 100, 2: 0}, "version 2 gets no requests any more: it could not be loaded"),
}


@pytest.mark.parametrize("case", CASES)
def test_rules_decide_by_agreement(
    case: str, tiny_repository: Path, tmp_path: Path, photographs: Photographs, caplog: pytest.LogCaptureFixture
) -> None:
    change, weights, line = CASES[case]
    caplog.set_level("INFO")
    with serve_two_versions(tiny_repository, tmp_path, policy({1: 90, 2: 10}), change) as client:
        classify(client, photographs)
        decided = wait_for_end(client, tmp_path)
        assert (decided.weights, decided.shadow) == (weights, {})
        expected = {str(number) for number, weight in weights.items() if weight}
        wait_until(lambda: {each["version"] for each in classify(client, photographs)} == expected, "it applies")
    # The number of images may be larger: the rules are checked several times per second.
    assert line.partition(" of 20")[0].rpartition(" ")[0] in caplog.text


def test_a_version_that_fails_costs_no_request_and_is_rolled_back(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_two_versions(tiny_repository, tmp_path, policy({1: 50, 2: 50})) as client:
        assert {each["version"] for each in classify(client, photographs)} == {"1", "2"}
        with failing(client, 2):
            assert {each["version"] for each in classify(client, photographs)} == {"1"}
            assert wait_for_end(client, tmp_path).weights == {1: 100, 2: 0}
    assert "tiny version 2 gets no requests any more" in caplog.text


def test_a_request_that_names_the_version_gets_its_error(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    without_rules = TrafficPolicy(weights={1: 1, 2: 1})
    with serve_two_versions(tiny_repository, tmp_path, without_rules) as client:
        _, data = photographs[0]
        with failing(client, 2):
            assert client.post("/v1/classify", content=data, headers={"x-model-version": "2"}).status_code == 500
            assert client.post("/v1/models/tiny/versions/2/classify", content=data).status_code == 500
            assert {each["version"] for each in classify(client, photographs)} == {"1"}
            with failing(client, 1):
                assert client.post("/v1/classify", content=data).status_code == 500


def test_lines_name_the_version_that_has_computed(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    request = as_form(photographs[0][1], photographs[1][1])
    with serve_two_versions(tiny_repository, tmp_path, MOSTLY_2) as client:
        for expected in ("2", "1"):
            with failing(client, 2) if expected == "1" else nullcontext():
                answer = client.post("/v1/classify", headers={"accept": "application/x-ndjson"}, **request)
            lines = [json.loads(line) for line in answer.text.splitlines()]
            assert [line["version"] for line in lines] == [expected] * 2
            assert all(line["predictions"] for line in lines)


def test_a_version_without_maps_does_not_compute_in_place_of_one_that_has_them(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    def remove_classifier_of_version_1(second: Path) -> None:
        path = second.parent / "1" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "classifier_sha256": None}))
        path.with_name("classifier.npz").unlink()

    _, data = photographs[0]
    with serve_two_versions(tiny_repository, tmp_path, MOSTLY_2, remove_classifier_of_version_1) as client:
        assert client.post("/v1/classify?cam=values", content=data).json()["version"] == "2"
        with failing(client, 2):
            refused = client.post("/v1/classify?cam=values", content=data)
            assert (refused.status_code, refused.json()["title"]) == (500, "Inference failed")
            assert client.post("/v1/classify", content=data).json()["version"] == "1"


def test_a_dry_run_only_logs(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dry = policy({1: 1}, RULES.model_copy(update={"dry_run": True}))
    with serve_two_versions(tiny_repository, tmp_path, dry) as client:
        classify(client, photographs)
        wait_until(lambda: "tiny version 2 would get all requests" in caplog.text, "the rules decide")
        assert {each["version"] for each in classify(client, photographs)} == {"1"}
    assert read_traffic(tmp_path / "traffic.toml") == {"tiny": dry}


def test_a_file_that_cannot_be_written_does_not_stop_a_rollback(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise TrafficFileError("the file system is read-only")

    monkeypatch.setattr("service.registry.rollout.policies.change_traffic", refuse)
    with serve_two_versions(tiny_repository, tmp_path, policy({1: 1, 2: 1}), reverse_labels) as client:
        classify(client, photographs)
        wait_until(lambda: {each["version"] for each in classify(client, photographs)} == {"1"}, "it is rolled back")
        client.portal.call(client.registry.refresh)
        assert client.get("/v1/models/tiny/rollout").json()["policy"]["weights"] == {"1": 100, "2": 0}
        change_traffic(tmp_path / "traffic.toml", "tiny", TrafficPolicy(weights={2: 1}))
        client.portal.call(client.registry.refresh)
        assert {each["version"] for each in classify(client, photographs)} == {"2"}


@pytest.mark.parametrize(
    ("weights", "shadow", "message"),
    [({1: 1}, {}, "is not a shadow"), ({2: 1}, {2: 1.0}, "nothing to compare with")],
)
def test_rules_need_a_comparison(weights: dict[int, float], shadow: dict[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrafficPolicy(weights=weights, shadow=shadow, rules=RULES)
