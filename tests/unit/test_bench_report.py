"""The report of invented measurements, whose figures are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import system
from benchmarks.serve import report
from benchmarks.serve.ceiling import Rate, together
from benchmarks.serve.client import Outcome
from benchmarks.serve.loads import Load
from benchmarks.serve.report import LoadRow
from benchmarks.serve.rounds import BenchmarkRun, LoadResult, Round, images_per_second
from benchmarks.system import Memory
from service.cli.tune_timing import CpuUsage

SINGLE = Load("jpeg", connections=1)
OPEN = Load("jpeg", share=0.3)
MANY = Load("many", connections=1)
TENSOR = Load("tensor", connections=1)
LIMIT = 0.08


def answers(count: int, seconds: float, statuses: tuple[int, ...] = ()) -> Outcome:
    """Answers one after the other, each with 4 ms in the engine."""
    timing = json.dumps({"inference_ms": 4.0, "batch_size": 1}).encode()
    good = [*statuses, *[200] * (count - len(statuses))]
    return Outcome([index * seconds for index in range(count)], [seconds] * count, good, [timing] * count)


def served(outcome: Outcome, cpu: float = 0.0, window: float = 1.0) -> LoadResult:
    metrics = {
        "resnet_batch_size_sum": 20.0,
        "resnet_batch_size_count": 10.0,
        "resnet_stage_seconds_sum decode": 0.3,
        "resnet_stage_seconds_count decode": 100.0,
        "resnet_stage_seconds_sum extras": 0.0,
        "resnet_stage_seconds_count extras": 0.0,
    }
    return LoadResult(
        outcome, window, cpu, {"main": cpu / 2, "python": 0.0}, metrics, Memory(100.0, 80.0), [[0.1, 0.5]]
    )


def measured(loads: dict[Load, LoadResult], engine: float = 300.0, others: float = 0.0) -> Round:
    """A decoder with 200 images per second; together with the engine's 300 the ceiling is 120."""
    return Round(
        {"together 1": (Rate(engine, 0.004, 0.002), 0.0), "together 8": (Rate(engine / 2, 0.1, 0.001), 0.0)},
        {"JPEG": (Rate(200.0, 0.006, 0.003), 0.0)},
        {"JPEG": (0.011, 0.0)},
        {load: (value, others) for load, value in loads.items()},
    )


def only(*rounds: Round) -> LoadRow:
    return report.rows(made_of(*rounds), 2, LIMIT)[-1]


def made_of(*rounds: Round) -> BenchmarkRun:
    return BenchmarkRun(
        "tiny", "1", "simulated", "float32", 8, 1, 1, [1.0], 0.0, Memory(90.0, 70.0), [1, 8], list(rounds)
    )


def test_two_steps_that_share_the_cpus() -> None:
    assert together(300.0, 200.0) == pytest.approx(120.0)


def test_load_and_its_ceiling() -> None:
    outcome = replace(answers(100, 0.01), cpu_seconds=0.005)
    row = only(measured({SINGLE: served(outcome, cpu=0.7)}))
    assert row.images_per_second == pytest.approx(100.0)
    assert row.ceiling == pytest.approx(120.0)
    assert row.efficiency == pytest.approx(100 / 120)
    assert row.p50 == row.p99 == pytest.approx(10.0)
    assert row.floor == pytest.approx(11.0)
    assert row.cpu_ms == pytest.approx(7.0)
    assert row.beyond_ms == pytest.approx(7.0 - 2.0 - 3.0)
    assert row.client_ms == pytest.approx(0.05)
    assert row.thread_ms == {"main": pytest.approx(3.5)}
    assert row.stage_ms == {"decode": pytest.approx(3.0)}
    assert (row.batch, row.rss, row.pss) == (2.0, 100.0, 80.0)
    assert not row.disturbed


def test_tensor_needs_no_decoder() -> None:
    row = only(measured({TENSOR: served(answers(100, 0.01))}))
    assert row.ceiling == pytest.approx(300.0)
    assert row.floor == pytest.approx(4.0)


def test_ratios_are_those_of_each_round() -> None:
    fast, slow = answers(100, 0.01), answers(50, 0.02)
    row = only(
        measured({TENSOR: served(fast)}, engine=200.0),  # 0.5
        measured({TENSOR: served(slow)}, engine=50.0),  # 1.0
        measured({TENSOR: served(slow)}, engine=100.0),  # 0.5
    )
    assert row.efficiency == pytest.approx(0.5)
    assert row.images_per_second == pytest.approx(50.0)


def test_answer_counts_by_its_share_of_the_window() -> None:
    outcome = Outcome([0.0, 0.5, 0.8, 1.2], [0.5, 1.0, 0.1, 0.1], [200, 200, 503, 200])
    assert images_per_second(served(outcome), MANY) == pytest.approx(64 * (1 + 0.5))
    assert images_per_second(served(outcome, window=2.0), MANY) == pytest.approx(64 * 3 / 2)


def test_errors_do_not_count_as_throughput() -> None:
    row = only(measured({SINGLE: served(answers(100, 0.01, statuses=(503, 0)))}))
    assert (row.answers, row.errors) == (100, 2)
    assert row.images_per_second == pytest.approx(98.0)


def test_quantile_needs_answers_beyond_it() -> None:
    row = only(measured({SINGLE: served(answers(100, 0.01))}))
    assert row.p99 is not None
    assert row.p999 is None
    assert only(measured({SINGLE: served(answers(9, 0.01))})).p90 is None
    assert only(measured({SINGLE: served(answers(1000, 0.001))})).p999 == pytest.approx(1.0)


def test_no_answer_at_all() -> None:
    row = only(measured({SINGLE: served(answers(3, 0.1, statuses=(500, 500, 500)))}))
    assert (row.images_per_second, row.efficiency, row.p50, row.curve) == (0.0, 0.0, None, [])


def test_disturbed_rounds_do_not_count() -> None:
    quiet = measured({TENSOR: served(answers(100, 0.01))}, others=0.01)
    loud = measured({TENSOR: served(answers(10, 0.1))}, others=0.2)
    row = only(quiet, loud, loud)
    assert row.images_per_second == pytest.approx(100.0)
    assert (row.rounds, row.disturbed) == (1, False)
    assert row.other_load == 0.01
    row = only(loud, loud)
    assert row.images_per_second == pytest.approx(10.0)
    assert (row.rounds, row.disturbed) == (2, True)
    assert row.other_load == 0.2


def test_disturbed_ceiling_disturbs_its_loads() -> None:
    disturbed = measured({SINGLE: served(answers(100, 0.01))})
    disturbed.decode["JPEG"] = (disturbed.decode["JPEG"][0], 0.5)
    assert only(disturbed).disturbed
    assert not only(replace(disturbed, served={TENSOR: (served(answers(9, 0.1)), 0.0)})).disturbed


def test_open_loop_is_compared_with_its_simulated_queue() -> None:
    """Requests that meet no other take 10 ms, 4 of them in the engine; far apart, they do so in the queue as well."""
    alone, met = answers(50, 0.01), answers(50, 0.015)
    alone.started = [1.0 + second for second in range(50)]
    met.started = [0.5 + second // 2 for second in range(50)]  # in pairs
    alone.extend(met)
    arrivals = [[0.1 * index for index in range(50)], [0.05 + n for n in range(50)]]
    row = only(measured({OPEN: replace(served(alone), arrivals=arrivals)}))
    assert row.simulated_p99 == pytest.approx(10.0)
    assert row.p99 == pytest.approx(15.0)
    assert row.tail_ratio == pytest.approx(1.5)
    assert (row.ceiling, row.efficiency) == (None, None)


def test_open_loop_without_single_requests_has_no_queue() -> None:
    together = answers(100, 0.015)
    together.started = [0.0] * 100
    row = only(measured({OPEN: served(together)}))
    assert (row.simulated_p99, row.tail_ratio) == (None, None)


def test_ceilings_are_medians() -> None:
    loads = {TENSOR: served(answers(9, 0.1))}
    run = made_of(*(measured(loads, engine=rate) for rate in (100.0, 300.0, 200.0)))
    rates = {row.name: row.images_per_second for row in report.ceilings(run, LIMIT)}
    assert rates == {"engine together 1": 200.0, "engine together 8": 100.0, "decode JPEG": 200.0}


def test_other_load_is_busy_time_of_other_processes() -> None:
    before, after = CpuUsage(total=10.0, busy=5.0, own=1.0), CpuUsage(total=14.0, busy=8.0, own=3.0)
    assert before.other_load(after) == pytest.approx(0.25)
    assert before.other_load(replace(after, own=9.0)) == 0.0
    assert before.other_load(before) == 0.0


def test_cpu_time_and_memory_of_processes() -> None:
    spins = "import os, subprocess, sys\nwhile os.times().user < 0.2: pass\nprint(flush=True)\nsys.stdin.read()"
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spins!r}])"
    process = subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        tree = system.process_tree(process.pid)
        assert len(tree) == 2
        assert set(tree) < set(system.process_tree(os.getpid()))
        used = system.cpu_seconds(tree)
        assert used >= 0.19
        assert system.cpu_by_thread(tree) == {"main": pytest.approx(used, abs=0.05)}
        memory = system.memory(tree)
        assert 1 < memory.pss <= memory.rss
    finally:
        process.communicate()
    assert system.cpu_seconds(tree) == 0.0
