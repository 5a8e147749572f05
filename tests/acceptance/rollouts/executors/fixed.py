"""Takes a fixed time per batch on a device that several versions may share.

`fixed:MS` computes all versions on one device, `fixed:MS-2` versions 1 and 2 on a device each. The file in the variable
FIXED_LOG gets a line per batch: version, start and end in monotonic seconds, number of images. FIXED_FAULT gives
version 2 a fault after 20 batches: `slow` takes six times as long, `error` fails, `lost` loses its device.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import replace
from threading import Lock

from models.imaging.preprocess import UInt8Array
from service.executors.base import DeviceLost, Float32Array, Source
from service.executors.simulated import ARTIFACTS, DEVICE, SimulatedExecutor

__all__ = ["ARTIFACTS", "DEVICE", "EXECUTOR"]

_DEVICES: dict[str, Lock] = defaultdict(Lock)
LOG, FAULT = "FIXED_LOG", "FIXED_FAULT"
HEALTHY_BATCHES = 20
FAULTY_VERSION = 2


class FixedExecutor(SimulatedExecutor):
    """As `simulated`, but a device computes one batch at a time, whichever version it is of."""

    def __init__(self, source: Source) -> None:
        milliseconds, _, devices = source.argument.partition("-")
        super().__init__(replace(source, argument="0"))
        self._version = source.manifest.version
        self._milliseconds = float(milliseconds)
        self.device = f"fixed {(self._version - 1) % int(devices or 1)}"
        self._fault = os.environ.get(FAULT, "") if self._version == FAULTY_VERSION else ""
        self._batches = 0
        self._log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        computed = super().run(gathered, outputs)
        self._batches += 1
        fault = self._fault if self._batches > HEALTHY_BATCHES else ""
        if fault == "lost":
            raise DeviceLost("it fell off the bus")
        if fault == "error":
            raise RuntimeError("no kernel for this")
        with _DEVICES[self.device]:
            started = time.monotonic()
            time.sleep(self._milliseconds / 1000 * (6 if fault == "slow" else 1))
            line = f"{self._version} {started} {time.monotonic()} {len(gathered)}\n"
        os.write(self._log, line.encode())
        return computed


EXECUTOR = FixedExecutor
