"""gRPC of a real process: TLS, several workers, and the end of the service."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from tests.support.certificates import make_certificate, needs_openssl
from tests.support.grpc_client import SERVICE, failure, pixels
from tests.support.process import ServerProcess, running
from tests.support.service import TIMEOUT
from tests.support.worker_processes import client_ports, wait_for_workers, wait_until

DATA = pixels(np.zeros((1, 32, 32, 3), np.uint8)).SerializeToString()
CHANNELS = 24
"""All of them reach the same of two workers once in eight million runs."""


def port_of(server: ServerProcess) -> int:
    return int(server.wait_for_log(r"gRPC is at grpcs?://[\d.]+:(\d+)")[1])


def is_answered(call: Callable[..., bytes]) -> bool:
    try:
        return bool(call(DATA, timeout=TIMEOUT))
    except grpc.RpcError as error:
        assert error.code() is StatusCode.UNAVAILABLE
        return False


@pytest.mark.slow
def test_workers_share_the_port(tiny_repository: Path) -> None:
    flags = ["--executor", "simulated:1", "--workers", 2, "--grpc-port", 0]
    with running("--repository", tiny_repository, *flags) as server, ExitStack() as stack:
        port, http = port_of(server), int(server.url.rpartition(":")[2])
        found = wait_for_workers(server.process.pid, http, 2)
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
        channels = [stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options)) for _ in range(CHANNELS)]
        calls = [channel.unary_unary(SERVICE + "ModelInfer") for channel in channels]
        assert all(call(DATA, timeout=TIMEOUT) for call in calls)
        connected = [len(client_ports(worker, port)) for worker in found.workers]
        assert sum(connected) == CHANNELS
        assert min(connected) > 0
        os.kill(found.workers[0], signal.SIGKILL)
        wait_until(lambda: all(map(is_answered, calls)), "the channels of that worker have connected again")
        replaced = wait_for_workers(server.process.pid, http, 2)
        assert found.workers[0] not in replaced.workers
        assert server.end().count("gRPC is at") == 1


@pytest.mark.slow
def test_calls_in_flight_are_answered_at_the_end(tiny_repository: Path) -> None:
    flags = ["--executor", "simulated:700", "--grpc-port", 0]
    with running("--repository", tiny_repository, *flags) as server:
        with grpc.insecure_channel(f"127.0.0.1:{port_of(server)}") as channel:
            running_call = channel.unary_unary(SERVICE + "ModelInfer").future(DATA)
            stream = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([DATA]))
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(b"") == b"\x08\x01"
            server.process.send_signal(signal.SIGTERM)
            assert running_call.result(TIMEOUT)
            assert len(list(stream)) == 1
        server.wait()


@pytest.mark.slow
@needs_openssl
def test_tls(tiny_repository: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    flags = ["--executor", "simulated:0", "--grpc-port", 0, "--ssl-certfile", certificate, "--ssl-keyfile", key]
    with running("--repository", tiny_repository, *flags) as server:
        address = f"127.0.0.1:{port_of(server)}"
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(address, credentials) as channel, grpc.insecure_channel(address) as plain:
            assert channel.unary_unary(SERVICE + "ModelInfer")(DATA, timeout=TIMEOUT)
            assert failure(plain, "ModelInfer", DATA).code() is StatusCode.UNAVAILABLE
        server.end()
