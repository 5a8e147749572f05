"""Tuning: the measurements, the best of them, and their use by the service."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from models.artifact import manifest
from models.artifact.manifest import Manifest
from models.runtime import engine_cache, tuning
from models.runtime.tuning import Bounds, Host, Measurement, NotTuned, TuningError, TuningProfile
from service.cli.tune import app, print_tables
from service.core.cpus import available_cpus
from service.core.settings import Settings
from tests.support.service import serve
from tests.support.tiny import copy_repository

HOST = Host(cpu="a CPU", cpus=4, runtimes={"onnxruntime": "1.0"})


def measured(
    executor: str = "onnxruntime-cpu",
    precision: Any = "float32",
    threads: int = 2,
    batch: int = 1,
    rate: float = 100.0,
    loss: float = 0.0,
    disturbed: bool = False,
) -> Measurement:
    return Measurement(
        executor=executor,
        precision=precision,
        threads=threads,
        batch=batch,
        images_per_second=rate,
        latency_ms=1000 * batch / rate,
        accuracy_loss=loss,
        rounds=3,
        disturbed=disturbed,
    )


def tuned(described: Manifest, *measurements: Measurement, host: Host = HOST, **bounds: Any) -> TuningProfile:
    return TuningProfile(
        schema=1,
        model=described.name,
        version=described.version,
        artifacts=tuning.hashes(described),
        host=host,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        bounds=Bounds(**bounds),
        measurements=measurements,
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` in float32 and int8."""
    return copy_repository(tmp_path_factory.mktemp("tuned") / "repository", ["float32", "int8"])


@pytest.fixture(scope="module")
def described(repository: Path) -> Manifest:
    return manifest.read(repository / "tiny" / "1")


@pytest.fixture
def here(tmp_path: Path, described: Manifest) -> TuningProfile:
    """Measurements of this machine, in a cache at `tmp_path`; int8 is best."""
    found = tuned(
        described,
        measured(batch=1, rate=100),
        measured(batch=8, rate=120),
        measured(precision="int8", threads=1, batch=4, rate=300),
        measured(precision="int8", threads=1, batch=8, rate=305),
        host=Host.here(available_cpus()),
    )
    tuning.write(tmp_path, described, found)
    return found


TABLE = (
    measured(batch=1, rate=50),
    measured(batch=8, rate=60),
    measured(precision="int8", batch=1, rate=140, loss=0.004),
    measured(precision="int8", batch=4, rate=196, loss=0.004),
    measured(precision="int8", batch=8, rate=200, loss=0.004),
    measured("openvino", "int8", 1, 1, 150, 0.02),
    measured("openvino", "int8", 2, 8, 250, 0.02),
)


@pytest.mark.parametrize(
    ("bounds", "wanted", "expected"),
    [
        # 196 is within 5 % of 200, and half the latency.
        ({}, {}, ("onnxruntime-cpu", "int8", 2, 4)),
        ({"max_accuracy_loss": 0.02}, {}, ("openvino", "int8", 2, 8)),
        ({"max_accuracy_loss": 0.0}, {}, ("onnxruntime-cpu", "float32", 2, 8)),
        ({"max_accuracy_loss": 0.02, "max_latency_ms": 7.0}, {}, ("openvino", "int8", 1, 1)),
        ({}, {"precision": "float32"}, ("onnxruntime-cpu", "float32", 2, 8)),
        ({}, {"max_batch": 2}, ("onnxruntime-cpu", "int8", 2, 1)),
        ({}, {"executor": "openvino"}, None),
        ({}, {"threads": 1}, None),
        ({"max_latency_ms": 1.0}, {}, None),
    ],
)
def test_best_measurement_keeps_the_bounds(
    bounds: dict[str, Any], wanted: dict[str, Any], expected: tuple[object, ...] | None, described: Manifest
) -> None:
    best = tuned(described, *TABLE, **bounds).best(**wanted)
    assert (None if best is None else (best.executor, best.precision, best.threads, best.batch)) == expected


def test_tables_fit_a_terminal_of_80_columns(described: Manifest) -> None:
    """The widest figures: disturbed, beyond the bounds and of all sizes, with more batch sizes than fit in a table."""
    rates = [0.4, 9999.4, 12_345, 99_949, 99_951, 987_654, 5, 50, 500]
    rows = [
        measured(executor, precision, 128, 2**power, rate, 0.999, disturbed=True)
        for executor, precision in (("onnxruntime-cuda", "bfloat16"), ("onnxruntime-cpu", "float32"))
        for power, rate in enumerate(rates)
    ]
    output = io.StringIO()
    print_tables(tuned(described, *rows, max_accuracy_loss=0.01), Console(file=output, width=80))
    printed = output.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    figures = ("(0*)", "(9,999*)", "(12.3k*)", "(99.9k*)", "(100k*)", "(988k*)", "(500*)", "99.9%")
    assert all(text in printed for text in ("onnxruntime-cuda", "256", *figures))


def test_ratio_is_to_float32_at_the_same_batch(described: Manifest) -> None:
    table = (*TABLE, measured(threads=1, batch=8, rate=80))
    found = tuned(described, *table)
    assert found.ratio(TABLE[4]) == pytest.approx(200 / 80)
    assert found.ratio(TABLE[3]) is None


def test_written_profile_is_read(here: TuningProfile, tmp_path: Path, described: Manifest) -> None:
    assert tuning.read(tmp_path, described, Host.here(available_cpus())) == here
    path = engine_cache.tuning_file(tmp_path, described.artifacts[0].sha256)
    assert json.loads(path.read_text())["host"]["cpus"] == available_cpus()


def test_missing_profile_is_reported(tmp_path: Path, described: Manifest) -> None:
    with pytest.raises(NotTuned):
        tuning.read(tmp_path, described, HOST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpu": "another"}, "CPU: a CPU there, another here"),
        ({"cpus": 8}, "number of CPUs: 4 there, 8 here"),
        ({"runtimes": {"onnxruntime": "2.0"}}, r"onnxruntime: 1\.0 there, 2\.0 here"),
        ({"runtimes": {"onnxruntime": "1.0", "openvino": "3.0"}}, r"openvino: none there, 3\.0 here"),
        ({"devices": ("NVIDIA H100",)}, "GPUs: none there, NVIDIA H100 here"),
    ],
)
def test_profile_of_another_machine_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, described: Manifest
) -> None:
    tuning.write(tmp_path, described, tuned(described, *TABLE))
    with pytest.raises(TuningError, match=f"measured on another machine: {message}$"):
        tuning.read(tmp_path, described, HOST.model_copy(update=change))


def test_profile_of_other_files_is_refused(tmp_path: Path, described: Manifest) -> None:
    found = tuned(described, *TABLE)
    other = found.model_copy(update={"artifacts": {**found.artifacts, "model.int8.onnx": "0" * 64}})
    tuning.write(tmp_path, described, other)
    with pytest.raises(TuningError, match=r"with other files than this version has: model\.int8\.onnx$"):
        tuning.read(tmp_path, described, HOST)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 2}'])
def test_damaged_profile_is_refused(content: str, tmp_path: Path, described: Manifest) -> None:
    path = tuning.write(tmp_path, described, tuned(described, *TABLE))
    path.write_text(content)
    with pytest.raises(TuningError, match=r"tuning\.json: [^\n]+$"):
        tuning.read(tmp_path, described, HOST)


def shown(repository: Path, cache: Path, **settings: Any) -> dict[str, Any]:
    with serve(Settings(repository=repository, cache=cache, **settings)) as client:
        answer: dict[str, Any] = client.get("/v1/models/tiny").json()
    return answer


def used(answer: dict[str, Any]) -> tuple[object, ...]:
    return tuple(answer[name] for name in ("executor", "precision", "threads", "max_batch"))


def test_service_uses_the_best(here: TuningProfile, tmp_path: Path, repository: Path) -> None:
    answer = shown(repository, tmp_path)
    assert used(answer) == ("onnxruntime-cpu", "int8", 1, 4)
    reason = answer["config"].pop("reason")
    assert set(answer["config"].values()) == {"tuned"}
    assert reason == "measured on 2026-01-02: 300.0 images/s with 13.3 ms per batch of 4"


def test_winner_that_was_measured_on_a_disturbed_machine_is_marked(
    tmp_path: Path, repository: Path, described: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (measured(rate=50), measured(precision="int8", rate=90, disturbed=True))
    tuning.write(tmp_path, described, tuned(described, *rows, host=Host.here(available_cpus())))
    with caplog.at_level(logging.WARNING):
        answer = shown(repository, tmp_path)
    assert used(answer)[:2] == ("onnxruntime-cpu", "int8")
    assert "while other processes used the CPUs" in answer["config"]["reason"]
    assert [record.message for record in caplog.records if "tune again on a quiet machine" in record.message]


def test_settings_override_the_profile(here: TuningProfile, tmp_path: Path, repository: Path) -> None:
    answer = shown(repository, tmp_path, precision="float32", max_batch=4)
    assert used(answer) == ("onnxruntime-cpu", "float32", 2, 4)
    assert [answer["config"][name] for name in ("executor", "precision", "threads", "max_batch")] == [
        "tuned", "set", "tuned", "set",
    ]  # fmt: skip


def test_unmeasured_settings_use_the_default_rule(here: TuningProfile, tmp_path: Path, repository: Path) -> None:
    answer = shown(repository, tmp_path, threads=7)
    assert used(answer)[:3] == ("onnxruntime-cpu", "float32", 7)
    assert answer["config"]["threads"] == "set"
    assert answer["config"]["executor"] == answer["config"]["max_batch"] == "default rule"
    assert answer["config"]["reason"] == "no measurement agrees with the settings and keeps within its bounds"


def test_profile_of_another_machine_is_ignored_with_a_warning(
    tmp_path: Path, repository: Path, described: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    tuning.write(tmp_path, described, tuned(described, measured(precision="int8")))
    with caplog.at_level(logging.WARNING):
        answer = shown(repository, tmp_path)
    assert used(answer)[:3] == ("onnxruntime-cpu", "float32", 1)
    assert "measured on another machine" in answer["config"]["reason"]
    assert [record.message for record in caplog.records if "measured on another machine" in record.message]


def test_without_a_profile_the_default_rule_applies(
    tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = shown(repository, tmp_path)
    assert used(answer)[:3] == ("onnxruntime-cpu", "float32", 1)
    assert answer["config"]["reason"] == "there is no profile for this machine: run resnet-serve tune"
    assert not caplog.records


def test_profile_of_a_missing_executor_is_ignored(tmp_path: Path, repository: Path, described: Manifest) -> None:
    gone = tuned(described, measured("no-such-runtime", "int8"), host=Host.here(available_cpus()))
    tuning.write(tmp_path, described, gone)
    answer = shown(repository, tmp_path)
    assert used(answer)[:2] == ("onnxruntime-cpu", "float32")
    assert "no executor is named 'no-such-runtime'" in answer["config"]["reason"]


@pytest.fixture(scope="module")
def run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Output of the deprecated `resnet-export tune`, and the cache that it wrote to."""
    cache = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-m", "export", "tune", str(repository / "tiny"), "--cache", str(cache)]
    command += ["--seconds", "1", "--threads", "1", "--max-accuracy-loss", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield done.stdout, cache
    shutil.rmtree(cache)


@pytest.mark.slow
def test_tune_measures_every_engine(run: tuple[str, Path], described: Manifest) -> None:
    found = tuning.read(run[1], described, Host.here(available_cpus()))
    kinds = {(row.executor, row.precision) for row in found.measurements}
    assert kinds >= {
        ("onnxruntime-cpu", "float32"),
        ("onnxruntime-cpu", "int8"),
        ("openvino", "float32"),
        ("openvino", "int8"),
    }
    assert "simulated" not in {executor for executor, _ in kinds}
    for kind in kinds:
        rows = [row for row in found.measurements if (row.executor, row.precision) == kind]
        assert [row.batch for row in rows][:3] == [1, 2, 4]
        assert {row.rounds for row in rows} == {3}
        assert {row.instances for row in rows} == {min(8, available_cpus())}  # an image takes far less than 2 ms
        assert all(
            row.latency_ms * row.images_per_second == pytest.approx(1000 * row.batch * row.instances) for row in rows
        )


@pytest.mark.slow
def test_tune_prints_the_best_and_plots(run: tuple[str, Path], described: Manifest) -> None:
    output, cache = run
    best = tuning.read(cache, described, Host.here(available_cpus())).best()
    assert best is not None
    assert f"best: {best.executor} {best.precision}, threads 1, batches of up to {best.batch}" in output
    assert max(len(line) for line in output.splitlines() if not line.startswith("written: ")) <= 80
    file = engine_cache.tuning_file(cache, described.artifacts[0].sha256)
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert all(name in file.with_suffix(".svg").read_text() for name in ("openvino int8", "onnxruntime-cpu float32"))


@pytest.mark.slow
def test_accuracy_loss_comes_from_the_manifest(run: tuple[str, Path], described: Manifest) -> None:
    """No accuracy was measured of `tiny`, so it is the share of images with another first class."""
    found = tuning.read(run[1], described, Host.here(available_cpus()))
    agreement = {a.file: a.parity.top1_agreement for a in described.artifacts if a.parity is not None}
    losses = {(row.executor, row.precision): row.accuracy_loss for row in found.measurements}
    assert losses["onnxruntime-cpu", "float32"] == 0.0
    assert losses["onnxruntime-cpu", "int8"] == pytest.approx(1 - agreement["model.int8-ort.onnx"])
    assert losses["openvino", "int8"] == pytest.approx(1 - agreement["model.int8.onnx"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "holds no exported model"),
        (["tiny", "--threads", "two"], "--threads takes numbers"),
        (["tiny", "--executor", "tensorflow"], "no executor is named 'tensorflow'"),
    ],
)
def test_tune_refuses_bad_arguments(
    arguments: list[str], message: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output
