"""The rule for the instances of a model: how many, with how many threads, and with which largest batch.

The plan depends on the kind of device, the number of CPUs and the multiply-adds of the network, and on the settings. It
never depends on measured time, so two replicas on equal machines serve alike. `resnet-serve tune` measures instead.

    device      network                    instances         threads   single image   largest batch
    cpu         up to 100 M multiply-adds  CPUs, at most 8   1         CPUs, max. 8   8
    cpu         larger                     2                 CPUs / 2  CPUs           1 to 8, up to 20 G multiply-adds
    gpu         any                        1 per GPU         (unused)  0              largest bucket, at most 128
    simulated   any                        1                 (unused)  0              32
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from service.executors import DeviceKind
from service.executors.base import Executor

SMALL_NETWORK = 100_000_000
"""Multiply-adds per image up to which a network is small. An image then takes about a millisecond on one CPU: several
threads that compute it together wait for each other longer than they compute, so each thread computes its own batch."""

_LARGE_INSTANCES = 2
"""Instances of a larger network on CPUs: while one waits for its next batch, or for the slowest of its threads, the
other computes. On two CPUs a ResNet-50 gains 5 % at 32 connections, and 11 % at one (docs/performance.md)."""

MAX_INSTANCES = 8
"""Most instances on CPUs, and most threads for a single image: one event loop has no work for more."""

_SMALL_NETWORK_BATCH = 8
"""A batch costs the service about 0.15 ms besides inference; with eight images this is small for a small network."""
_BATCH_WORK = 20_000_000_000
"""Multiply-adds per batch of a larger network, about 120 ms on two CPUs. Four images of a ResNet-50 in a batch take 4 %
less time per image than two; eight take 1 % less than four, and twice as long."""
_GPU_BATCH = 128
_SIMULATED_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlan:
    """The instances of a model on one machine."""

    instances: int
    """Instances per device."""
    threads: int
    """Threads of each instance."""
    single_image_threads: int
    """Threads of one more instance for a single image while no other request is in flight; 0 for none."""
    max_batch: int
    """Most images per batch."""


def plan_instances(
    device: DeviceKind,
    cpus: int,
    multiply_adds: int,
    *,
    instances: int | None = None,
    threads: int | None = None,
    single_image_threads: int | None = None,
    max_batch: int | None = None,
) -> InstancePlan:
    """Plan the instances of a model. A value that is set is used; the rule gives the others.

    Args:
        device: kind of device that the executor computes on.
        cpus: CPUs that this process may use.
        multiply_adds: multiply-adds of the network per image.
        instances: instances per device, if set.
        threads: threads of each instance, if set.
        single_image_threads: threads of the single-image instance, if set; 0 for none.
        max_batch: most images per batch, if set.
    """
    on_cpus = device == "cpu"
    small = on_cpus and multiply_adds <= SMALL_NETWORK
    if threads is None:
        share = instances or (_LARGE_INSTANCES if on_cpus else 1)
        threads = 1 if small and instances != 1 else max(1, cpus // share)
    if instances is None:
        instances = max(1, min(cpus // threads, MAX_INSTANCES)) if on_cpus else 1
    if single_image_threads is None:
        single_image_threads = min(cpus, MAX_INSTANCES) if small else cpus
        if not on_cpus or instances == 1 or single_image_threads <= threads:
            single_image_threads = 0
    return InstancePlan(
        instances=instances,
        threads=threads,
        single_image_threads=single_image_threads,
        max_batch=max_batch or _max_batch(device, multiply_adds),
    )


def _max_batch(device: DeviceKind, multiply_adds: int) -> int:
    if device == "gpu":
        return _GPU_BATCH
    if device == "simulated":
        return _SIMULATED_BATCH
    images = min(_SMALL_NETWORK_BATCH, _BATCH_WORK // multiply_adds)
    return 1 << max(0, images.bit_length() - 1)  # the power of two below


def estimate_multiply_adds(weights: int, height: int, width: int) -> int:
    """Estimate the multiply-adds per image of a version whose manifest does not have them, from its size.

    A convolution uses each weight once per position of its output. Networks for images of up to 64 pixels keep the
    resolution in their first stage: a ResNet-20 uses a weight at 1/7 of the pixels on average. Networks for larger
    images reduce it at once: a ResNet-18 or ResNet-50 uses a weight at 1/320 of the pixels.

    Args:
        weights: number of weights: bytes of the float32 file / 4.
        height: height of the input in pixels.
        width: width of the input in pixels.
    """
    pixels = height * width
    positions = pixels / 7 if pixels <= 64 * 64 else pixels / 320
    return max(1, round(weights * positions))


def pinned_cpus(executors: Sequence[Executor], threads: int) -> Sequence[int]:
    """The CPU of each instance if there are as many instances of one thread as CPUs; otherwise none.

    Without pinning the system sometimes runs two instances on one CPU while another CPU is idle, which costs 6 %. Under
    a CPU quota there are more CPUs than instances, and all containers would pick the same ones.
    """
    cpus = sorted(os.sched_getaffinity(0))
    one_per_cpu = len(executors) == len(cpus) > 1 and threads == 1
    return cpus if one_per_cpu and all(each.device == "cpu" for each in executors) else ()
