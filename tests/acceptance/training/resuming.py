"""A run that is killed at random and resumed equals one that is not, bit for bit, in one process and in two.

Both runs are those of the command, which torchrun starts for two processes, with averaged weights, mixup, CutMix,
accumulation and stochastic depth.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

KILLS = 4
EPOCHS = 6
_KINDS = ("SIGKILL", "SIGTERM")
_START_SHARE = 0.3
"""Share of a run's time before its first step, about."""
OPTIMIZERS = (("--optimizer", "sgd"), ("--optimizer", "adamw", "--lr", "0.002"))
OPTIONS = (
    *("--arch", "tiny", "--epochs", f"{EPOCHS}", "--batch-size", "16", "--validation", "0.2"),
    *("--ema", "0.9", "--clip", "1"),
    *("--mixup", "0.2", "--cutmix", "1", "--accumulate", "2", "--stochastic-depth", "0.2", "--random-crop", "0.35"),
    *("--auto-augment", "trivialaugment", "--colour-jitter", "0.4", "--repeats", "2", "--erasing", "0.3"),
)


def check() -> tuple[bool, str]:
    """A run that is killed and resumed equals one that is not."""
    seed = random.randrange(2**32)
    print(f"seed of the kills: {seed}")
    generator = random.Random(seed)
    differing, missed, kills = list[str](), list[str](), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_images(folder / "data")
        for processes, optimizer in itertools.product((1, 2), OPTIMIZERS):
            name = f"{optimizer[1]}-{processes}"
            whole, broken = folder / f"{name}-whole", folder / f"{name}-broken"
            began = time.monotonic()
            _finish(processes, folder / "data", whole, *optimizer)
            seconds = time.monotonic() - began
            stops = _stop_at_random(processes, folder / "data", broken, optimizer, seconds, generator)
            kills += len(stops)
            missed += [f"{name}: {kind}" for kind in _KINDS if not any(stop.startswith(kind) for stop in stops)]
            _finish(processes, folder / "data", broken, *optimizer, *(("--resume",) if _has_state(broken) else ()))
            different = _differences(whole, broken)
            print(
                f"{optimizer[1]}, processes: {processes}, {seconds:.0f} s; stopped {', '.join(stops)}; "
                f"differing: {', '.join(different) or 'nothing'}"
            )
            differing += different
    return not differing and not missed, (
        f"{len(differing)} tensors and figures differ after {kills} kills of four runs; "
        f"never stopped by: {', '.join(missed) or 'nothing'}"
    )


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / "train" / f"{label}").mkdir(parents=True)
        (folder / "test" / f"{label}").mkdir(parents=True)
        for index in range(110):
            pixels = rng.integers(0, 160, (24, 24, 3), dtype=np.uint8) + np.uint8(40 * label)
            split = "train" if index < 100 else "test"
            Image.fromarray(pixels).save(folder / split / f"{label}" / f"{index}.png")


def _command(processes: int, data: Path, out: Path, *options: str) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    module = [*(torchrun if processes > 1 else ()), "-m", "models", "train"]
    return [sys.executable, *module, "--data", str(data), "--out", str(out), *OPTIONS, *options]


def _finish(processes: int, data: Path, out: Path, *options: str) -> None:
    subprocess.run(_command(processes, data, out, *options), check=True, stderr=subprocess.DEVNULL)


def _stop_at_random(
    processes: int, data: Path, out: Path, optimizer: tuple[str, ...], seconds: float, generator: random.Random
) -> list[str]:
    """Start and kill the run, by SIGKILL and by SIGTERM in turns, and describe where it stopped.

    A wait is a random share of the time that the rest of the run takes; its start counts, too. A run that ends before
    is not counted.
    """
    stops: list[str] = []
    for number in range(KILLS):
        options = (*optimizer, "--resume") if _has_state(out) else optimizer
        command = _command(processes, data, out, *options)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        kind = _KINDS[number % 2]
        left = _START_SHARE + (1 - _START_SHARE) * (1 - _epochs_done(out) / EPOCHS)
        try:
            process.wait(generator.uniform(_START_SHARE, 0.9 * left) * seconds)
        except subprocess.TimeoutExpired:
            _kill_all(out) if kind == "SIGKILL" else process.terminate()
            process.wait()
            stops.append(f"{kind} after {_epochs_done(out)} epochs")
        else:
            break
    return stops


def _epochs_done(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _kill_all(out: Path) -> None:
    """Send SIGKILL to torchrun, which does not pass it on, and to the processes that it started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(out) in (folder / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def _has_state(out: Path) -> bool:
    return (out / "state.safetensors").exists()


def _differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors of checkpoint and state, and of the figures, that are not the same."""
    found = []
    for name in ("model.safetensors", "state.safetensors"):
        expected, other = load_file(first / name), load_file(second / name)
        found += [f"{name}: {key}" for key in expected.keys() ^ other.keys()]
        found += [f"{name}: {key}" for key in expected if key in other and not torch.equal(expected[key], other[key])]
    for expected_line, line in zip(_figures(first), _figures(second), strict=True):
        found += [f"epoch {line['epoch']}: {key}" for key in line if line[key] != expected_line[key]]
    return found


def _figures(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_second", "waiting_for_data")}
        for line in lines
    ]
