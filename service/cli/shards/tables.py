"""The files of a shard: a table of predictions, and one of the files that failed, as Parquet, CSV or JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from models.console import printable
from models.extras import missing
from service.cli.embedding_files import EmbeddingFileError
from service.cli.file_list import ImageFile
from service.cli.sinks import json_line
from service.inference.results import ImageResult

_GROUP_ROWS = 8192
"""Rows per row group of Parquet, which are kept in memory."""


class ShardFormat(StrEnum):
    """Format of shards, which is also the suffix of their names."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


_PREDICTION = ("file", "rank", "label", "index", "probability")
"""Columns of predictions: a row per image and class."""
_FAILURE = ("file", "error")
"""Columns of the files that could not be classified."""

_Row = tuple[str | int | float, ...]


class Table(Protocol):
    """A table that is written to a file on this machine."""

    rows: int

    def write(self, file: ImageFile, result: ImageResult) -> None:
        """Add the rows of a file."""

    def close(self) -> None:
        """Write the rest."""


def _rows(file: ImageFile, result: ImageResult) -> list[_Row]:
    name = printable(file.name)
    if result.error is not None:
        return [(name, str(result.error))]
    return [
        (name, rank, prediction.label, prediction.index, prediction.probability)
        for rank, prediction in enumerate(result.predictions, start=1)
    ]


class CsvTable:
    """CSV with a header. Bytes of a file name that are not UTF-8 are written as \\udc80 to \\udcff."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.rows = 0
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(columns)

    def write(self, file: ImageFile, result: ImageResult) -> None:
        rows = _rows(file, result)
        self._writer.writerows(rows)
        self.rows += len(rows)

    def close(self) -> None:
        self._file.close()


class JsonLinesTable:
    """One JSON object per file, as in the responses of the service."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.rows = 0
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, file: ImageFile, result: ImageResult) -> None:
        self._file.write(json_line(file, result))
        self.rows += 1

    def close(self) -> None:
        self._file.close()


class ParquetTable:
    """Parquet, in row groups of `_GROUP_ROWS` rows."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        import pyarrow
        import pyarrow.parquet

        self.rows = 0
        self._arrow = pyarrow
        types = {"rank": pyarrow.int32(), "index": pyarrow.int32(), "probability": pyarrow.float32()}
        self._schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns])
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, use_dictionary=["label"], compression="zstd")
        self._rows: list[_Row] = []

    def write(self, file: ImageFile, result: ImageResult) -> None:
        rows = _rows(file, result)
        self._rows += rows
        self.rows += len(rows)
        if len(self._rows) >= _GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [self._arrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(self._arrow.record_batch(arrays, self._schema))
        self._rows = []


_TABLES: dict[ShardFormat, Callable[[Path, tuple[str, ...]], Table]] = {
    ShardFormat.parquet: ParquetTable,
    ShardFormat.csv: CsvTable,
    ShardFormat.jsonl: JsonLinesTable,
}


def check_format(format_: ShardFormat) -> None:
    """Check that a format can be written.

    Raises:
        EmbeddingFileError: its package is not installed.
    """
    if format_ is ShardFormat.parquet:
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError as error:
            raise EmbeddingFileError(
                f"{missing('Parquet', 'pyarrow', 'parquet')}, or take --format csv or jsonl"
            ) from error


def open_table(format_: ShardFormat, path: Path, *, failures: bool) -> Table:
    """Begin a table.

    Args:
        format_: its format.
        path: its file, which is replaced.
        failures: whether it has the files that failed, instead of predictions.

    Raises:
        OSError: the file cannot be written.
    """
    return _TABLES[format_](path, _FAILURE if failures else _PREDICTION)
