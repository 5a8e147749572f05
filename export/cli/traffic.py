"""`resnet-export promote` and `rollback`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from models.artifact.rollout import RolloutError, promote, rollback
from models.artifact.traffic import TrafficFileError, TrafficPolicy, change_traffic, read_traffic
from models.console import fail
from models.validation import first_error

_Model = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
_Version = Annotated[int, typer.Argument(help="Number of the version.", metavar="VERSION", min=1)]
_File = Annotated[
    Path, typer.Option("--traffic", help="Traffic file of the service, as of resnet-serve --traffic.", metavar="FILE")
]
_Stable = Annotated[
    int | None,
    typer.Option(help="Version that gets the other requests, if no other version has a weight yet.", min=1),
]
_Repository = Annotated[
    Path | None, typer.Option(help="Repository of the service: its versions are checked before the file changes.")
]


def promote_command(
    model: _Model,
    version: _Version,
    file: _File,
    share: Annotated[float, typer.Option(help="Percent of the requests.", min=0.001, max=100)] = 100.0,
    stable: _Stable = None,
    repository: _Repository = None,
) -> None:
    """Give a version a share of the requests of its model. The other versions share the rest as before."""
    _change(file, model, repository, lambda policy: promote(policy, version, share, stable))


def rollback_command(
    model: _Model,
    version: _Version,
    file: _File,
    stable: _Stable = None,
    repository: _Repository = None,
) -> None:
    """Take all requests from a version. The other versions share them as before."""
    _change(file, model, repository, lambda policy: rollback(policy, version, stable))


def _change(
    file: Path, model: str, repository: Path | None, step: Callable[[TrafficPolicy | None], TrafficPolicy]
) -> None:
    try:
        policy = step(read_traffic(file).get(model))
        if repository is not None:
            _check_versions(repository / model, policy)
        change_traffic(file, model, policy)
    except (RolloutError, TrafficFileError) as error:
        fail(error)
    except ValidationError as error:
        fail(first_error(error))
    for number, weight in policy.weights.items():
        typer.echo(f"{model} version {number}: {weight:g} %")


def _check_versions(folder: Path, policy: TrafficPolicy) -> None:
    for number, weight in policy.weights.items():
        if weight and not (folder / str(number)).is_dir():
            raise RolloutError(f"{folder} has no version {number}")
