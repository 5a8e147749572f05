"""The cost of the service beside its engine and its decoder, and a comparison with other servers.

    PEERS_BENCH=FOLDER python -m tests.acceptance.hot_path [LINE ...]

`tests.acceptance.peers` says what `FOLDER` is. Needs the `cpu`, `openvino`, `train` and `dev` extras; the agreement of
`fast` in line 2 needs `pip install scikit-image scikit-learn`. Everything is timed: nothing else should run on the
machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.core.cpus import available_cpus
from tests.acceptance import fast_decoding, peers
from tests.acceptance.report import run

_CPUS = str(available_cpus())
_BUSY = ("--executor", "openvino", "--threads", "1", "--instances", _CPUS, "--single-image-threads", _CPUS)
"""One CPU per batch, so that batches run at the same time; all of them for a single image."""


def line_1() -> tuple[bool, str]:
    """ResNet-50 in float32."""
    alone = _bench("resnet50", "jpeg", "1,32", *_BUSY)
    lone, busy = _row(alone, "jpeg, 1"), _row(alone, "jpeg, 32")
    above = lone["p50"] - lone["floor"]
    beside = peers.compare("resnet50", {"ours": _BUSY}, (1, 32))
    return busy["efficiency"] >= 0.95 and above <= 2.0 and beside.latency_over_best("ours") < 1, (
        f"efficiency {busy['efficiency']:.3f} (0.95); one connection {lone['p50']:.1f} ms, {above:+.1f} ms (2) to "
        f"decoding and engine alone; beside others {beside}"
    )


def line_2() -> tuple[bool, str]:
    """ResNet-50 on the best engine, with both ways to decode."""
    int8 = (*_BUSY, "--precision", "int8", "--max-batch", "4")
    alone = _bench("resnet50", "jpeg", "32", *int8)
    efficiency = _row(alone, "jpeg, 32")["efficiency"]
    beside = peers.compare("resnet50", {"ours exact": int8, "ours fast": (*int8, "--decode", "fast")}, (32,))
    exact, fast = beside.rate_over_best("ours exact"), beside.rate_over_best("ours fast")
    agreement, images = fast_decoding.agreement()
    return efficiency >= 0.93 and exact >= 3.0 and fast >= 3.4 and agreement >= 0.995, (
        f"efficiency {efficiency:.3f} (0.93); exact {exact:.2f} x (3.0), fast {fast:.2f} x (3.4) the best of "
        f"the others; {beside}; fast and exact agree on {agreement:.2%} (99.5) of {images} photographs"
    )


def line_3() -> tuple[bool, str]:
    """ResNet-20 in float32, small images."""
    photographs = peers.PEERS / "images" / "resnet20"
    alone = _bench("resnet20", "png,many", "1,32", photographs=photographs)
    beyond = 1000 * _row(alone, "png, 32")["beyond_ms"]
    lone, many = _row(alone, "png, 1")["p50"], _row(alone, "many, 4")["efficiency"]
    beside = peers.compare("resnet20", {"ours": (), "ours openvino": ("--executor", "openvino")}, (32,))
    ratio = max(beside.rate_over_best("ours"), beside.rate_over_best("ours openvino"))
    return ratio >= 1.3 and beyond <= 200 and lone <= 1.0 and many >= 0.8, (
        f"{ratio:.2f} x (1.3) the best of the others: {beside}; beyond engine and decoder {beyond:.0f} µs "
        f"(200); one connection {lone:.2f} ms (1.0); requests of 64 images at {many:.2f} (0.8) of the ceiling"
    )


def line_4() -> tuple[bool, str]:
    """Open loop at 30 % of the capacity."""
    ratios = {
        name: _row(_bench(name, "jpeg", "1,32", open_loop=30, photographs=folder), "jpeg, open 30%")
        for name, folder in (("resnet20", None), ("resnet50", peers.PEERS / "images" / "resnet50"))
    }
    return all(row["tail_ratio"] <= 1.15 for row in ratios.values()), "; ".join(
        f"{name}: p99 {row['p99']:.2f} ms, of the simulated queue {row['simulated_p99']:.2f} ms: "
        f"{row['tail_ratio']:.2f} x (1.15)"
        for name, row in ratios.items()
    )


def line_5() -> tuple[bool, str]:
    """The shipped model."""
    service = _bench(None, "jpeg", "1", starts=5)["service"]
    start, memory = statistics.median(service["start_to_ready_seconds"]), service["idle_rss"]
    return start <= 2 and memory <= 250 and service["idle_cpu"] <= 0.005, (
        f"start to ready {start:.2f} s (2), resident {memory:.0f} MiB (250), "
        f"idle {service['idle_cpu']:.2%} (0.5) of a CPU"
    )


def line_6() -> tuple[bool, str]:
    """The documentation of the figures."""
    text = (peers.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    named = ("python -m benchmarks serve", "before", "µs", "tests.acceptance.hot_path")
    missing = [word for word in named if word not in text]
    return not missing, f"docs/performance.md: {len(text.splitlines())} lines, missing: {missing or 'nothing'}"


def _bench(
    model: str | None,
    loads: str,
    connections: str,
    *service: str,
    photographs: Path | None = None,
    open_loop: int = 0,
    starts: int = 1,
) -> dict[str, Any]:
    """The document that `python -m benchmarks serve` writes."""
    if model is not None:
        service = ("--repository", str(peers.repository() / model), *service)
    photographs = photographs or (peers.PEERS / "images" / "resnet50" if model == "resnet50" else None)
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks", "serve", "--loads", loads, "--connections", connections]
        command += ["--open", str(open_loop), "--starts", str(starts), "--rounds", str(peers.ROUNDS), "--seconds", "4"]
        command += [] if photographs is None else ["--photographs", str(photographs)]
        subprocess.run([*command, "--out", out, "--", *service], check=True, cwd=peers.ROOT, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = json.loads((Path(out) / "serve.json").read_text())
    return document


def _row(document: Mapping[str, Any], load: str) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in document["loads"] if row["load"] == load)
    print(f"  {load}: {'disturbed, ' if row['disturbed'] else ''}{row['images_per_second']:.1f}/s", flush=True)
    return row


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5, 6: line_6})
