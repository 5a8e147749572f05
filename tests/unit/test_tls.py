"""The files for TLS: those that the server can use, and the sentence for each mistake."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from service.core.tls import TlsError, load_tls_files

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rsa` and `ec` with a certificate and a key each, and what people give instead."""
    folder = tmp_path_factory.mktemp("tls")
    rsa, ec = ["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    for name, kind in (("rsa", rsa), ("other", rsa), ("ec", ec)):
        openssl("req", "-x509", "-newkey", *kind, "-nodes", "-days", 1, "-subj", "/CN=x",
                "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")  # fmt: skip
    openssl("x509", "-in", folder / "rsa.pem", "-outform", "der", "-out", folder / "rsa.der")
    openssl("pkey", "-in", folder / "rsa.key", "-aes256", "-passout", "pass:secret", "-out", folder / "encrypted.key")
    certificate, key = ((folder / f"rsa.{kind}").read_bytes() for kind in ("pem", "key"))
    (folder / "both.pem").write_bytes(certificate + key)
    (folder / "cut.pem").write_bytes(certificate[:600])
    (folder / "empty.pem").touch()
    return folder


@pytest.mark.parametrize(("certificate", "key"), [("rsa.pem", "rsa.key"), ("ec.pem", "ec.key"), ("both.pem", None)])
def test_files_that_belong_together_are_accepted(certificate: str, key: str | None, files: Path) -> None:
    load_tls_files(files / certificate, None if key is None else files / key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("none.pem", "rsa.key", r"ssl_certfile: \S+none.pem cannot be read: No such file"),
        ("rsa.pem", "none.key", r"ssl_keyfile: \S+none.key cannot be read: No such file"),
        (".", "rsa.key", r"ssl_certfile: \S+ cannot be read: Is a directory"),
        ("rsa.der", "rsa.key", r"ssl_certfile: \S+rsa.der has no certificate in PEM: .*openssl x509"),
        ("empty.pem", "rsa.key", r"ssl_certfile: \S+empty.pem has no certificate in PEM"),
        ("rsa.key", "rsa.pem", r"ssl_certfile: \S+rsa.key has no certificate in PEM"),
        ("rsa.pem", "rsa.pem", r"ssl_keyfile: \S+rsa.pem has no private key in PEM"),
        ("rsa.pem", None, r"ssl_certfile: \S+rsa.pem has no private key .*name its file with ssl_keyfile"),
        ("rsa.pem", "other.key", r"ssl_keyfile: the key in \S+other.key belongs to another certificate"),
        ("rsa.pem", "ec.key", r"ssl_keyfile: the key in \S+ec.key belongs to another certificate"),
        ("rsa.pem", "encrypted.key", r"ssl_keyfile: \S+encrypted.key is encrypted: .*openssl pkey"),
        ("cut.pem", "rsa.key", r"ssl_certfile: \S+cut.pem .*cannot be used .*damaged"),
    ],
)
def test_each_mistake_has_its_sentence(certificate: str, key: str | None, message: str, files: Path) -> None:
    with pytest.raises(TlsError, match=f"^{message}[^\n]*$"):
        load_tls_files(files / certificate, None if key is None else files / key)
