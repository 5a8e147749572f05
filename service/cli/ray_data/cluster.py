"""A Ray cluster: connects to it, and checks its machines."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service import executors
from service.cli.ray_data.compute import describe
from service.cli.ray_data.stages import find_problem
from service.cli.ray_data.workers import ENGINE_CPU
from service.core.errors import ServiceError
from service.messages.model import ServedModel
from service.scoring.settings import ScoringError

_LISTEN_SECONDS = 10.0
_CHECK_SECONDS = 120.0
"""Time for each machine to start a worker and answer."""


def connect(on: str) -> None:
    """Connect to a cluster, or start one on this machine.

    Args:
        on: `ray` for the cluster of RAY_ADDRESS, or without the variable a new one; ray://HOST:PORT for a Ray client.

    Raises:
        ScoringError: no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "local") if on == "ray" else on
    _check_listener(address)
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # of many classes
        token = "InvalidAuthToken" in f"{error} {error.__cause__}"
        reason = "set RAY_AUTH_MODE=token" if token else str(error).strip().partition("\n")[0]
        raise ScoringError(f"no Ray cluster answers at {address}: {reason}") from error
    for name in ("ray.data", "ray.data._internal", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _check_listener(address: str) -> None:
    """Check that something listens at an address: Ray itself would try for eight minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return  # auto, local, or a client without a port
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTEN_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ScoringError(f"no Ray cluster answers at {address}: {error}") from error


def disconnect() -> None:
    """Leave the cluster, or end the one that was started."""
    ray.shutdown()


def alive_nodes() -> list[Mapping[str, Any]]:
    """The machines of the cluster that have resources."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def check_nodes(nodes: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> None:
    """Check that each machine has the same version of this package, and the files.

    Args:
        nodes: the machines, as Ray describes them.
        paths: absolute paths of files and folders that must exist.

    Raises:
        ScoringError: a machine cannot take part.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(find_problem)
    answers = {
        node["NodeManagerAddress"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(version("resnet-serve"), paths)
        for node in nodes
    }
    for address, answer in answers.items():
        try:
            problem = ray.get(answer, timeout=_CHECK_SECONDS)
        except GetTimeoutError as error:
            raise ScoringError(f"{address}: started no worker in {_CHECK_SECONDS:.0f} s") from error
        except Exception as error:
            raise ScoringError(
                f"{address}: cannot run this package ({root_cause(error)}): install the same version of resnet-serve"
            ) from error
        if problem is not None:
            raise ScoringError(f"{address}: {problem}")


def load_on_worker(options: Mapping[str, Any], device: executors.DeviceKind) -> ServedModel:
    """Load the version on one machine of the cluster, for its description.

    Raises:
        ScoringError: it cannot be loaded.
    """
    remote = ray.remote(num_cpus=ENGINE_CPU, num_gpus=int(device == "gpu"), max_retries=0)(describe)
    try:
        model: ServedModel = pickle.loads(ray.get(remote.remote(options)))
    except Exception as error:
        raise in_plain_words(error) from error
    return model


def root_cause(error: BaseException) -> BaseException:
    """The error that was raised on a worker."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None and cause is not error:
        error = cause
    return error


def in_plain_words(error: BaseException) -> ServiceError | ScoringError | OSError:
    """The error of a worker as this project raises it, without the traceback that Ray adds."""
    cause = root_cause(error)
    if isinstance(cause, RayError) or not isinstance(cause, ServiceError | ScoringError | OSError):
        lines = [line for line in str(cause).strip().splitlines() if line.strip()]
        return ScoringError(f"Ray ended the work: {type(cause).__name__}: {lines[0] if lines else ''}")
    return cause
