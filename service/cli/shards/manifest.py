"""`manifest.json` of a folder of results: with what they were computed, and which shards are complete.

The manifest is the truth: a shard counts once the manifest lists it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.artifact import manifest
from service.cli.file_list import FileList, ImageFile
from service.core.object_storage import StorageError
from service.messages.model import ServedModel

FILE_NAME = "manifest.json"
_SCHEMA = 1


@dataclass(frozen=True)
class ShardFile:
    """A file of a shard."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """The results of successive files."""

    files: int
    """Number of files that were read, also those that failed."""
    predictions: ShardFile
    errors: ShardFile | None
    """None if no file failed."""
    first: ImageFile
    last: ImageFile
    """The next shard begins behind this file."""


Source = dict[str, Any]
"""The model and the options that all shards of a folder are computed with."""


@dataclass
class ResultManifest:
    """Content of `manifest.json`."""

    source: Source
    shards: list[Shard] = field(default_factory=list)
    complete: bool = False
    """Whether all files have results."""
    unreadable: list[str] = field(default_factory=list)
    """`PATH: REASON` of folders and links that could not be read."""

    @property
    def files(self) -> int:
        """Number of files with results."""
        return sum(shard.files for shard in self.shards)

    @property
    def failed(self) -> int:
        """Number of files that could not be classified."""
        return sum(shard.errors.rows for shard in self.shards if shard.errors is not None)

    def to_json(self) -> bytes:
        """The content of the file. Bytes of a file name that are not UTF-8 are written as \\udc80 to \\udcff."""
        shards = [
            {**asdict(shard), "first": shard.first._asdict(), "last": shard.last._asdict()} for shard in self.shards
        ]
        totals = {"complete": self.complete, "files": self.files, "failed": self.failed, "unreadable": self.unreadable}
        return json.dumps({"schema": _SCHEMA, **self.source, **totals, "shards": shards}, indent=1).encode()


def parse(content: bytes, place: str) -> ResultManifest:
    """Read a manifest.

    Raises:
        StorageError: it is not valid.
    """
    try:
        document = json.loads(content)
        if document.pop("schema") != _SCHEMA:
            raise ValueError("another schema")
        shards = [_parse_shard(each) for each in document.pop("shards")]
        complete, unreadable = document.pop("complete") is True, [str(line) for line in document.pop("unreadable")]
        del document["files"], document["failed"]
        return ResultManifest(document, shards, complete, unreadable)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{place}/{FILE_NAME}: is no manifest of resnet-classify ({error}): give another folder"
        ) from error


def _parse_shard(document: dict[str, Any]) -> Shard:
    errors = document["errors"]
    return Shard(
        files=int(document["files"]),
        predictions=ShardFile(**document["predictions"]),
        errors=None if errors is None else ShardFile(**errors),
        first=ImageFile(**document["first"]),
        last=ImageFile(**document["last"]),
    )


def describe(files: FileList, repository: Path, **options: object) -> Callable[[ServedModel], Source]:
    """A function that describes what results are computed with, once the model is loaded.

    Args:
        files: the files to classify.
        repository: folder of the models.
        options: further options, as JSON has them.
    """

    def source(model: ServedModel) -> Source:
        preprocess = json.dumps(model.preprocess.model_dump(mode="json"), sort_keys=True)
        return {
            "model": model.name,
            "version": model.version,
            "model_sha256": manifest.sha256(repository / model.name / model.version / manifest.FILE_NAME),
            "preprocess_sha256": hashlib.sha256(preprocess.encode()).hexdigest(),
            "executor": model.executor,
            "precision": model.precision,
            "paths": files.arguments,
            "list_sha256": files.list_sha256,
            **options,
        }

    return source


def check_same(old: Source, new: Source, place: str) -> None:
    """Check that earlier shards were computed with the same model and options.

    Raises:
        StorageError: they were not.
    """
    for name, value in new.items():
        if (before := old.get(name)) != value:
            raise StorageError(
                f"{place}: its results have {_NAMES.get(name, name)} {before}, and this run has {value}: give the same "
                "options, or another folder"
            )


_NAMES = {
    "model_sha256": "a model whose manifest.json has the SHA-256",
    "preprocess_sha256": "preprocessing with the SHA-256",
    "list_sha256": "a list of files with the SHA-256",
}
