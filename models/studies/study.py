"""The interface of a study, and its results: numbers as JSON, and a figure drawn from the JSON alone."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, PositiveInt

from models.studies import figures, pieces
from models.studies.pieces import Piece
from models.training.device import best_device, compute_dtype

Numbers = dict[str, Any]
"""Values that JSON can represent."""


class StudySettings(BaseModel):
    """Settings of a study. Each study adds its own; `--set NAME=VALUE` changes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: PositiveInt = 3
    """Repetitions, with the seeds 0, 1, ..."""


class Study(Protocol):
    """Interface of a study's module."""

    @property
    def NAME(self) -> str: ...
    @property
    def TITLE(self) -> str:
        """The comparison in one line."""
        ...

    @property
    def NEEDS_DATA(self) -> bool: ...
    @property
    def SETTINGS(self) -> type[StudySettings]: ...
    @property
    def QUICK(self) -> Mapping[str, Any]:
        """Settings with which the study finishes within two minutes."""
        ...

    def split(self, settings: Any, data: Any) -> Sequence[Piece]:
        """The study's work in its best order; `data` is a Path if `NEEDS_DATA`."""
        ...

    def summarise(self, results: Mapping[str, Numbers]) -> Numbers:
        """The numbers of the figure and the page, from those of each piece by name."""
        ...

    def draw(self, numbers: Numbers) -> Figure:
        """The figure, from the result of `summarise`."""
        ...


def run(study: Study, settings: StudySettings, data: Path | None, work: Path, out: Path) -> Numbers:
    """Compute a study, or its remaining pieces, and write `out/NAME.json`, `.png` and `.svg`.

    Args:
        study: a row of `STUDIES`.
        settings: an instance of `study.SETTINGS`.
        data: folder of a data set, if the study needs one.
        work: folder of finished pieces, from which a stopped run continues.
        out: folder of the results.

    Raises:
        Interrupted: SIGINT or SIGTERM stopped a training; its state is saved.
        DataError: the data set is missing or damaged.
    """
    results = pieces.compute(study.split(settings, data), work)
    result: Numbers = {
        "study": study.NAME,
        "title": study.TITLE,
        "settings": settings.model_dump(mode="json"),
        "environment": environment(),
        "numbers": study.summarise(results),
    }
    pieces.write_json(result, out / f"{study.NAME}.json")
    draw(study, out)
    return result


def draw(study: Study, out: Path) -> None:
    """Draw the figure of `out/NAME.json` again, without computing anything."""
    result = json.loads((out / f"{study.NAME}.json").read_text(encoding="utf-8"))
    figures.save(study.draw(result["numbers"]), out / study.NAME)


def environment() -> dict[str, str]:
    """Versions and device that computed the numbers."""
    device = best_device()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores",
        "training_dtype": str(compute_dtype("auto", device)).removeprefix("torch."),
    }
