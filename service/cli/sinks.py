"""Sinks of `resnet-classify`: tables, CSV, JSON lines and heat maps."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.console import printable
from service.cli.file_list import ImageFile
from service.http.v1.schemas import image_json
from service.inference.results import ImageResult

MAX_ROWS = 10_000
"""Rows of a table, which is kept in memory until it is printed: the width of a column is that of its longest entry."""
_MAX_NAME_BYTES = 255
"""Longest file name of the usual file systems."""


class Sink(Protocol):
    """Takes the results in the order of the files."""

    def write(self, file: ImageFile, result: ImageResult) -> None:
        """Write the result of one file."""

    def finish(self) -> None:
        """Write what is left, after the last file."""


class TableWriter:
    """A table for people; after `MAX_ROWS` rows another one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._table = _empty_table()

    def write(self, file: ImageFile, result: ImageResult) -> None:
        if result.error is not None:
            self._table.add_row(Text(printable(file.name)), Text(str(result.error), style="red"), "")
        for rank, prediction in enumerate(result.predictions):
            name = Text("" if rank else printable(file.name))
            self._table.add_row(name, Text(printable(prediction.label)), f"{prediction.probability:.2%}")
        if self._table.row_count >= MAX_ROWS:
            self._print()
            self._table = _empty_table()

    def finish(self) -> None:
        if self._table.row_count:
            self._print()

    def _print(self) -> None:
        Console(file=self._stream).print(self._table)


def _empty_table() -> Table:
    table = Table("file", "label", "probability")
    table.columns[2].justify = "right"
    return table


class CsvWriter:
    """One row per image and class; an error has the rank 0."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream)
        self._writer.writerow(["file", "rank", "label", "index", "probability", "error"])

    def write(self, file: ImageFile, result: ImageResult) -> None:
        if result.error is not None:
            self._writer.writerow([file.name, 0, "", "", "", str(result.error)])
        for rank, prediction in enumerate(result.predictions, start=1):
            self._writer.writerow([file.name, rank, prediction.label, prediction.index, prediction.probability, ""])

    def finish(self) -> None:
        """Nothing: each row is written at once."""


class JsonLinesWriter:
    """One JSON object per image, as in the responses of the service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, file: ImageFile, result: ImageResult) -> None:
        self._stream.write(json_line(file, result))

    def finish(self) -> None:
        """Nothing: each line is written at once."""


def json_line(file: ImageFile, result: ImageResult) -> str:
    """The line of a file, with its end."""
    return json.dumps({"file": file.name, **image_json(_without_files(result))}, ensure_ascii=False) + "\n"


def _without_files(result: ImageResult) -> ImageResult:
    """A result without the parts that other sinks write."""
    predictions = [replace(prediction, cam_png=None) for prediction in result.predictions]
    image = None if result.image is None else replace(result.image, region=None)
    return replace(result, predictions=predictions, image=image, embedding=None)


class MapFolder:
    """A PNG per image and class, in the same folders as the images: FOLDER/cat.jpg.1-tabby.png.

    Args:
        folder: is made if it does not exist.
        roots: folders that have all images, at any depth; their deepest common folder is left out of the names.
    """

    def __init__(self, folder: Path, roots: Iterable[str]) -> None:
        self._folder = folder
        self._common = Path(
            reduce(lambda common, each: os.path.commonpath((common, each)), map(os.path.abspath, roots))
        )
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, file: ImageFile, result: ImageResult) -> None:
        place = self._folder / Path(file.name).absolute().relative_to(self._common)
        for rank, prediction in enumerate(result.predictions, start=1):
            if prediction.cam_png is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                label = re.sub(r"[^\w.-]+", "-", prediction.label).strip("-")
                place.with_name(_map_name(place.name, rank, label)).write_bytes(prediction.cam_png)

    def finish(self) -> None:
        """Nothing: each file is written at once."""


def _map_name(image: str, rank: int, label: str) -> str:
    """Name of a map: that of the image, the rank and the label, as much of them as a file system takes."""
    label = os.fsdecode(os.fsencode(label)[:80])
    ending = f".{rank}-{label}.png"
    room = _MAX_NAME_BYTES - len(os.fsencode(ending))
    if len(name := os.fsencode(image)) > room:
        name = name[: room - 9] + b"-" + hashlib.sha256(name).hexdigest()[:8].encode()
    return os.fsdecode(name) + ending
