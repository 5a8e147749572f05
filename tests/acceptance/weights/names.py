"""Each form of name ends in a served answer.

A stand-in for the hub, its CDN and other servers is on loopback; the photographs are crops of the shipped ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import torch

from export.importing.labels import imagenet
from models.artifact import parity
from models.artifact.parity import Float32Array
from tests.acceptance.server import Server, free_port, wait_until
from tests.acceptance.weights.named_networks import (
    Published,
    photographs,
    timm_network,
    torchvision_file,
    transformers_network,
)
from tests.support.hub import StandIn, stand_in

ROOT = Path(__file__).parents[3]
_MAX_ERROR = 1e-3
"""Largest difference of a log-probability, relative to their spread over the photographs."""
_WITH_STAND_IN = """
import json, sys
from typer.testing import CliRunner
from export.importing import published
published.PUBLISHED += (published.PublishedWeights("resnet18", "OF_STAND_IN", sys.argv.pop(1), 232),)
from export.__main__ import app
if sys.argv[1:]:
    app()
for line in sys.stdin:
    done = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""
"""The command, with a row of torchvision's table for the file of the stand-in: its hash is part of the table.

Without arguments, the commands come on standard input: a start takes seconds."""


@dataclass(frozen=True)
class Case:
    """A name, and the network that it leads to."""

    source: str
    model: str
    published: Published


class Runner:
    """Runs `resnet-export import` with an empty cache that belongs to the stand-in."""

    def __init__(self, hub: StandIn, base: Path) -> None:
        self.hub, self.base, self.digits = hub, base, "0" * 8

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", _WITH_STAND_IN, self.digits, "import", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.base / "hub"), "TORCH_HOME": str(self.base / "torch"),
            "XDG_CACHE_HOME": str(self.base / "cache"), "RESNET_EXPORT_TORCHVISION_URL": f"{self.hub.url}/files",
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return {**kept, **own, **more}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment(**environment), capture_output=True, text=True
        )
        self._show(arguments, done)
        return done

    def run_all(self, commands: Sequence[Sequence[str]]) -> list[subprocess.CompletedProcess[str]]:
        """Run one import after the other in one process."""
        lines = "".join(json.dumps(["import", *arguments]) + "\n" for arguments in commands)
        command = self.command()[:-1]
        done = subprocess.run(command, env=self.environment(), input=lines, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        results = [
            subprocess.CompletedProcess(list(arguments), *json.loads(line))
            for arguments, line in zip(commands, done.stdout.splitlines(), strict=True)
        ]
        for arguments, result in zip(commands, results, strict=True):
            self._show(arguments, result)
        return results

    def _show(self, arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        print(f"  import {' '.join(arguments)}\n{done.stdout or done.stderr}".replace("\n", "\n    "), flush=True)

    def left_behind(self) -> list[Path]:
        """Beginnings of files."""
        return [path for path in self.base.rglob("*") if "partial" in path.name or path.name.endswith(".incomplete")]


def check() -> tuple[bool, str]:
    """Import by each form of name, break, abort, lie and go offline; then serve all, and compare the answers."""
    wrong: list[str] = []
    with TemporaryDirectory() as folder:
        base = Path(folder)
        with stand_in() as hub:
            runner = Runner(hub, base)
            cases = _publish(hub, runner, base)
            wrong += _aborted(runner)
            hub.faults.breaks = {"model.safetensors": [9_000_000, 12_000_000], "plain.pth": [20_000_000]}
            repository = base / "repository"
            for case in cases[:-1]:
                done = runner.run(case.source, "--repository", str(repository), "--name", case.model)
                wrong += [] if done.returncode == 0 else [f"{case.source} is not imported"]
            wrong += _requests(hub)
            wrong += _refused(runner)
            hub.requests.clear()
            again = runner.run_all([(case.source, "-o", str(base / "again.safetensors")) for case in cases[:-1]])
            wrong += [f"not imported again: {done.args}" for done in again if done.returncode]
            wrong += [f"fetched twice: {seen.path}" for seen in hub.requests if seen.method == "GET"]
        wrong += _offline(runner, cases[:-1])
        wrong += [f"{path} is left behind" for path in runner.left_behind()]
        worst = 0.0
        with _served(runner, cases[-1], repository) as server:
            for case in cases:
                error, problems = _compare(server, case)
                worst = max(worst, error)
                wrong += problems
            before = len(runner.hub.requests)
        wrong += [] if before == len(runner.hub.requests) else ["the service fetched something"]
    return not wrong, (
        f"{len(cases)} names, {len(photographs())} photographs each, over HTTP: log-probabilities within {worst:.1e} "
        f"of their spread ({_MAX_ERROR:.0e}); wrong: {wrong or 'none'}"
    )


def _publish(hub: StandIn, runner: Runner, base: Path) -> list[Case]:
    """Put the networks on the stand-in; the last case is a local folder."""
    small = timm_network(18, "a1_in1k", 1000, 0.95, pickled=False)
    large = timm_network(50, "own", 20, 0.875, pickled=True)
    parts = transformers_network(True, depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512])
    first = transformers_network(False, downsample_in_bottleneck=True)
    file = torchvision_file(232)
    hub.add("timm/resnet18.a1_in1k", small.files)
    hub.add("owner/resnet50.own", {"config.json": b"{}"})
    hub.add("owner/resnet50.own", large.files, "v2")
    hub.add("microsoft/resnet-18", parts.files)
    content = file.files["resnet18.pth"]
    runner.digits = hashlib.sha256(content).hexdigest()[:8]
    hub.files |= {f"resnet18-{runner.digits}.pth": content, "plain.pth": content}
    (base / "folder").mkdir()
    for name, data in first.files.items():
        (base / "folder" / name).write_bytes(data)
    plain = torchvision_file(256)
    hub.files["plain.pth"] = plain.files["resnet18.pth"]
    digest = hashlib.sha256(plain.files["resnet18.pth"]).hexdigest()
    return [
        Case("hf-hub:timm/resnet18.a1_in1k", "timm", small),
        Case("hf-hub:owner/resnet50.own@v2", "pickles", large),
        Case("hf-hub:microsoft/resnet-18", "parts", parts),
        Case("torchvision:resnet18", "torchvision", file),
        Case(f"url:{hub.url}/files/plain.pth#sha256={digest}", "url", plain),
        Case(str(base / "folder"), "folder", first),
    ]


def _aborted(runner: Runner) -> list[str]:
    """Abort an import in the middle of a file in several ways; the next one begins the file again."""
    wrong, hub = [], runner.hub
    target = str(runner.base / "aborted.safetensors")
    # A shell ignores SIGINT for the jobs that it starts in the background, and their processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        hub.faults.stalls = {"model.safetensors": 5_000_000}
        hub.stalled.clear()
        process = subprocess.Popen(
            runner.command("hf-hub:timm/resnet18.a1_in1k", "-o", target),
            env=runner.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not hub.stalled.wait(120):
            wrong.append("the import that is to be aborted did not begin")
        process.send_signal(number)
        process.wait(60)
        if number is not signal.SIGKILL and runner.left_behind():
            wrong.append(f"{signal.Signals(number).name} leaves {runner.left_behind()}")
    if len(runner.left_behind()) > 1:
        wrong.append(f"killed imports pile up: {runner.left_behind()}")
    before = [seen.path for seen in hub.fetched("config.json")]
    wrong += [] if len(before) == 1 else [f"config.json is fetched {len(before)} times"]
    wrong += [] if {seen.range for seen in hub.fetched("model.safetensors")} == {None} else ["no new beginning"]
    hub.requests.clear()
    return wrong


def _requests(hub: StandIn) -> list[str]:
    """Broken connections continue with `Range`, and what came complete before an abort is not fetched again."""
    wrong = [seen.path for seen in hub.fetched("config.json") if "/timm/" in seen.path]
    for file, requests in (("model.safetensors", 3), ("plain.pth", 2)):
        begins = [int(seen.range[6:-1]) if seen.range else 0 for seen in hub.fetched(file)]
        print(f"  {file} is fetched from {begins}", flush=True)
        if len(begins) != requests or begins[0] or begins != sorted(set(begins)):
            wrong.append(f"{file} is fetched from {begins}")
    return wrong


def _refused(runner: Runner) -> list[str]:
    """Names that lead nowhere, and servers that refuse or lie: one line each, and nothing stays."""
    hub, base = runner.hub, runner.base
    small = hub.trees["timm/resnet18.a1_in1k", hub.commits["timm/resnet18.a1_in1k", "main"]]
    for model in ("owner/lies", "owner/gated", "owner/private"):
        hub.add(model, small | {"README.md": model.encode(), "model.safetensors": model.encode() * 1000})
    hub.gated.add("owner/gated")
    hub.private.add("owner/private")
    hub.faults.content["model.safetensors"] = b"something else".ljust(len("owner/lies") * 1000)
    hub.files["lies.pth"] = b"something else"
    cases = (
        ("hf-hub:owner/lies", "another hash"),
        ("hf-hub:owner/gated", "it is gated"),
        ("hf-hub:owner/private", "no such model, or it is private"),
        ("hf-hub:owner/none", "no such model"),
        ("hf-hub:timm/resnet18.a1_in1k@none", "no revision 'none'"),
        (f"url:{hub.url}/files/lies.pth#sha256={'0' * 64}", "but 0000"),
        (f"url:{hub.url}/files/none.pth#sha256={'0' * 64}", "answers 404"),
        (f"url:{hub.url}/files/lies.pth", "needs the hash"),
        ("torchvision:resnet19", "there are: resnet18"),
    )
    wrong = []
    results = runner.run_all([(source, "-o", str(base / "refused.safetensors")) for source, _ in cases])
    for (source, reason), done in zip(cases, results, strict=True):
        lines = done.stderr.strip().splitlines()
        if done.returncode != 2 or len(lines) != 1 or reason not in lines[0]:
            wrong.append(f"{source}: {done.stderr!r}")
    hub.faults.content.clear()
    if runner.left_behind() or any("lies" in path.name and path.is_file() for path in base.rglob("*")):
        wrong.append("something stays of what was refused")
    return wrong


def _offline(runner: Runner, cases: Sequence[Case]) -> list[str]:
    """With the network gone, every name works again, and another one is refused."""
    target = str(runner.base / "offline.safetensors")
    wrong = [
        f"needs the network again: {done.args}"
        for done in runner.run_all([(case.source, "-o", target) for case in cases])
        if done.returncode
    ]
    done = runner.run(cases[0].source, "-o", target, HF_HUB_OFFLINE="1")
    wrong += [] if done.returncode == 0 else ["HF_HUB_OFFLINE is not followed"]
    done = runner.run("hf-hub:owner/new", "-o", target, HF_HUB_OFFLINE="1")
    return wrong + ([] if "HF_HUB_OFFLINE is set" in done.stderr else [f"offline: {done.stderr!r}"])


@contextmanager
def _served(runner: Runner, case: Case, repository: Path) -> Iterator[Server]:
    """The service that `import --serve` becomes, with all models that were imported before."""
    port = free_port()
    arguments = (case.source, "--repository", str(repository), "--name", case.model, "--serve", "--port", str(port))
    process = subprocess.Popen(runner.command(*arguments), env=runner.environment(), stdout=subprocess.DEVNULL)
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(server, seconds=600)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _compare(server: Server, case: Case) -> tuple[float, list[str]]:
    """The error of the served log-probabilities, and what is wrong with them."""
    expected = torch.from_numpy(case.published.logits).log_softmax(1).numpy()
    labels = case.published.labels or imagenet()
    served, wrong = np.empty_like(expected), []
    for row, photograph in zip(served, photographs(), strict=True):
        answer = httpx.post(
            f"{server.url}/v1/models/{case.model}/classify?top_k={expected.shape[1]}",
            content=photograph,
            headers={"Content-Type": "image/png"},
            timeout=60,
        )
        for item in answer.raise_for_status().json()["results"][0]["predictions"]:
            row[item["index"]] = item["probability"]
            if item["label"] != labels[item["index"]]:
                wrong.append(f"{case.model}: class {item['index']} is {item['label']}")
    found: Float32Array = np.log(served)
    agreement = parity.compare(found, expected)
    print(f"  {case.model}: {agreement}, {len(set(expected.argmax(1).tolist()))} different classes", flush=True)
    if agreement.logit_error > _MAX_ERROR or agreement.top1_agreement < 1:
        wrong.append(f"{case.source}: {agreement}")
    return agreement.logit_error, wrong[:3]
