"""Trackers: TensorBoard's files as its own reader reads them, and stand-ins for the packages of the two servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from models.training.signals import Interrupted
from models.training.trackers import TrackerError, choose_trackers, open_trackers

SETTINGS = {"arch": "tiny", "peak_lr": 0.1, "data": "photographs"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)


class FakePackage(ModuleType):
    """A package of a tracker; `calls` holds the arguments of its functions."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []
        monkeypatch.setitem(sys.modules, name, self)


class FakeMLflow(FakePackage):
    """The functions of mlflow that write to a run."""

    def start_run(self, *, run_id: str | None, run_name: str) -> SimpleNamespace:
        self.calls.append(("start", (run_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.calls.append(("params", dict(params)))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.calls.append(("metrics", (step, dict(metrics))))

    def end_run(self, status: str) -> None:
        self.calls.append(("end", status))


@pytest.fixture
def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    return FakeMLflow("mlflow", monkeypatch)


class FakeWandb(FakePackage):
    """The functions of wandb, and of its run, that write."""

    id = "new"

    def init(self, **options: Any) -> FakeWandb:
        self.calls.append(("init", options))
        return self

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self.calls.append(("log", (dict(figures), step)))

    def finish(self, *, exit_code: int) -> None:
        self.calls.append(("finish", exit_code))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    return FakeWandb("wandb", monkeypatch)


def test_tensorboard_shows_every_figure(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_trackers(("tensorboard",), tmp_path, SETTINGS) as trackers:
        trackers.write(1, {"epoch": 1, "train_loss": 2.5, "lr": 0.1, "note": "not a number"})
        trackers.write(2, {"epoch": 2, "train_loss": 1.25, "lr": 0.05})
    with open_trackers(("tensorboard",), tmp_path, SETTINGS) as resumed:
        resumed.write(3, {"epoch": 3, "train_loss": 0.5, "lr": 0.01})
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train_loss", "lr"}
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(1, 2.5), (2, 1.25), (3, 0.5)]
    (text,) = {event.tensor_proto.string_val[0].decode() for event in events.Tensors("settings/text_summary")}
    assert "peak_lr = 0.1" in text


def test_mlflow_continues_the_run_that_was_interrupted(fake_mlflow: FakeMLflow, tmp_path: Path) -> None:
    with pytest.raises(Interrupted), open_trackers(("mlflow",), tmp_path, SETTINGS) as trackers:
        trackers.write(1, {"epoch": 1, "train_loss": 2.5})
        raise Interrupted
    with open_trackers(("mlflow",), tmp_path, SETTINGS) as trackers:
        trackers.write(2, {"epoch": 2, "train_loss": 1.25})
    assert fake_mlflow.calls == [
        ("start", (None, tmp_path.name)),
        ("params", SETTINGS),
        ("metrics", (1, {"train_loss": 2.5})),
        ("end", "KILLED"),
        ("start", ("new", tmp_path.name)),
        ("metrics", (2, {"train_loss": 1.25})),
        ("end", "FINISHED"),
    ]


def test_weights_and_biases_continues_the_run_that_failed(wandb: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_trackers(("wandb",), tmp_path, SETTINGS) as trackers:
        trackers.write(1, {"epoch": 1, "train_loss": 2.5})
        raise ZeroDivisionError
    with open_trackers(("wandb",), tmp_path, SETTINGS) as trackers:
        trackers.write(2, {"epoch": 2, "train_loss": 1.25})
    begun = {"resume": "allow", "name": tmp_path.name, "dir": tmp_path, "config": SETTINGS}
    assert wandb.calls == [
        ("init", {"id": None, **begun}),
        ("log", ({"train_loss": 2.5}, 1)),
        ("finish", 1),
        ("init", {"id": "new", **begun}),
        ("log", ({"train_loss": 1.25}, 2)),
        ("finish", 0),
    ]


def test_training_continues_without_a_tracker_that_fails(
    fake_mlflow: FakeMLflow,
    wandb: FakeWandb,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError(f"no answer from {tmp_path.name}")

    monkeypatch.setattr(fake_mlflow, "log_metrics", refuse)
    with open_trackers(("mlflow", "wandb"), tmp_path, SETTINGS) as trackers:
        trackers.write(1, {"epoch": 1, "train_loss": 2.5})
        trackers.write(2, {"epoch": 2, "train_loss": 1.25})
    assert [name for name, _ in wandb.calls] == ["init", "log", "log", "finish"]
    said = capsys.readouterr().err
    assert said.count("mlflow: ConnectionError: no answer from") == 1
    assert "the training continues without it" in said


@pytest.mark.parametrize(
    ("variables", "installed", "chosen"),
    [
        ({}, ("mlflow", "wandb"), ()),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, ("mlflow", "wandb"), ("mlflow",)),
        ({"WANDB_PROJECT": "cats"}, ("mlflow", "wandb"), ("wandb",)),
        ({"WANDB_PROJECT": "cats", "WANDB_MODE": "disabled"}, ("mlflow", "wandb"), ()),
        ({"MLFLOW_EXPERIMENT_NAME": "cats", "WANDB_API_KEY": "secret"}, ("wandb",), ("wandb",)),
    ],
)
def test_environment_requests_trackers(
    variables: dict[str, str],
    installed: tuple[str, ...],
    chosen: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("models.training.trackers.find_spec", lambda name: name if name in installed else None)
    assert choose_trackers(tensorboard=False) == chosen
    missing = "MLFLOW_EXPERIMENT_NAME is set, but the package 'mlflow' is not installed"
    assert (missing in capsys.readouterr().err) == ("mlflow" not in installed)
    with pytest.raises(TrackerError, match=r"-e '\.\[tensorboard\]'"):
        choose_trackers(tensorboard=True)
