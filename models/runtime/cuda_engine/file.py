"""A CUDA engine as one file.

    bytes 0-7      RNCUDAEN
    bytes 8-11     version of the format, unsigned, little-endian like all numbers
    bytes 12-15    0
    bytes 16-23    bytes of the plan
    bytes 24-31    bytes of the data
    bytes 32-63    SHA-256 of bytes 0-31 and of all bytes from 64
    bytes 64-…     the plan, JSON in UTF-8, padded with zeros to a multiple of 256 bytes
    …              the data: weights and cubins at the places that the plan names; nothing behind them

A reader checks the length, the hash and every reference of the plan before it returns anything.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.runtime.cuda_engine import plan as plans
from models.runtime.cuda_engine.check import BadPlan, check
from models.runtime.cuda_engine.plan import ALIGNMENT, LaunchPlan, Region
from models.validation import first_error

MAGIC = b"RNCUDAEN"

_HEADER = struct.Struct("<8sIIQQ32s")
_HASH_AT = 32


class CudaEngineError(Exception):
    """A file is no usable engine of this version of the format; the message is one line with the reason."""


class CudaEngineOutdated(CudaEngineError):
    """The engine has another version of the format: build it again."""


@dataclass(frozen=True)
class CudaEngine:
    """A plan with the code of its kernels and the weights."""

    plan: LaunchPlan
    data: memoryview
    """The data section; `weights` and `cubin` are parts of it."""

    @property
    def weights(self) -> memoryview:
        """Bytes to copy to the device."""
        return self._part(self.plan.weights)

    def cubin(self, number: int) -> memoryview:
        """Content of a cubin, an ELF file."""
        return self._part(self.plan.cubins[number])

    def _part(self, region: Region) -> memoryview:
        return self.data[region.offset : region.offset + region.bytes]


def pack(plan: LaunchPlan, weights: bytes, cubins: list[bytes]) -> CudaEngine:
    """Join a plan with its weights and cubins, whose places it then names.

    Raises:
        BadPlan: the plan breaks a rule.
    """
    data, regions = bytearray(), []
    for part in (weights, *cubins):
        data.extend(bytes(-len(data) % ALIGNMENT))
        regions.append(Region(offset=len(data), bytes=len(part)))
        data.extend(part)
    placed = plan.model_copy(update={"weights": regions[0], "cubins": tuple(regions[1:])})
    check(placed, len(data))
    return CudaEngine(placed, memoryview(bytes(data)))


def encode(engine: CudaEngine) -> bytes:
    """The content of the file; the same engine gives the same bytes.

    Raises:
        BadPlan: the plan breaks a rule, or a kernel is not compiled.
    """
    check(engine.plan, len(engine.data))
    if any(kernel.binary is None for kernel in engine.plan.kernels):
        raise BadPlan("a kernel is not compiled")
    plan = engine.plan.model_dump_json().encode()
    start = _HEADER.pack(MAGIC, plans.VERSION, 0, len(plan), len(engine.data), bytes(32))[:_HASH_AT]
    body = plan + bytes(-len(plan) % ALIGNMENT) + bytes(engine.data)
    return start + hashlib.sha256(start + body).digest() + body


def decode(content: bytes, name: str = "engine") -> CudaEngine:
    """Read the content of a file.

    Args:
        content: the bytes.
        name: name of the file for messages.

    Raises:
        CudaEngineOutdated: the file has another version of the format.
        CudaEngineError: the file is damaged.
    """
    try:
        return _decode(content)
    except CudaEngineOutdated as error:
        raise CudaEngineOutdated(f"{name}: {error}: build it again") from None
    except ValidationError as error:
        raise CudaEngineError(f"{name}: damaged: {first_error(error)}: build it again") from error
    except (BadPlan, CudaEngineError) as error:
        raise CudaEngineError(f"{name}: damaged: {error}: build it again") from error


def read(path: Path) -> CudaEngine:
    """Read a file.

    Raises:
        CudaEngineError: as for `decode`, or the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CudaEngineError(f"{path.name}: cannot be read: {error.strerror}") from error
    return decode(content, path.name)


def _decode(content: bytes) -> CudaEngine:
    if len(content) < _HEADER.size:
        raise CudaEngineError("the header is incomplete")
    magic, version, zero, plan_bytes, data_bytes, digest = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise CudaEngineError("is no CUDA engine")
    if version != plans.VERSION:
        raise CudaEngineOutdated(f"has version {version} of the format, not {plans.VERSION}")
    data_at = _HEADER.size + plan_bytes + -plan_bytes % ALIGNMENT
    if zero or len(content) != data_at + data_bytes:
        raise CudaEngineError(f"has {len(content)} bytes, not {data_at + data_bytes}")
    hashed = hashlib.sha256(content[:_HASH_AT])
    hashed.update(memoryview(content)[_HEADER.size :])
    if hashed.digest() != digest:
        raise CudaEngineError("its content is not what was built")
    plan = LaunchPlan.model_validate_json(content[_HEADER.size : _HEADER.size + plan_bytes])
    check(plan, data_bytes)
    if any(kernel.binary is None for kernel in plan.kernels):
        raise CudaEngineError("a kernel is not compiled")
    return CudaEngine(plan, memoryview(content)[data_at:])
