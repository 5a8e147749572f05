"""The rule for instances, threads and batches."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.instance_group import InstancePlan, estimate_multiply_adds, pinned_cpus, plan_instances
from service.executors import DeviceKind
from tests.support.held_executor import HeldExecutor

RESNET20, RESNET18, RESNET50, RESNET152 = 30_821_248, 1_814_073_344, 4_089_184_256, 11_513_626_624
"""Multiply-adds per image; the first for 28 x 28 pixels, the others for 224 x 224."""


def plan(device: DeviceKind, cpus: int, multiply_adds: int, **values: Any) -> tuple[int, int, int, int]:
    """Instances, threads, threads for a single image, and largest batch."""
    planned = plan_instances(device, cpus, multiply_adds, **values)
    return planned.instances, planned.threads, planned.single_image_threads, planned.max_batch


@pytest.mark.parametrize(
    ("cpus", "multiply_adds", "expected"),
    [
        (2, RESNET20, (2, 1, 2, 8)),
        (1, RESNET20, (1, 1, 0, 8)),
        (4, RESNET20, (4, 1, 4, 8)),
        (64, RESNET20, (8, 1, 8, 8)),
        (2, RESNET18, (2, 1, 2, 8)),
        (1, RESNET50, (1, 1, 0, 4)),
        (2, RESNET50, (2, 1, 2, 4)),
        (3, RESNET50, (3, 1, 3, 4)),
        (16, RESNET50, (2, 8, 16, 4)),
        (64, RESNET50, (2, 32, 64, 4)),
        (2, RESNET152, (2, 1, 2, 1)),
    ],
)
def test_defaults_on_cpus(cpus: int, multiply_adds: int, expected: tuple[int, int, int, int]) -> None:
    assert plan("cpu", cpus, multiply_adds) == expected


@pytest.mark.parametrize(
    ("cpus", "multiply_adds", "values", "expected"),
    [
        (4, RESNET20, {"threads": 2}, (2, 2, 4, 8)),
        (4, RESNET20, {"threads": 3}, (1, 3, 0, 8)),
        (4, RESNET20, {"threads": 6}, (1, 6, 0, 8)),
        (4, RESNET20, {"instances": 3}, (3, 1, 4, 8)),
        (4, RESNET20, {"instances": 1}, (1, 4, 0, 8)),
        (4, RESNET20, {"threads": 1, "instances": 1}, (1, 1, 0, 8)),
        (4, RESNET20, {"single_image_threads": 0}, (4, 1, 0, 8)),
        (4, RESNET20, {"max_batch": 3}, (4, 1, 4, 3)),
        (4, RESNET50, {"threads": 1}, (4, 1, 4, 4)),
        (4, RESNET50, {"instances": 1}, (1, 4, 0, 4)),
        (4, RESNET50, {"instances": 4}, (4, 1, 4, 4)),
        (2, RESNET50, {"instances": 3}, (3, 1, 2, 4)),
        (4, RESNET50, {"threads": 1, "instances": 3, "single_image_threads": 2}, (3, 1, 2, 4)),
    ],
)
def test_values_that_are_set_are_kept(
    cpus: int, multiply_adds: int, values: dict[str, int], expected: tuple[int, int, int, int]
) -> None:
    assert plan("cpu", cpus, multiply_adds, **values) == expected


@pytest.mark.parametrize("multiply_adds", [RESNET20, RESNET50])
def test_other_devices_have_one_instance(multiply_adds: int) -> None:
    assert plan("gpu", 16, multiply_adds) == (1, 16, 0, 128)
    assert plan("simulated", 16, multiply_adds) == (1, 16, 0, 32)


def test_plan_is_a_function_of_its_arguments() -> None:
    assert plan_instances("cpu", 2, RESNET20) == InstancePlan(
        instances=2, threads=1, single_image_threads=2, max_batch=8
    )


@pytest.mark.parametrize(
    ("weights", "size", "multiply_adds"),
    [
        (274_612, 28, RESNET20),
        (11_689_512, 224, RESNET18),
        (25_557_032, 224, RESNET50),
        (60_192_808, 224, RESNET152),
    ],
)
def test_estimate_is_within_a_third(weights: int, size: int, multiply_adds: int) -> None:
    estimate = estimate_multiply_adds(weights, size, size)
    assert multiply_adds / 1.34 <= estimate <= multiply_adds * 1.34


class OnDevice(HeldExecutor):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device


@pytest.mark.parametrize(
    ("allowed", "executors", "threads", "expected"),
    [
        ({2, 5}, [OnDevice("cpu"), OnDevice("cpu")], 1, [2, 5]),
        ({2, 5}, [OnDevice("cpu")], 1, []),
        ({2, 5}, [OnDevice("cpu"), OnDevice("cpu")], 2, []),
        ({2, 5}, [OnDevice("cuda:0"), OnDevice("cuda:1")], 1, []),
        ({1, 2, 5}, [OnDevice("cpu"), OnDevice("cpu")], 1, []),  # a CPU quota of two
        ({5}, [OnDevice("cpu")], 1, []),
    ],
)
def test_instances_are_pinned_if_there_is_one_per_cpu(
    allowed: set[int], executors: list[OnDevice], threads: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: allowed)
    assert list(pinned_cpus(executors, threads)) == expected
