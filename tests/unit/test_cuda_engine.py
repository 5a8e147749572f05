"""The file of a CUDA engine: a reader returns the written engine or an error, and nothing else."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.runtime.cuda_engine.check import BadPlan, check, overlaps
from models.runtime.cuda_engine.file import CudaEngineError, CudaEngineOutdated, decode, encode, pack, read
from models.runtime.cuda_engine.plan import Buffer, LaunchPlan
from tests.support.cuda_engines import CUBINS, WEIGHTS, small_engine, small_plan


def rehashed(content: bytes) -> bytes:
    """The content with the hash that belongs to it: damage that a hash does not find."""
    return content[:32] + hashlib.sha256(content[:32] + content[64:]).digest() + content[64:]


def with_plan(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The small engine with a changed plan and a correct hash."""
    content = encode(small_engine())
    (size,) = struct.unpack_from("<Q", content, 16)
    plan = json.loads(content[64 : 64 + size])
    change(plan)
    text = json.dumps(plan).encode()
    data = content[64 + size + -size % 256 :]
    header = content[:16] + struct.pack("<Q", len(text)) + content[24:32]
    return rehashed(header + bytes(32) + text + bytes(-len(text) % 256) + data)


def test_file_has_what_was_written(tmp_path: Path) -> None:
    engine = small_engine()
    path = tmp_path / "some.engine"
    path.write_bytes(encode(engine))
    found = read(path)
    assert found.plan == engine.plan
    assert bytes(found.weights) == WEIGHTS
    assert [bytes(found.cubin(number)) for number in range(2)] == CUBINS
    assert found.plan.batches == (1, 8)


def test_header_is_as_documented() -> None:
    content = encode(small_engine())
    assert content[:16] == b"RNCUDAEN" + struct.pack("<II", 2, 0)
    plan_bytes, data_bytes = struct.unpack_from("<QQ", content, 16)
    assert json.loads(content[64 : 64 + plan_bytes])["architecture"] == "sm_90"
    assert len(content) == 64 + -(-plan_bytes // 256) * 256 + data_bytes
    assert content[32:64] == hashlib.sha256(content[:32] + content[64:]).digest()
    assert content[len(content) - data_bytes :][: len(WEIGHTS)] == WEIGHTS


def test_changed_byte_is_found_at_any_place() -> None:
    content = encode(small_engine())
    choose = random.Random(25)
    for place in [*range(80), *(choose.randrange(len(content)) for _ in range(400))]:
        damaged = bytearray(content)
        damaged[place] ^= choose.randrange(1, 256)
        with pytest.raises(CudaEngineError):
            decode(bytes(damaged))


def test_any_length_but_the_right_one_is_found() -> None:
    content = encode(small_engine())
    for size in [*range(70), *range(70, len(content), 61), len(content) - 1]:
        with pytest.raises(CudaEngineError):
            decode(content[:size])
    with pytest.raises(CudaEngineError):
        decode(content + b"\0")


def test_damage_behind_a_correct_hash_gives_that_error_or_a_plan_that_keeps_the_rules() -> None:
    content = encode(small_engine())
    choose = random.Random(52)
    refused = 0
    for _ in range(600):
        damaged = bytearray(content)
        for _ in range(choose.randrange(1, 4)):
            damaged[choose.randrange(len(damaged))] = choose.choice(b'0123456789-,.\x00\xff"{}[]tfn ')
        try:
            engine = decode(rehashed(bytes(damaged)))
        except CudaEngineError:
            refused += 1
        else:
            check(engine.plan, len(engine.data))
    assert refused > 300


def test_another_version_of_the_format_is_outdated() -> None:
    content = bytearray(encode(small_engine()))
    content[8] = 7
    with pytest.raises(CudaEngineOutdated, match=r"some\.engine: has version 7 of the format, not 2: build it again"):
        decode(bytes(content), "some.engine")


def _launch(plan: dict[str, Any], number: int) -> Any:
    return plan["programs"][0]["launches"][number]


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set a value by a path such as `programs/0/batch`."""

    def change(plan: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = plan
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


FIRST = "programs/0/launches/0"
VALUES = "programs/0/buffers/3"
MAP = "programs/0/tensor_maps/0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("architecture", "sm_9x"), "architecture"),
        (_set("unknown", 1), "unknown"),
        (_set("cubins/1/offset", 2**40), "outside the file"),
        (_set("cubins/1/offset", 8), "not aligned"),
        (_set("weights/bytes", 10**9), "outside the file"),
        (_set("kernels/0/binary/cubin", 2), "no such cubin"),
        (_set("kernels/0/binary/shared_bytes", 300_000), "too much memory"),
        (_set("kernels/0/binary", None), "a kernel is not compiled"),
        (_set("kernels/0/warps", 33), "warps"),
        (_set("programs/1/batch", 1), "do not ascend"),
        (_set("programs", []), "do not ascend"),
        (_set("programs/0/launches", []), "no launch"),
        (_set(f"{FIRST}/kernel", 2), "no such kernel"),
        (_set(f"{FIRST}/layer", 2), "no such layer"),
        (_set(f"{FIRST}/kernel", 1), "is no tensor map|has 6 arguments|is no pointer"),
        (_set(f"{FIRST}/grid", [1, 70_000, 1]), "grid"),
        (_set(f"{FIRST}/grid", [0, 1, 1]), "grid"),
        (_set(f"{FIRST}/only_for", ["logits"]), "Extra inputs are not permitted"),
        (_set(f"{FIRST}/tile_origin", {"origin": "guessed"}), "origin"),
        (_set(f"{FIRST}/arguments/0/buffer", 4), "no such buffer"),
        (_set(f"{FIRST}/arguments/0/bytes", 97), "outside the buffer images"),
        (_set(f"{FIRST}/arguments/0/offset", 1), "outside the buffer images"),
        (_set(f"{FIRST}/arguments/1", {"buffer": 3, "offset": 8, "bytes": 8, "access": "write"}), "is not aligned"),
        (_set(f"{FIRST}/arguments/0/access", "write"), "writes to images"),
        (_set(f"{FIRST}/arguments/2/value", 2**31), "is no int32"),
        (_set(f"{FIRST}/arguments/2/value", 1.5), "is no int32"),
        (_set(f"{FIRST}/arguments/3/value", 1e39), "is no float32"),
        (_set(f"{FIRST}/arguments/4/value", 1), "is no scratch"),
        (_set(f"{FIRST}/arguments/1", {"value": 7}), "is a number"),
        (_set(f"{VALUES}/bytes", 64), "outside the buffer values|of 64"),
        (_set(f"{VALUES}/offset", 512), "outside the arena"),
        (_set(f"{VALUES}/offset", 8), "not aligned"),
        (_set(f"{VALUES}/last", 2), "beyond the last launch"),
        (_set(f"{VALUES}/last", 0), "outside its lifetime"),
        (_set("programs/0/buffers/0/bytes", 95), "has 95 bytes, not 96"),
        (_set("programs/0/buffers/2/name", "probabilities"), "is no output"),
        (_set("programs/0/buffers/0/kind", "activation"), "not the images"),
        (_set("programs/0/launches/1/arguments/4/access", "read"), "output logits is not written"),
        (_set(f"{MAP}/box", [512, 1]), "box is too large"),
        (_set(f"{MAP}/box", [72, 1]), "multiple of 16"),
        (_set(f"{MAP}/box", [128, 1]), "wider than the swizzle"),
        (_set(f"{MAP}/shape", [129, 1]), "129 bytes of 128"),
        (_set(f"{MAP}/strides", [120]), "strides"),
        (_set(f"{MAP}/strides", []), "ranks differ"),
        (_set(f"{MAP}/swizzle", 48), "swizzle"),
        (_set(f"{MAP}/address/access", "update"), "writes"),
    ],
)
def test_plan_that_breaks_a_rule_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(CudaEngineError, match=f"^engine: damaged: .*({message})"):
        decode(with_plan(change))


def test_the_unchanged_plan_is_accepted() -> None:
    assert decode(with_plan(lambda plan: None)).plan == small_engine().plan


@pytest.mark.parametrize(
    ("offset", "first", "last", "zeroed", "shares"),
    [
        (512, 0, 9, False, False),
        (256, 3, 9, False, False),
        (256, 2, 9, False, True),
        (384, 1, 1, False, True),
        (0, 0, 2, False, True),
        (256, 3, 9, True, True),
    ],
    ids=["apart", "later", "at the end", "in the middle", "at the start", "zeros, later"],
)
def test_activations_share_memory_only_at_other_times(
    offset: int, first: int, last: int, zeroed: bool, shares: bool
) -> None:
    one = Buffer(name="one", kind="activation", bytes=256, offset=256, first=0, last=2)
    other = Buffer(name="other", kind="activation", bytes=257, offset=offset, zeroed=zeroed, first=first, last=last)
    assert list(overlaps([one, other])) == ([(one, other)] if shares else [])
    plan = small_plan((1,)).model_dump(mode="json")
    plan["programs"][0].update(arena_bytes=1024)
    plan["programs"][0]["buffers"].append({**plan["programs"][0]["buffers"][3], "name": "more"})
    with pytest.raises(BadPlan, match="buffers values and more share memory"):
        pack(LaunchPlan.model_validate_json(json.dumps(plan)), WEIGHTS, CUBINS)


def test_unreadable_file_is_that_error_too(tmp_path: Path) -> None:
    with pytest.raises(CudaEngineError, match=r"nothing\.engine: cannot be read"):
        read(tmp_path / "nothing.engine")
