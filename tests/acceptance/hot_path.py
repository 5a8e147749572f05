"""The cost of the service beside its engine and its decoder, and a comparison with other servers.

    PEERS_BENCH=FOLDER python -m tests.acceptance.hot_path [LINE ...]

`FOLDER` holds the benchmark of other servers (`bench_peers.py`), whose `setup.sh` has set them up in `PEERS`, by
default ~/.cache/serving-peers. Needs the `cpu`, `openvino`, `train` and `dev` extras; the agreement of `fast` in line 2
needs `pip install scikit-image scikit-learn`. Everything is timed: nothing else should run on the machine.

Each round starts and measures one server after the other; every second round has the reverse order.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from service.core.settings import available_cpus
from tests.acceptance import fast_decoding
from tests.acceptance.report import run

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("PEERS", Path.home() / ".cache" / "serving-peers"))
OTHERS = ("naive-1w", "naive-2w", "mosec", "mlserver", "litserve", "pytriton", "torchserve", "bentoml", "ray")
ROUNDS, SECONDS, WARM_UP = 3, 6, 2
MOST_OTHER_LOAD = 8.0
"""Per cent of the machine; what others disturbed more does not count."""
_CPUS = str(available_cpus())
_BUSY = ("--executor", "openvino", "--threads", "1", "--instances", _CPUS, "--single-image-threads", _CPUS)
"""One CPU per batch, so that batches run at the same time; all of them for a single image."""
_CIFAR = ["--size", "32", "--resize", "0", "--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616"]


def line_1() -> tuple[bool, str]:
    """ResNet-50 in float32."""
    alone = _bench("resnet50", "jpeg", "1,32", *_BUSY)
    lone, busy = _row(alone, "jpeg, 1"), _row(alone, "jpeg, 32")
    above = lone["p50"] - lone["floor"]
    rates, medians = _beside_others("resnet50", {"ours": _BUSY}, (1, 32))
    ours = medians["ours"]
    best = min((value, name) for name, value in medians.items() if name != "ours")
    return busy["efficiency"] >= 0.95 and above <= 2.0 and ours < best[0], (
        f"efficiency {busy['efficiency']:.3f} (0.95); one connection {lone['p50']:.1f} ms, {above:+.1f} ms (2) to "
        f"decoding and engine alone; beside others {ours:.1f} ms, best of them {best[1]} {best[0]:.1f} ms; 32 "
        f"connections {_table(rates)}"
    )


def line_2() -> tuple[bool, str]:
    """ResNet-50 on the best engine, with both ways to decode."""
    int8 = (*_BUSY, "--precision", "int8", "--max-batch", "4")
    alone = _bench("resnet50", "jpeg", "32", *int8)
    efficiency = _row(alone, "jpeg, 32")["efficiency"]
    rates, _ = _beside_others("resnet50", {"exact": int8, "fast": (*int8, "--decode", "fast")}, (32,))
    best = max(rate for name, rate in rates.items() if name not in ("exact", "fast"))
    exact, fast = rates["exact"] / best, rates["fast"] / best
    agreement, images = fast_decoding.agreement()
    return efficiency >= 0.93 and exact >= 3.0 and fast >= 3.4 and agreement >= 0.995, (
        f"efficiency {efficiency:.3f} (0.93); exact {exact:.2f} x (3.0), fast {fast:.2f} x (3.4) the best of "
        f"the others; {_table(rates)}; fast and exact agree on {agreement:.2%} (99.5) of {images} photographs"
    )


def line_3() -> tuple[bool, str]:
    """ResNet-20 in float32, small images."""
    photographs = PEERS / "images" / "resnet20"
    alone = _bench("resnet20", "png,many", "1,32", photographs=photographs)
    beyond = 1000 * _row(alone, "png, 32")["beyond_ms"]
    lone, many = _row(alone, "png, 1")["p50"], _row(alone, "many, 4")["efficiency"]
    rates, _ = _beside_others("resnet20", {"ours": (), "ours openvino": ("--executor", "openvino")}, (32,))
    best = max(rate for name, rate in rates.items() if not name.startswith("ours"))
    ratio = max(rate for name, rate in rates.items() if name.startswith("ours")) / best
    return ratio >= 1.3 and beyond <= 200 and lone <= 1.0 and many >= 0.8, (
        f"{ratio:.2f} x (1.3) the best of the others: {_table(rates)}; beyond engine and decoder {beyond:.0f} µs "
        f"(200); one connection {lone:.2f} ms (1.0); requests of 64 images at {many:.2f} (0.8) of the ceiling"
    )


def line_4() -> tuple[bool, str]:
    """Open loop at 30 % of the capacity."""
    ratios = {
        name: _row(_bench(name, "jpeg", "1,32", open_loop=30, photographs=folder), "jpeg, open 30%")
        for name, folder in (("resnet20", None), ("resnet50", PEERS / "images" / "resnet50"))
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
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    named = ("python -m benchmarks serve", "before", "µs", "tests.acceptance.hot_path")
    missing = [word for word in named if word not in text]
    return not missing, f"docs/performance.md: {len(text.splitlines())} lines, missing: {missing or 'nothing'}"


@cache
def _repository() -> Path:
    """A repository with the others' weights."""
    folder = Path(mkdtemp(prefix="hot-path-"))
    labels = folder / "labels.txt"
    labels.write_text("\n".join(map(str, range(10))))
    for name, options in (("resnet50", []), ("resnet20", ["--labels", str(labels), *_CIFAR])):
        checkpoint = folder / f"{name}.safetensors"
        weights = PEERS / "models" / f"{name}.safetensors"
        _export("import", str(weights), "--arch", name, "-o", str(checkpoint), *options)
        _export("build", str(checkpoint), "--repository", str(folder / name), "--name", name, "--int8")
    return folder


def _export(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "export", *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


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
        service = ("--repository", str(_repository() / model), *service)
    photographs = photographs or (PEERS / "images" / "resnet50" if model == "resnet50" else None)
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks", "serve", "--loads", loads, "--connections", connections]
        command += ["--open", str(open_loop), "--starts", str(starts), "--rounds", str(ROUNDS), "--seconds", "4"]
        command += [] if photographs is None else ["--photographs", str(photographs)]
        subprocess.run([*command, "--out", out, "--", *service], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = json.loads((Path(out) / "serve.json").read_text())
    return document


def _row(document: Mapping[str, Any], load: str) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in document["loads"] if row["load"] == load)
    print(f"  {load}: {'disturbed, ' if row['disturbed'] else ''}{row['images_per_second']:.1f}/s", flush=True)
    return row


def _beside_others(
    scenario: str, variants: Mapping[str, Sequence[str]], connections: Sequence[int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Requests per second at 32 connections, and the median latency at one in ms, of each server."""
    bench = _peers_bench()
    installed = {name: bench.tomllib.loads((_folder() / "servers.toml").read_text())[name] for name in OTHERS}
    servers = {name: _ours(scenario, options) for name, options in variants.items()} | installed
    measured: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for turn in range(ROUNDS):
        for name in list(servers)[:: 1 if turn % 2 == 0 else -1]:
            server = bench.Server(name.replace(" ", "-"), servers[name], scenario, bench.free_port(18080))
            try:
                server.wait_ready()
                bench.wrk(server, 8, WARM_UP)
                for count in connections:
                    result = bench.wrk(server, count, SECONDS)
                    print(f"  {name}, {count}: {result['per_s']:.1f}/s, p50 {result['p50']:.2f} ms", flush=True)
                    if result["errors"]:
                        raise RuntimeError(f"{name}: {result['error_detail']}")
                    measured[name, count].append(result)
            finally:
                server.stop()
    rates = {name: _median(measured[name, 32], "per_s") for name in servers if (name, 32) in measured}
    return rates, {name: _median(measured[name, 1], "p50") for name in servers if (name, 1) in measured}


def _ours(scenario: str, options: Sequence[str]) -> dict[str, str]:
    command = [str(Path(sys.executable).with_name("resnet-serve")), "--port", "$PORT", "--log-level", "warning"]
    command += ["--repository", str(_repository() / scenario), *options]
    return {"cmd": f"exec {' '.join(command)}", "path": "/v1/classify", "post": "raw", "ready": "/readyz"}


def _median(results: Sequence[Mapping[str, float]], value: str) -> float:
    """The median of the undisturbed results, or of all if there are none."""
    clean = [result for result in results if result["foreign_pct"] <= MOST_OTHER_LOAD]
    return statistics.median(result[value] for result in clean or results)


def _table(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate:.1f}/s" for name, rate in sorted(rates.items(), key=lambda item: -item[1]))


def _folder() -> Path:
    return Path(os.environ["PEERS_BENCH"])


@cache
def _peers_bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_peers", _folder() / "bench_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5, 6: line_6})
