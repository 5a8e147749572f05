"""Requests that schemathesis makes up from the OpenAPI document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).with_name("schemathesis.toml")


def fuzz(url: str, examples: int, *options: str, parameters: dict[str, str] | None = None, folder: Path) -> str:
    """Run schemathesis over all operations; gives what it found, or "" where it found nothing.

    Args:
        url: of the service.
        examples: most requests made up for an operation.
        options: further options of `schemathesis run`.
        parameters: values that are always sent.
        folder: to write its configuration to.
    """
    fixed = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (parameters or {}).items())
    config = folder / "schemathesis.toml"
    config.write_text(f"{CONFIG.read_text()}\n[parameters]\n{fixed}")
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(config), "run"]
    limits = ["--max-examples", str(examples), "--seed", "1", "--generation-deterministic", "--warnings", "off"]
    done = subprocess.run(
        [*command, f"{url}/openapi.json", *limits, *options], cwd=folder, capture_output=True, text=True
    )
    passed = re.search(r"(\d+) generated, \1 passed", done.stdout)
    return "" if done.returncode == 0 and passed else done.stdout + done.stderr
