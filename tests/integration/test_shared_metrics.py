"""Metrics and log of several processes, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import Metrics
from tests.support import forked_metrics
from tests.support.service import TIMEOUT

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def run(scenario: str) -> str:
    command = [sys.executable, "-m", "tests.support.forked_metrics", scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    parsed: dict[str, str] = json.loads(run("counts"))
    return parsed


def samples(text: str, types: Iterable[str]) -> Samples:
    """The samples of metrics of these types, without those of the kernel and without measured times."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        if family.type in types and not family.name.startswith(("process_", "resnet_model_load_seconds")):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in found
                found[key] = sample.value
    return found


def expected_counts(*processes: str) -> Samples:
    """The counts that one process renders if it does the work of all."""
    metrics = Metrics()
    metrics.watch_decoder_threads(int, lambda: sum(forked_metrics.REPLACED_THREADS[name] for name in processes))
    for name in processes:
        forked_metrics.work(metrics, forked_metrics.SEEDS[name])
    return samples(asyncio.run(metrics.render()).decode(), ("counter", "histogram"))


def test_counts_are_the_exact_sum_whatever_was_killed(texts: dict[str, str]) -> None:
    all_run = expected_counts("worker-1", "worker-2", "engine")
    assert len(all_run) > 200
    for moment in ("all run", "two were killed", "two have ended"):
        assert samples(texts[moment], ("counter", "histogram")) == all_run, moment
    replaced = expected_counts("worker-1", "worker-2", "engine", "worker-1 again", "engine again")
    assert samples(texts["replaced"], ("counter", "histogram")) == replaced
    for text in texts.values():
        assert re.search(r"^resnet_model_load_seconds_count [1-9]\d{3}\.0$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("moment", "processes", "waiting"),
    [
        ("all run", {"worker-1", "worker-2", "engine"}, {"tiny": 5, "gone": 5}),
        ("two were killed", {"worker-2"}, {"tiny": 2}),
        ("two have ended", {"worker-2"}, {"tiny": 2}),
        ("replaced", {"worker-1", "worker-2", "engine"}, {"tiny": 5}),
    ],
)
def test_gauges_are_the_sum_over_processes_that_run(
    moment: str, processes: set[str], waiting: dict[str, int], texts: dict[str, str]
) -> None:
    found = samples(texts[moment], ("gauge",))
    names = {name for name, _ in found}
    queues = {dict(labels)["model"]: value for (name, labels), value in found.items() if name == "resnet_queue_images"}
    assert queues == waiting
    assert found["resnet_requests_in_flight", frozenset()] == 10 * len(processes)
    assert found["resnet_decoder_threads_held", frozenset()] == len(processes)
    versions = {dict(labels)["model"]: value for (name, labels), value in found.items() if name == "resnet_model_info"}
    assert versions == dict.fromkeys(waiting, 1)
    assert names == {
        "resnet_queue_images",
        "resnet_requests_in_flight",
        "resnet_decoder_threads_held",
        "resnet_model_info",
    }


@pytest.mark.parametrize(
    ("moment", "processes"),
    [("two were killed", {"worker-2"}), ("replaced", {"worker-1", "worker-2", "engine"})],
)
def test_figures_of_the_kernel_name_the_process(moment: str, processes: set[str], texts: dict[str, str]) -> None:
    families = {family.name: family for family in text_string_to_metric_families(texts[moment])}
    one = {family.name: family for family in text_string_to_metric_families(asyncio.run(Metrics().render()).decode())}
    kernel = {name for name in one if name.startswith("process_")}
    assert len(kernel) == 6
    for name in kernel:
        assert (families[name].type, families[name].documentation) == (one[name].type, one[name].documentation)
        found = {sample.labels["process"]: sample.value for sample in families[name].samples}
        assert found.keys() == processes
        assert all(found.values()) or name == "process_cpu_seconds"  # in units of 10 ms, so it may be 0


def test_families_are_those_of_one_process(texts: dict[str, str]) -> None:
    described = [line for line in asyncio.run(Metrics().render()).decode().splitlines() if line.startswith("#")]
    for text in texts.values():
        assert [line for line in text.splitlines() if line.startswith("#")] == described


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
def test_promtool_accepts_the_sum(texts: dict[str, str]) -> None:
    for text in texts.values():
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_reader_sees_whole_names_while_they_are_added() -> None:
    *during, killed, end = json.loads(run("names"))
    for read in (*during, killed, end):
        assert [label for label, _ in read] == [f"{number}: {'é' * (number % 30)}" for number in range(len(read))]
        # Each series is counted before the next one is added.
        assert all(value == 1 for _, value in read[:-1]) or read is end
    assert len(during[0]) > 100
    assert len(end) == forked_metrics.SERIES
    added = len(killed) - 1
    assert [value for _, value in end[:added]] == [2] * added
    assert end[added][1] in (1, 2)
    assert all(value == 1 for _, value in end[len(killed) :])


def test_lines_of_one_log_are_not_mixed() -> None:
    written = defaultdict[int, list[str]](list)
    for line in run("log").splitlines():
        written[int(line.split()[0])].append(line)
    assert written == {
        writer: [forked_metrics.line(writer, number) for number in range(forked_metrics.LINES)]
        for writer in range(forked_metrics.WRITERS)
    }


def test_one_process_imports_nothing_for_several() -> None:
    code = """
import asyncio, sys
from service.telemetry.metrics import Metrics
asyncio.run(Metrics().render())
print([name for name in sys.modules if name.startswith("service.telemetry.sh")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
