"""Health check of a container: asks the service in the same container whether it is ready.

    python -P -m service.cli.healthcheck

Exits with 0 if the service is ready; otherwise prints the reason on standard error and exits with 1. Port and TLS come
from the environment variables of the service. Only the standard library is imported, because the check runs every few
seconds.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

from service.core import platforms

_TIMEOUT_SECONDS = 4.0
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Address to ask in place of one that means all addresses of the machine."""


def main() -> None:
    """Request `/readyz` once."""
    # The certificate is for the name that clients use, and the connection stays on this machine.
    context = ssl._create_unverified_context() if url().startswith("https") else None
    try:
        urllib.request.urlopen(url(), timeout=_TIMEOUT_SECONDS, context=context).close()
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode(errors="replace"))
    except OSError as error:
        sys.exit(f"{url()}: {error}")


def url() -> str:
    """Address of `/readyz`. A port that is no number comes from Kubernetes (service/core/settings/environment.py)."""
    scheme = "https" if os.environ.get("RESNET_SERVE_SSL_CERTFILE") else "http"
    named = platforms.port(os.environ.get("RESNET_SERVE_COMPAT", ""))
    port = os.environ.get("RESNET_SERVE_PORT", "") if named is None else named[0]
    host = os.environ.get("RESNET_SERVE_HOST", "")
    host = _LOOPBACK.get(host, host)
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port if port.isdecimal() else 8000}/readyz"


if __name__ == "__main__":
    main()
