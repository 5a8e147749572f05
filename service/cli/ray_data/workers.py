"""The rule for the actors that compute on a cluster: how many, and with how many threads.

Each is one instance of the model, with the threads of the rule of `engine.instance_group` or of a tuned profile, as the
machine that loaded the version first applies it. A machine has as many actors as its CPUs have room for their threads,
or one per GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service import executors
from service.messages.model import ServedModel
from service.scoring.settings import ScoringError

ENGINE_CPU = 0.6
"""Share of a CPU that is reserved per thread of an engine. The system gives each process the time that it needs; the
shares limit how many there are."""
DECODING_CPU = 0.4
"""Share of a CPU that is reserved per process that decodes."""


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """The actors that compute."""

    actors: int
    threads: int
    """Threads of each actor."""
    cpus: float
    """CPUs that an actor reserves."""
    gpus: int
    """GPUs that an actor reserves."""
    decoders: int
    """Most processes that decode: one per CPU. Ray starts the first one, and more if it is the limit."""


def plan_workers(model: ServedModel, nodes: Sequence[Mapping[str, float]]) -> ActorPlan:
    """Plan the actors of a cluster: an instance of the model each, with the threads of its rule or profile.

    Args:
        model: the version, as it was loaded on one of the machines.
        nodes: resources of each machine, as Ray counts them: CPU and GPU.

    Raises:
        ScoringError: the cluster has not the CPUs or GPUs.
    """
    device = executors.find(model.executor).device
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if not any(cpus):
        raise ScoringError("the Ray cluster has no CPU: start its machines with ray start --num-cpus")
    if device == "gpu":
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if not gpus:
            raise ScoringError(f"{model.executor} needs a GPU, and the Ray cluster has none")
        return ActorPlan(gpus, 1, ENGINE_CPU, 1, sum(cpus))
    threads = max(1, min(model.threads, max(cpus)))
    return ActorPlan(sum(count // threads for count in cpus), threads, ENGINE_CPU * threads, 0, sum(cpus))
