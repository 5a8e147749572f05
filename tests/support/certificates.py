"""A certificate for a server on this machine, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_NO_OPENSSL = None if shutil.which("openssl") else "needs the openssl command to make a certificate"

needs_openssl = pytest.mark.skipif(_NO_OPENSSL is not None, reason=_NO_OPENSSL or "openssl is installed")


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate that signs itself, for a name and for 127.0.0.1, and its key.

    Args:
        folder: gets `certificate.pem` and `key.pem`.
        name: host that it is for.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True, timeout=30)
    return certificate, key
