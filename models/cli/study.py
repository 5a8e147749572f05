"""The command `resnet-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from models.console import console, fail
from models.data import DataError
from models.studies import STUDIES
from models.studies.study import Study, StudySettings, draw, run
from models.training.signals import Interrupted
from models.training.train import Diverged
from models.validation import first_error


def _list(wanted: bool) -> None:
    if not wanted:
        return
    table = Table("study", "what is compared", "settings and their defaults", show_lines=True)
    for study in STUDIES.values():
        settings = study.SETTINGS().model_dump()
        table.add_row(study.NAME, study.TITLE, ", ".join(f"{key}={value}" for key, value in settings.items()))
    type(console)().print(table)
    raise typer.Exit


def study_command(
    name: Annotated[str, typer.Argument(help="Study; see --list.", metavar="NAME")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, for the studies that train.")] = None,
    quick: Annotated[bool, typer.Option(help="Finish within two minutes; the numbers then show little.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Value of a setting, such as epochs=30; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for NAME.json, NAME.png and NAME.svg.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of finished parts, from which the same command continues.")] = Path(
        "runs/studies/pieces"
    ),
    redraw: Annotated[bool, typer.Option(help="Only draw the figure again, from the JSON in --out.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the studies.", is_eager=True, callback=_list)] = False,
) -> None:
    """Run an experiment on residual networks: numbers as JSON, a figure as PNG and SVG.

    Ctrl-C stops, and the same command continues. Several processes can run it at the same time and share the work.
    """
    if name not in STUDIES:
        fail(f"no study is named {name!r}; there are: {', '.join(STUDIES)}")
    study = STUDIES[name]
    out = out or Path("runs/studies/quick" if quick else "runs/studies")
    if redraw:
        if not (out / f"{name}.json").is_file():
            fail(f"{out / f'{name}.json'}: there is no such file: run the study first")
        draw(study, out)
        return
    if study.NEEDS_DATA and data is None:
        fail(f"{name} needs images: give --data, the folder of a data set")
    try:
        run(study, _settings(study, quick, set_ or []), data, work, out)
    except (Interrupted, KeyboardInterrupt):
        console.print("stopped; the same command continues", highlight=False)
        raise typer.Exit(130) from None
    except (DataError, Diverged) as error:
        fail(error)
    console.print(f"{out / name}.json, .png, .svg", highlight=False, soft_wrap=True, markup=False)


def _settings(study: Study, quick: bool, changes: list[str]) -> StudySettings:
    values = dict(study.QUICK) if quick else {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            fail(f"--set takes NAME=VALUE such as epochs=30, not {change!r}")
        values[key] = value
    try:
        return study.SETTINGS.model_validate(values)
    except ValidationError as error:
        known = ", ".join(study.SETTINGS.model_fields)
        fail(f"--set {first_error(error)}; {study.NAME} has: {known}")
