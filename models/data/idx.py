"""IDX files (MNIST, Fashion-MNIST, KMNIST, EMNIST), gzipped or not: http://yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import ArrayDataset, DataError, Split, check_labels, read_names
from models.imaging.preprocess import Geometry

DESCRIPTION = "IDX: train-images-idx3-ubyte[.gz] and its three companions"

_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# IDX files have no class names. Fashion-MNIST is recognised by the SHA-256 of its label files.
_FASHION_LABELS = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def matches(folder: Path) -> bool:
    return any(_find(folder, f"{prefix}-images-idx3-ubyte") is not None for prefix in _PREFIX.values())


def has_split(folder: Path, name: str) -> bool:
    """Whether there are images of a split by this name."""
    return any(split == name and _find(folder, f"{prefix}-images-idx3-ubyte") for split, prefix in _PREFIX.items())


def load(folder: Path, split: Split, geometry: Geometry | None) -> ArrayDataset:
    """Images, uint8 [n, H, W, 1]. Class names come from `labels.txt`, one per line, if the folder has this file.

    Raises:
        DataError: a file is missing, damaged, or disagrees with the other one.
    """
    images = _read(folder, f"{_PREFIX[split]}-images-idx3-ubyte", dimensions=3)
    label_bytes = _read(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(label_bytes):
        raise DataError(f"{folder}: {len(images)} {split} images but {len(label_bytes)} labels")
    fashion = hashlib.sha256(label_bytes.tobytes()).hexdigest() in _FASHION_LABELS
    if (names := folder / "labels.txt").is_file():
        classes = read_names(names)
    else:
        classes = _FASHION if fashion else _numbers(folder)
    labels = label_bytes.astype(np.int64)
    check_labels(labels, classes, folder)
    name = "fashion-mnist" if fashion else folder.resolve().name
    return ArrayDataset(name, classes, labels, images[..., np.newaxis], geometry)


def _numbers(folder: Path) -> tuple[str, ...]:
    """A number per class up to the highest label of all splits, so that the splits have the same classes."""
    stems = [f"{prefix}-labels-idx1-ubyte" for prefix in _PREFIX.values()]
    highest = max(int(_read(folder, stem, 1).max(initial=0)) for stem in stems if _find(folder, stem) is not None)
    return tuple(str(index) for index in range(highest + 1))


def _find(folder: Path, stem: str) -> Path | None:
    # Both "train-images-idx3-ubyte" and "train-images.idx3-ubyte" are common.
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _read(folder: Path, stem: str, dimensions: int) -> NDArray[np.uint8]:
    path = _find(folder, stem)
    if path is None:
        raise DataError(f"{folder}: {stem}[.gz] is missing")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    # Two zero bytes, the element type (8: unsigned byte), the number of dimensions.
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path}: is not an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path}: has {len(data)} bytes, its header says {expected}: download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
