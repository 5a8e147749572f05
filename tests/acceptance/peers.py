"""Other servers with the same weights and images, measured beside this service.

The environment variable `PEERS_BENCH` names the folder of their benchmark (`bench_peers.py`), whose `setup.sh` has set
them up in `PEERS`, by default ~/.cache/serving-peers. `PEERS_ONLY=mosec,ray-ha` measures some of them only.

Each round starts and measures one server after the other; every second round has the reverse order.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("PEERS", Path.home() / ".cache" / "serving-peers"))
_ALL = "naive-1w,naive-2w,mosec,mlserver,litserve,pytriton,torchserve,bentoml,ray"
ROUNDS, SECONDS, WARM_UP = 3, 6, 2
MOST_OTHER_LOAD = 8.0
"""Per cent of the machine; what others disturbed more does not count."""
_CIFAR = ["--size", "32", "--resize", "0", "--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616"]


@dataclass(frozen=True)
class Comparison:
    """Medians over the rounds, by name of the server."""

    rates: dict[str, float]
    """Requests per second over 32 connections."""
    latencies: dict[str, float]
    """Median latency of one connection in ms."""

    def rate_over_best(self, ours: str) -> float:
        """The rate of one of our configurations, relative to the best of the other servers."""
        return self.rates[ours] / max(rate for name, rate in self.rates.items() if not name.startswith("ours"))

    def latency_over_best(self, ours: str) -> float:
        """The latency of one of our configurations, relative to the best of the other servers."""
        return self.latencies[ours] / min(ms for name, ms in self.latencies.items() if not name.startswith("ours"))

    def __str__(self) -> str:
        parts = []
        for values, unit, sign in ((self.rates, "/s", -1), (self.latencies, " ms", 1)):
            row = sorted(values.items(), key=lambda item: sign * item[1])
            parts += [", ".join(f"{name} {value:.1f}{unit}" for name, value in row)] if row else []
        return "; ".join(parts)


@cache
def repository() -> Path:
    """A folder with one repository a network, of the others' weights."""
    folder = Path(mkdtemp(prefix="peers-"))
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


def compare(
    scenario: str,
    ours: Mapping[str, Sequence[str]],
    connections: Sequence[int],
    replaced: Mapping[str, str] | None = None,
) -> Comparison:
    """Measure this service and the other servers in turn.

    Args:
        scenario: "resnet50" or "resnet20".
        ours: options of the service by name of the configuration, which begins with "ours".
        connections: numbers of connections, 1 or 32.
        replaced: other servers to measure in the place of some.
    """
    bench = _benchmark()
    tables = bench.tomllib.loads((_folder() / "servers.toml").read_text())
    others = os.environ.get("PEERS_ONLY", _ALL).split(",")
    servers = {name: _our_server(scenario, options) for name, options in ours.items()}
    servers |= {name: tables[name] for name in ((replaced or {}).get(name, name) for name in others)}
    measured: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for turn in range(ROUNDS):
        for name in list(servers)[:: 1 if turn % 2 == 0 else -1]:
            server = bench.Server(name.replace(" ", "-"), servers[name], scenario, bench.free_port(18080))
            try:
                server.wait_ready()
                bench.wrk(server, 8, WARM_UP)
                for count in connections:
                    result = bench.wrk(server, count, SECONDS)
                    load = result["foreign_pct"]
                    print(
                        f"  {name}, {count}: {result['per_s']:.1f}/s, p50 {result['p50']:.2f} ms"
                        f"{f', disturbed ({load:.0f} %)' if load > MOST_OTHER_LOAD else ''}",
                        flush=True,
                    )
                    if result["errors"]:
                        raise RuntimeError(f"{name}: {result['error_detail']}")
                    measured[name, count].append(result)
            finally:
                server.stop()
    rates = {name: _median(measured[name, 32], "per_s") for name in servers if (name, 32) in measured}
    return Comparison(rates, {name: _median(measured[name, 1], "p50") for name in servers if (name, 1) in measured})


def _our_server(scenario: str, options: Sequence[str]) -> dict[str, str]:
    command = [str(Path(sys.executable).with_name("resnet-serve")), "--port", "$PORT", "--log-level", "warning"]
    command += ["--repository", str(repository() / scenario), *options]
    return {"cmd": f"exec {' '.join(command)}", "path": "/v1/classify", "post": "raw", "ready": "/readyz"}


def _median(results: Sequence[Mapping[str, float]], value: str) -> float:
    """The median of the undisturbed results, or of all if there are none."""
    clean = [result for result in results if result["foreign_pct"] <= MOST_OTHER_LOAD]
    return statistics.median(result[value] for result in clean or results)


def _folder() -> Path:
    return Path(os.environ["PEERS_BENCH"])


@cache
def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("bench_peers", _folder() / "bench_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
