"""Asks the service on this machine whether it is ready, for a container's health check.

    python -m service.cli.healthcheck     exits with 0 if it is, else says why on standard error and exits with 1

It finds the service by the environment variables that this was set by. Only the standard library is imported: a check
every few seconds must not cost what loading the settings does.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

_SECONDS = 4.0


def main() -> None:
    """Ask `/readyz` once."""
    tls = bool(os.environ.get("RESNET_SERVE_SSL_CERTFILE"))
    url = f"{'https' if tls else 'http'}://127.0.0.1:{os.environ.get('RESNET_SERVE_PORT', '8000')}/readyz"
    # The certificate is made out to the name that clients use, and nobody is between this process and that one.
    context = ssl._create_unverified_context() if tls else None
    try:
        urllib.request.urlopen(url, timeout=_SECONDS, context=context).close()
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode(errors="replace"))
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
