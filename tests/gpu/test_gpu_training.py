"""Training on a GPU: its measurement, run to the end on the CPU, and the step of training on a real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.steps import PHOTOGRAPHS
from benchmarks.gpu.training import AIMS, CASES, Case, measure_training
from tests.support.training_step import RECIPES, prepared

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has no CUDA, or this machine has no GPU")


def test_measurement_runs_to_its_end(tmp_path: Path) -> None:
    cases = [
        Case("tiny", ("--batch-size", "32"), 64, photographs=False),
        Case("tiny", ("--batch-size", "8", "--size", "32", "--cache"), 20, photographs=True),
        Case("no-such-network", (), 64, photographs=False),
    ]
    report = GpuReport([])
    *_, noise, photographs = measure_training(sorted(PHOTOGRAPHS.glob("*.jpg")), tmp_path, report, cases)
    assert noise.startswith("| tiny | --batch-size 32 | ")
    assert photographs.startswith("| tiny | --batch-size 8 --size 32 --cache | ")
    (missing,) = report.missing
    assert "no-such-network" in missing
    rates = json.loads((tmp_path / "training.json").read_text())
    assert rates.keys() == {"tiny"}
    assert rates["tiny"] > 0


def test_networks_with_aims_are_measured() -> None:
    assert {case.arch for case in CASES} == AIMS.keys()


@needs_cuda
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_does_not_wait(name: str) -> None:
    step, batches = prepared(RECIPES[name], torch.device("cuda"))
    step(batches[0].pin_memory())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batches[1].pin_memory())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("name", RECIPES)
def test_cuda_graphs_learn_the_same(name: str) -> None:
    sums = []
    for compiled in (False, True):
        recipe = replace(RECIPES[name], compute="float32", compile=compiled)
        step, batches = prepared(recipe, torch.device("cuda"))
        for batch in 4 * batches:
            step(batch)
        sums.append(step.state.sums.tolist())
    assert sums[1] == pytest.approx(sums[0], rel=0.02)
