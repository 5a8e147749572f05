"""The benchmarks run, and write a table, JSON and pictures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import compare, engines, fusion, timing
from benchmarks.__main__ import app
from tests.support.tiny import copy_repository


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("benchmarks") / "repository", ["float32", "int8"]) / "tiny" / "1"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    monkeypatch.setattr(compare, "WARM_UP_SECONDS", 0.05)
    for module in (engines, fusion):
        monkeypatch.setattr(module, "interleave", partial(timing.interleave, rounds=2))


def test_interleaved_functions_run_equally_often() -> None:
    calls = {"first": 0, "second": 0}

    def count(name: str) -> None:
        calls[name] += 1

    seconds = timing.interleave({name: partial(count, name) for name in calls}, "counting", rounds=5)
    assert calls["first"] == calls["second"]
    assert {name: len(values) for name, values in seconds.items()} == {"first": 5, "second": 5}
    assert min(min(values) for values in seconds.values()) >= 0


@pytest.mark.slow
def test_engines(version: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["engines", str(version), "--batches", "1,2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "engines.json").read_text())
    assert {row["batch"] for row in rows} == {1, 2}
    assert {"onnxruntime-cpu float32", "onnxruntime-cpu int8", "openvino int8"} <= {row["engine"] for row in rows}
    for row in rows:
        assert (row["logit_rms_error"] > 1e-4) == ("float32" not in row["engine"])
    assert [row["ratio"] for row in rows if row["engine"] == engines.BASELINE] == [1.0, 1.0]
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "engines.svg").exists()


@pytest.mark.slow
def test_fusion(version: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fusion", str(version), "--batches", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "fusion.json").read_text())
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        ("onnxruntime-cpu", "float32"),
        ("openvino", "float32"),
        ("openvino", "int8"),
    ]
    for row in rows:
        assert row["fused"] == row["residual_adds"] == 2
        assert row["fused_without"] < 2
    assert (tmp_path / "fusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("batches", ["0", "one", "", "1,,2"])
def test_malformed_batches_are_refused(batches: str, version: Path) -> None:
    result = CliRunner().invoke(app, ["engines", str(version), "--batches", batches])
    assert result.exit_code == 2
    assert "--batches takes numbers" in result.output


@pytest.mark.slow
def test_serve(tiny_repository: Path, tmp_path: Path) -> None:
    options = ["--repository", str(tiny_repository), "--executor", "simulated:1", "--connections", "1,2"]
    quick = ["--open", "30", "--rounds", "1", "--seconds", "0.05", "--starts", "1", "--retries", "0"]
    flags = [*options, *quick, "--out", str(tmp_path), "--", "--max-batch", "4"]
    result = CliRunner().invoke(app, ["serve", *flags])
    assert result.exit_code == 0, result.output
    for heading in ("start to ready", "efficiency", "p99 of the queue"):
        assert heading in result.output
    told = json.loads((tmp_path / "serve.json").read_text())
    assert told["service"]["model"] == "tiny"
    assert told["service"]["max_batch"] == 4
    assert told["service"]["idle_rss"] >= told["service"]["idle_pss"] > 0
    alone = {ceiling["name"]: ceiling for ceiling in told["ceilings"]}
    assert alone.keys() == {"engine together 1", "engine together 4", "decode JPEG", "decode PNG"}
    assert all(alone[f"engine together {batch}"]["ms"] >= 1.0 for batch in (1, 4))
    singles = [f"{kind}, {connections}" for kind in ("jpeg", "png", "tensor") for connections in (1, 2)]
    rows = {row["load"]: row for row in told["loads"]}
    assert rows.keys() == {*singles, "many, 1", "many, 4", "jpeg, open 30%"}
    for row in rows.values():
        assert row["errors"] == 0
        assert row["answers"] > 0
        assert 1.0 <= row["batch"] <= 4.0
        assert row["images_per_second"] > 0
    for name in singles:
        assert rows[name]["p50"] is None or rows[name]["p50"] >= 1.0
    assert rows["tensor, 1"]["ceiling"] == max(alone[f"engine together {n}"]["images_per_second"] for n in (1, 4))
    for picture in ("serve", "serve-latencies"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_compare(tmp_path: Path) -> None:
    checkout = str(compare.ROOT)
    quick = ["--loads", "resnet20:2", "--rounds", "2", "--seconds", "0.05", "--retries", "0"]
    slower = ["--after-options", "--executor simulated:20 --max-batch 1"]
    flags = [checkout, checkout, *quick, *slower, "--before-options", "--executor simulated:0"]
    result = CliRunner().invoke(app, ["compare", *flags, "--out", str(tmp_path / "rounds.json")])
    assert result.exit_code == 0, result.output
    rounds = json.loads((tmp_path / "rounds.json").read_text())["resnet20, 2 connections"]
    assert len(rounds) == 2
    assert all(row["after"] < row["before"] for row in rounds)
    assert result.output.count("other load") == 2


@pytest.mark.slow
def test_compare_reports_failed_requests() -> None:
    checkout = str(compare.ROOT)
    flags = [checkout, checkout, "--loads", "resnet20:1", "--seconds", "0.05", "--before-options", "--max-pixels 1"]
    result = CliRunner().invoke(app, ["compare", *flags])
    assert result.exit_code == 2
    assert "requests failed, the first with 413" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loads", "webp"], "--loads takes"),
        (["--connections", "0"], "--connections takes numbers"),
        (["--photographs", "nowhere"], "no folder with JPEG or PNG files"),
        (["--", "--max-in-flight-images", "0"], "max_in_flight_images"),
    ],
)
def test_serve_refuses_bad_options(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--starts", "1", *flags])
    assert result.exit_code == 2
    assert message in result.output
