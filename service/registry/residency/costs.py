"""The memory that a version takes: estimated from its file before the first load, then as it was measured.

Measured with ONNX Runtime on a CPU, with two instances and one for single images:

    network           images      file      resident   further memory while it is loaded
    ResNet-20         32 x 32     1.1 MB    25 MB      1 MB
    ResNet-18         64 x 64     46.8 MB   166 MB     97 MB
    ResNet-18         224 x 224   46.8 MB   276 MB     59 MB
    ResNet-50         224 x 224   102 MB    700 MB     140 MB
    ResNet-50, int8   224 x 224   26 MB     288 MB     49 MB

Each instance takes 1.05 times the file, 3 MB for its buffers and threads, and memory for the layers of the 16 golden
images, about 100 bytes per pixel: between 50 and 250, by network. The measurements of the first loads correct the
estimates of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from service.registry.loader import Footprint
from service.registry.repository import Fingerprint, VersionDir

_MIB = 1 << 20
_FILE_FACTOR = 1.05
_INSTANCE_BYTES = 3 * _MIB
_PIXEL_BYTES = 16 * 100
"""For each pixel of an image, of all golden images together."""
_LOADING_FACTOR = 2.3
_LOADING_BYTES = _MIB
_WEIGHT = 0.3
"""Weight of the last measurement in the average."""
_MIN_RATIO, _MAX_RATIO = 0.25, 4.0
"""Bounds of a measurement, as a part of the estimate: requests in flight change the memory, too."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Memory of a version, in bytes."""

    resident: int
    """While the version is in memory."""
    loading: int
    """Further memory while the version is loaded."""

    @property
    def peak(self) -> int:
        """All of it."""
        return self.resident + self.loading


class Costs:
    """The costs of the versions of a repository.

    Args:
        footprint: gives the file and the instances of a version; used in threads.
    """

    def __init__(self, footprint: Callable[[Path], Footprint]) -> None:
        self._footprint = footprint
        self._measured: dict[Path, tuple[Fingerprint, int]] = {}
        """The content and the memory of versions that were loaded, by folder."""
        self._footprints: dict[Path, tuple[Fingerprint, Footprint]] = {}
        """The content and the footprint of versions whose cost was estimated, by folder."""
        self._ratio = 1.0
        """Memory as it was measured, as a multiple of the estimate."""

    def estimate(self, directory: VersionDir) -> Cost:
        """The cost of a version. Reads its manifest, so call it in a thread.

        Raises:
            LoadError: the version cannot be loaded, or as the loader.
        """
        footprint = self._footprint(directory.folder)
        self._footprints[directory.folder] = directory.fingerprint, footprint
        return self._cost(directory, footprint)

    def known(self, directory: VersionDir) -> Cost | None:
        """The cost of a version without reading anything; None if that content was not estimated before."""
        fingerprint, footprint = self._footprints.get(directory.folder, (None, None))
        if footprint is None or fingerprint != directory.fingerprint:
            return None
        return self._cost(directory, footprint)

    def _cost(self, directory: VersionDir, footprint: Footprint) -> Cost:
        measured = self._measured.get(directory.folder)
        if measured is not None and measured[0] == directory.fingerprint:
            resident = measured[1]
        else:
            resident = round(_resident(footprint) * self._ratio)
        return Cost(resident, round(_LOADING_FACTOR * footprint.file_bytes) + _LOADING_BYTES)

    def resident(self, directories: Iterable[VersionDir]) -> int:
        """Memory of those versions whose costs are known, together, in bytes."""
        return sum(cost.resident for each in directories if (cost := self.known(each)) is not None)

    def keep_only(self, folders: Container[Path]) -> None:
        """Forget the versions in all other folders."""
        self._measured = {folder: value for folder, value in self._measured.items() if folder in folders}
        self._footprints = {folder: value for folder, value in self._footprints.items() if folder in folders}

    def learn(self, directory: VersionDir, estimate: Cost, measured: int) -> None:
        """Correct the costs after a load.

        Args:
            directory: the version.
            estimate: its cost before the load.
            measured: by how much the load has raised the memory of the service.
        """
        resident = estimate.resident
        ratio = min(max(measured / resident, _MIN_RATIO), _MAX_RATIO)
        known = directory.folder in self._measured
        learned = round(resident * (1 + _WEIGHT * (ratio - 1))) if known else round(resident * ratio)
        self._measured[directory.folder] = directory.fingerprint, learned
        if not known:
            self._ratio *= 1 + _WEIGHT * (ratio - 1)
            self._ratio = min(max(self._ratio, _MIN_RATIO), _MAX_RATIO)


def peak_of_file(file_bytes: int) -> int:
    """Memory of one instance of a file while it is loaded, in bytes."""
    return round((_FILE_FACTOR + _LOADING_FACTOR) * file_bytes) + _INSTANCE_BYTES + _LOADING_BYTES


def _resident(footprint: Footprint) -> float:
    of_instance = _FILE_FACTOR * footprint.file_bytes + _INSTANCE_BYTES + _PIXEL_BYTES * footprint.pixels
    return footprint.instances * of_instance
