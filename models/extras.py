"""Messages about packages that are not installed, in one form."""

from __future__ import annotations

EXTRAS = {"cuda": "gpu", "onnxruntime": "cpu", "openvino": "openvino", "tensorrt": "tensorrt"}
"""The extra of this project that brings a package, for packages that executors import."""


def missing(user: str, package: str | None, extra: str) -> str:
    """A sentence about a package that is not installed, with the command that installs it.

    Args:
        user: what needs the package, such as an option.
        package: the package that was not found.
        extra: the extra that brings it.
    """
    return (
        f"{user} needs the package {package}: in the project's folder, run "
        f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
    )
