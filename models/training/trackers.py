"""The figures of a run for TensorBoard, MLflow and Weights & Biases.

TensorBoard reads files of the run's folder. MLflow and Weights & Biases are used if their own environment variables
are set, which also name the server, the project and the run. The training continues without a tracker that fails:
metrics.jsonl has the figures in any case.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from models.console import print_once
from models.extras import missing
from models.files import atomic_write
from models.training.signals import Interrupted

TENSORBOARD_FOLDER = "tensorboard"
_KEPT_FILE = "trackers.json"
"""The run's name on each server, with which a resumed run continues."""


class TrackerError(ValueError):
    """A requested tracker is not installed."""


class Tracker(Protocol):
    """One run, as a tracker sees it."""

    kept: str | None
    """Name of the run on the server, with which a resumed run continues; None without a server."""

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of an epoch."""

    def close(self, status: str) -> None:
        """Write the rest; `status` is finished, interrupted or failed."""


class _TensorBoard:
    """Event files; `tensorboard --logdir` shows those of several runs beside each other."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], kept: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.kept: str | None = None
        self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER))
        lines = "\n".join(f"    {name} = {value}" for name, value in settings.items())
        self._writer.add_text("settings", lines, 0)

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()


class _MLflow:
    """A run on the server of MLFLOW_TRACKING_URI, in the experiment of MLFLOW_EXPERIMENT_NAME."""

    _STATUS: ClassVar = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def __init__(self, folder: Path, settings: Mapping[str, Any], kept: str | None) -> None:
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=kept or os.environ.get("MLFLOW_RUN_ID"), run_name=folder.name)
        self.kept: str | None = run.info.run_id
        if kept is None:
            mlflow.log_params(dict(settings))

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=epoch)

    def close(self, status: str) -> None:
        self._mlflow.end_run(self._STATUS[status])


class _WeightsAndBiases:
    """A run in the project of WANDB_PROJECT."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], kept: str | None) -> None:
        import wandb

        self._run = wandb.init(
            id=kept or os.environ.get("WANDB_RUN_ID"), resume="allow", name=folder.name, dir=folder, config=settings
        )
        self.kept: str | None = self._run.id

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=epoch)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=int(status != "finished"))


_TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], str | None], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WeightsAndBiases,
}
"""By the name of the package; each takes the folder and the settings of the run, and its `kept` of an earlier start."""

_VARIABLES = {
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"),
    "wandb": ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_MODE"),
}
"""The environment variables of which one is enough to request a tracker."""


def choose_trackers(tensorboard: bool) -> tuple[str, ...]:
    """The trackers that the option and the environment request, if they are installed; prints those that are not.

    Raises:
        TrackerError: the option requests TensorBoard, which is not installed.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise TrackerError(missing("--tensorboard", "tensorboard", "tensorboard"))
    chosen = ["tensorboard"] if tensorboard else []
    for name, variables in _VARIABLES.items():
        variable = next((each for each in variables if os.environ.get(each)), None)
        if variable is None or (name == "wandb" and os.environ.get("WANDB_MODE") == "disabled"):
            continue
        if find_spec(name) is None:
            print_once(f"{variable} is set, but the package {name!r} is not installed: the run is not tracked there")
        else:
            chosen.append(name)
    return tuple(chosen)


class Trackers:
    """The open trackers of a run."""

    def __init__(self, names: tuple[str, ...], folder: Path, settings: Mapping[str, Any]) -> None:
        self._opened: dict[str, Tracker] = {}
        file = folder / _KEPT_FILE
        for name in names:
            with self._left_out_if_it_fails(name):
                kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
                tracker = _TRACKERS[name](folder, settings, kept.get(name))
                self._opened[name] = tracker
                if tracker.kept is not None:
                    atomic_write(file, json.dumps(kept | {name: tracker.kept}).encode())

    def write(self, epoch: int, figures: Mapping[str, Any]) -> None:
        """Write the numbers among the figures of an epoch, counted from one."""
        numbers = {
            name: float(value)
            for name, value in figures.items()
            if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        for name, tracker in list(self._opened.items()):
            with self._left_out_if_it_fails(name):
                tracker.write(epoch, numbers)

    def close(self, status: str) -> None:
        """Write the rest; `status` is finished, interrupted or failed."""
        for name, tracker in list(self._opened.items()):
            with self._left_out_if_it_fails(name):
                tracker.close(status)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: networks, servers and files of others
            self._opened.pop(name, None)
            print_once(f"{name}: {type(error).__name__}: {error}: the training continues without it")


@contextmanager
def open_trackers(names: tuple[str, ...], folder: Path, settings: Mapping[str, Any]) -> Iterator[Trackers]:
    """Open trackers for a run in a folder that exists, and close them at its end.

    Args:
        names: from `choose_trackers`.
        folder: of the run; its name is the name of the run.
        settings: all values that decide the result of the run.
    """
    trackers = Trackers(names, folder, settings)
    status = "failed"
    try:
        yield trackers
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        trackers.close(status)
