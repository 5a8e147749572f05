"""The number of replicas, by the images that wait for a batch: as `deploy/kubernetes` scales pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

QUEUE_IMAGES = "resnet_queue_images"
"""Images that wait for a batch in a replica; the metric of this name in `/metrics`."""


class Context(Protocol):
    """The part of `ray.serve.config.AutoscalingContext` that the policy reads."""

    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None
    """By name and replica: means of the last 30 seconds."""
    total_queued_requests: float
    """Requests that wait in the proxies."""
    target_num_replicas: int


class QueuePolicy:
    """Autoscaling policy of Ray Serve. Ray applies its bounds and delays to the result.

    Args:
        images_per_replica: waiting images that one replica is expected to have; 16 are two batches of a small network.
    """

    def __init__(self, images_per_replica: float = 16.0) -> None:
        self._images_per_replica = images_per_replica

    def __call__(self, context: Context) -> tuple[float, dict[str, Any]]:
        """The number of replicas that the waiting images need, and no state."""
        waiting = (context.aggregated_metrics or {}).get(QUEUE_IMAGES)
        if not waiting:  # no replica has reported yet, which does not mean that none is needed
            return context.target_num_replicas, {}
        return (sum(waiting.values()) + context.total_queued_requests) / self._images_per_replica, {}
