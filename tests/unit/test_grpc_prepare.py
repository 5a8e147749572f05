"""The checks before the gRPC server starts."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from service.core.settings import Settings
from service.grpc import prepare
from service.grpc.client_address import ClientAddresses
from service.grpc.errors import GrpcError


def test_missing_extra_is_named() -> None:
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'grpc_health' else find(name)\n"
        "from service.core.settings import Settings\n"
        "from service.grpc import prepare\n"
        "try: prepare.reserve(Settings(grpc_port=0))\n"
        "except prepare.GrpcError as error: print(error, 'grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("--grpc-port needs the package grpc_health: ")
    assert done.stdout.endswith("-e '.[grpc]' False\n")


def test_no_port_needs_nothing() -> None:
    assert prepare.reserve(Settings()) == (Settings(), None)


@pytest.mark.parametrize("reuse", [False, True])
def test_port_of_another_program_is_refused(reuse: bool) -> None:
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(GrpcError, match="cannot be bound: Address already in use: give another port"):
            prepare.reserve(Settings(grpc_port=other.getsockname()[1]))


def test_free_port_is_selected_and_kept() -> None:
    settings, reserved = prepare.reserve(Settings(grpc_port=0, host="localhost"))
    assert settings.grpc_port and reserved is not None
    with pytest.raises(GrpcError):
        prepare.reserve(Settings(grpc_port=settings.grpc_port, host="localhost"))
    reserved.close()
    _, again = prepare.reserve(Settings(grpc_port=settings.grpc_port, host="localhost"))
    assert again is not None
    again.close()


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "expected"),
    [
        ("", "ipv4:192.0.2.1:5000", "198.51.100.7", "192.0.2.1"),
        ("", "ipv6:%5B2001:db8::1%5D:5000", None, "2001:db8::1"),
        ("192.0.2.0/24", "ipv4:192.0.2.1:5000", None, "192.0.2.1"),
        ("192.0.2.0/24", "ipv4:192.0.2.1:5000", "198.51.100.7", "198.51.100.7"),
        ("192.0.2.0/24", "ipv4:192.0.2.1:5000", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("192.0.2.0/24", "ipv4:198.51.100.1:5000", "203.0.113.9", "198.51.100.1"),
    ],
)
def test_address_of_a_client(proxies: str, peer: str, forwarded: str | None, expected: str) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert asyncio.run(ClientAddresses(proxies).find(peer, headers)) == expected
