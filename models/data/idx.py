"""IDX files (MNIST, Fashion-MNIST, KMNIST, EMNIST's layout): http://yann.lecun.com/exdb/mnist, gzipped or not."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import ArrayDataset, DataError

DESCRIPTION = "IDX: train-images-idx3-ubyte[.gz] and its three companions"

_PREFIX = {"train": "train", "test": "t10k"}

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# IDX files carry no class names. Those of Fashion-MNIST are known by the content of its label files.
_KNOWN_LABELS = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": ("fashion-mnist", _FASHION),
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": ("fashion-mnist", _FASHION),
}


def matches(folder: Path) -> bool:
    return any(_find(folder, f"{prefix}-images-idx3-ubyte") is not None for prefix in _PREFIX.values())


def load(folder: Path, split: Literal["train", "test"]) -> ArrayDataset:
    """Images uint8 [n, H, W, 1]. Class names come from `labels.txt` (one a line) where the folder has it.

    Raises:
        DataError: a file is missing, damaged, or does not agree with the other.
    """
    images = _read(folder, f"{_PREFIX[split]}-images-idx3-ubyte", dimensions=3)
    labels = _read(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
    name, classes = _KNOWN_LABELS.get(hashlib.sha256(labels.tobytes()).hexdigest(), (folder.resolve().name, None))
    if (names := folder / "labels.txt").is_file():
        classes = tuple(names.read_text(encoding="utf-8").split("\n"))
        classes = tuple(line.strip() for line in classes if line.strip())
    if classes is None:
        classes = tuple(str(index) for index in range(int(labels.max(initial=0)) + 1))
    if labels.max(initial=0) >= len(classes):
        raise DataError(f"{folder}: label {labels.max()} in the {split} split, but only {len(classes)} class names")
    return ArrayDataset(name, classes, labels.astype(np.int64), images[..., np.newaxis])


def _find(folder: Path, stem: str) -> Path | None:
    # Both "train-images-idx3-ubyte" and "train-images.idx3-ubyte" are in circulation.
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
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise DataError(f"{path}: has {len(data)} bytes, its header says {expected}: download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
