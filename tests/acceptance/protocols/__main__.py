"""Protocols: gRPC, embeddings, the routes of other platforms, and the client.

    python -m tests.acceptance.protocols [LINE ...]

Needs an environment with the `cpu`, `train` and `dev` extras; line 1 also `perf_analyzer`, on the PATH or in
PERF_ANALYZER: the wheel of tritonclient 2.41.1 has it, and needs the package libb64-0d and, from the wheel
nvidia-cuda-runtime-cu12, libcudart.so.12 on LD_LIBRARY_PATH. Line 2 runs a fuzzer for ten minutes. Line 3 is timed:
nothing else should run on the machine.
"""

from tests.acceptance.protocols import client_restarts, embeddings, grpc_clients, grpc_cost, grpc_limits, platforms
from tests.acceptance.report import run

if __name__ == "__main__":
    run(
        {
            1: grpc_clients.check,
            2: grpc_limits.check,
            3: grpc_cost.check,
            4: embeddings.check,
            5: platforms.check,
            6: client_restarts.check,
        }
    )
