"""The address of a client: that of the connection, or behind a trusted proxy that in X-Forwarded-For."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.core.settings.values import split_names


class ClientAddresses:
    """Finds the addresses of clients, with the rules of the HTTP server.

    Args:
        trusted_proxies: the setting.
    """

    def __init__(self, trusted_proxies: str) -> None:
        proxies = split_names(trusted_proxies)
        self._proxies = ProxyHeadersMiddleware(_end, proxies) if proxies else None

    async def find(self, peer: str, headers: Mapping[str, Any]) -> str:
        """The address of a client.

        Args:
            peer: as of gRPC, such as `ipv4:192.0.2.1:5000` or `ipv6:%5B2001:db8::1%5D:5000`.
            headers: metadata of the call.
        """
        address = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]") or peer
        forwarded = headers.get("x-forwarded-for")
        if self._proxies is None or forwarded is None:
            return address
        scope: Any = {"type": "http", "client": (address, 0), "headers": [(b"x-forwarded-for", forwarded.encode())]}
        await self._proxies(scope, _end, _end)  # type: ignore[arg-type]
        return str(scope["client"][0])


async def _end(*_: Any) -> None:
    """The application behind the middleware, which only changes the scope."""
