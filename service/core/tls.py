"""The files for TLS, checked before the service starts, so that each mistake has its own sentence."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----")

_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""Reasons of OpenSSL for a key of another certificate; the last one if RSA meets elliptic curves."""


class TlsError(Exception):
    """The files for TLS cannot be used; the message says which file, why, and what to do."""


def load_tls_files(certfile: Path, keyfile: Path | None) -> ssl.SSLContext:
    """Load a certificate chain and its key, for the server.

    Args:
        certfile: certificate chain, PEM.
        keyfile: private key, PEM; None if it is in the same file.

    Raises:
        TlsError: a file cannot be read or is not PEM, or the key is encrypted or of another certificate.
    """
    if not _CERTIFICATE.search(_read("ssl_certfile", certfile)):
        raise TlsError(
            f"ssl_certfile: {certfile} has no certificate in PEM: give a file with a line -----BEGIN CERTIFICATE-----; "
            "`openssl x509 -inform der` converts DER"
        )
    name, source = ("ssl_certfile", certfile) if keyfile is None else ("ssl_keyfile", keyfile)
    if not _KEY.search(_read(name, source)):
        where = "put the key into it, or name its file with ssl_keyfile" if keyfile is None else "give the key's file"
        raise TlsError(f"{name}: {source} has no private key in PEM, with a line -----BEGIN PRIVATE KEY-----: {where}")

    def refuse_password() -> str:
        raise TlsError(f"{name}: {source} is encrypted: write it without a password, with `openssl pkey`")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the function, OpenSSL would ask for a password on the terminal.
        context.load_cert_chain(certfile, keyfile, refuse_password)
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            raise TlsError(
                f"{name}: the key in {source} belongs to another certificate than {certfile}: give the two files that "
                "were made together, the certificate of the server first in its chain"
            ) from error
        raise TlsError(
            f"ssl_certfile: {certfile} with the key in {source} cannot be used ({error.reason or error}): one of them "
            "is damaged or not supported; `openssl x509` and `openssl pkey` show which"
        ) from error
    return context


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(
            f"{name}: {path} cannot be read: {error.strerror}: give a file that exists and that this user may read"
        ) from error
