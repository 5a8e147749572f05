"""Files of embeddings that `resnet-classify` writes: .npy and .parquet as a stream, and .npz as a whole at the end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.artifact.parity import Float32Array
from models.console import printable
from models.extras import missing
from service.cli.file_list import ImageFile
from service.cli.sinks import Sink
from service.inference.results import ImageResult

_HEADER_BYTES = 128
_GROUP_ROWS = 4096
"""Files per row group of Parquet, which are kept in memory: 32 MB of embeddings of a ResNet-50."""


class EmbeddingFileError(ValueError):
    """Embeddings cannot be written in the form that the name of the file asks for; the message says what to do."""


def open_embedding_file(path: Path) -> Sink:
    """The sink for a file, by its suffix.

    Raises:
        EmbeddingFileError: there is no such form, or its package is not installed.
        OSError: the file cannot be written.
    """
    if path.suffix not in _FORMS:
        raise EmbeddingFileError(f"{path}: the name of a file of embeddings ends in {', '.join(_FORMS)}")
    path.open("ab").close()  # fails now, and not after hours of work, if the path cannot be written
    return _FORMS[path.suffix](path)


class NpzFile:
    """A .npz with `files`, the paths of the images that have an embedding, and `embeddings`, float32 [n, features]."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[str] = []
        self._rows: list[Float32Array] = []

    def write(self, file: ImageFile, result: ImageResult) -> None:
        if result.embedding is not None:
            self._files.append(file.name)
            self._rows.append(np.array(result.embedding, np.float32))

    def finish(self) -> None:
        rows = np.stack(self._rows) if self._rows else np.empty((0, 0), np.float32)
        with self._path.open("wb") as file:  # `savez` adds a suffix to a path with another one
            np.savez(file, files=np.array(self._files, np.str_), embeddings=rows)


class NpyFile:
    """A .npy, float32 [files, features], with a row per file, not a number (NaN) for a file that failed.

    Rows are written at once, behind a header of fixed length, which gets the number of rows at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rows = self._features = 0

    def write(self, file: ImageFile, result: ImageResult) -> None:
        if self._file is None and result.embedding is not None:
            self._begin(len(result.embedding))
        if self._file is not None:
            values = [np.nan] * self._features if result.embedding is None else result.embedding
            self._file.write(np.array(values, "<f4").tobytes())
        self._rows += 1

    def _begin(self, features: int) -> None:
        """Write the header, and the rows of files that failed before the first one that has an embedding."""
        self._features = features
        self._file = self._path.open("wb")
        self._file.write(_npy_header(0, features))
        row = np.full(features, np.nan, "<f4").tobytes()
        for _ in range(self._rows):
            self._file.write(row)

    def finish(self) -> None:
        with self._file or self._path.open("wb") as file:
            file.seek(0)
            file.write(_npy_header(self._rows, self._features))


def _npy_header(rows: int, features: int) -> bytes:
    """The header of version 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (rows, features)}).encode()
    magic = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(magic) - 2
    return magic + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


class ParquetFile:
    """A row per file: file, label and probability of the first class, error, embedding; null where there is none.

    Raises:
        EmbeddingFileError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise EmbeddingFileError(missing(f"{path}: Parquet", "pyarrow", "parquet")) from error
        self._arrow = pyarrow
        self._path = path
        self._writer: Any = None
        self._columns: dict[str, list[Any]] = {name: [] for name in ("file", "label", "probability", "error")}
        self._embeddings: list[Float32Array | None] = []

    def write(self, file: ImageFile, result: ImageResult) -> None:
        best = result.predictions[0] if result.predictions else None
        row = {
            "file": printable(file.name),
            "label": best and best.label,
            "probability": best and best.probability,
            "error": None if result.error is None else str(result.error),
        }
        for name, value in row.items():
            self._columns[name].append(value)
        self._embeddings.append(None if result.embedding is None else np.array(result.embedding, np.float32))
        # The type of a column has the number of features, which is known from the first embedding on.
        if len(self._embeddings) >= _GROUP_ROWS and (self._writer is not None or result.embedding is not None):
            self._write_group()

    def finish(self) -> None:
        if self._embeddings or self._writer is None:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        arrow = self._arrow
        if self._writer is None:
            first = next((row for row in self._embeddings if row is not None), np.empty(1, np.float32))
            text = arrow.string()
            types = {"file": text, "label": text, "probability": arrow.float32(), "error": text}
            self._schema = arrow.schema({**types, "embedding": arrow.list_(arrow.float32(), len(first))})
            self._writer = arrow.parquet.ParquetWriter(self._path, self._schema, use_dictionary=["label"])
        size = self._schema.field("embedding").type.list_size
        rows = [np.zeros(size, np.float32) if row is None else row for row in self._embeddings]
        embeddings = arrow.FixedSizeListArray.from_arrays(
            arrow.array(np.concatenate([np.empty(0, np.float32), *rows])),
            size,
            mask=arrow.array([row is None for row in self._embeddings], arrow.bool_()),
        )
        columns = [arrow.array(values, self._schema.field(name).type) for name, values in self._columns.items()]
        self._writer.write_batch(arrow.record_batch([*columns, embeddings], self._schema))
        self._columns = {name: [] for name in self._columns}
        self._embeddings = []


_FORMS: dict[str, Callable[[Path], Sink]] = {".npy": NpyFile, ".npz": NpzFile, ".parquet": ParquetFile}
