"""Line 1: the layout, held by tests and by import-linter."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.house.checkout import ROOT, clone, lint_imports, python

CONTAINERS = ("service", "models")
"""Packages whose layers must be listed in full."""
UPWARDS = {
    "service/core/settings/__init__.py": "from service.telemetry import tracing",
    "service/messages/model.py": "from service.engine import engine",
    "service/inference/pipeline.py": "from service.registry import registry",
    "service/engine/engine.py": "from service.decoding import decoder",
    "service/app.py": "import service.cli",
    "models/artifact/manifest.py": "import torch",
    "models/imaging/images.py": "from models.data import dataset",
    "export/verify.py": "import service",
}
"""Imports that a contract forbids, by the module that they are added to."""


def check() -> tuple[bool, str]:
    """Sizes, contracts and the drawing hold here, and a change of each kind is found in a clone."""
    wrong: list[str] = []
    tests = python(ROOT, "-m", "pytest", "tests/unit/test_structure.py", "-q")
    contracts = lint_imports(ROOT)
    drawn = python(ROOT, "-m", "tools.structure", "--check")
    for name, done in (("tests", tests), ("import-linter", contracts), ("drawing", drawn)):
        if done.returncode:
            print(done.stdout + done.stderr)
            wrong.append(name)
    wrong += _not_exhaustive()
    with clone() as checkout:
        found = _changes_found(checkout)
    wrong += [f"not found: {name}" for name, noticed in found.items() if not noticed]
    beside = [path for path in (ROOT / "service").glob("*.py") if path.name != "__init__.py"]
    largest = max((len(_modules(folder)), folder) for folder in (ROOT / "service").rglob("*") if folder.is_dir())
    kept = re.search(r"Contracts: (\d+ kept, \d+ broken)", contracts.stdout)
    return not wrong, (
        f"{len(beside)} modules beside the packages of service/ (6), at most {largest[0]} in a package (16, "
        f"{largest[1].relative_to(ROOT)}); contracts: {kept[1] if kept else 'none'}; {sum(found.values())} of "
        f"{len(found)} planted changes found; wrong: {wrong or 'nothing'}"
    )


def _modules(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.py") if path.name != "__init__.py"]


def _not_exhaustive() -> list[str]:
    """Packages without a contract that lists all their layers."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    exhaustive = {
        container
        for contract in contracts
        if contract["type"] == "layers" and contract.get("exhaustive")
        for container in contract["containers"]
    }
    return [f"the layers of {container} are not exhaustive" for container in CONTAINERS if container not in exhaustive]


def _changes_found(checkout: Path) -> dict[str, bool]:
    """Whether each change to a clone is found by the check that is meant for it, and nothing without a change."""
    test = ("-m", "pytest", "tests/unit/test_structure.py", "-q", "-p", "no:cacheprovider")
    found = {"nothing": not lint_imports(checkout).returncode and not python(checkout, *test).returncode}
    for path, line in UPWARDS.items():
        found[f"{line} in {path}"] = _with(checkout / path, line, lambda: lint_imports(checkout).returncode == 1)
    another = checkout / "service" / "another.py"
    found["a module in no layer"] = _with(another, "", lambda: lint_imports(checkout).returncode == 1)
    module = checkout / "service" / "http" / "health.py"
    for name, text in {
        "a stale drawing": "import models.malloc",
        "a long module": "\n" * 300,
        "a long function": "def planted() -> None:\n" + "    planted()\n" * 60,
        "a class name twice": "class Pipeline:\n    pass",
    }.items():
        found[name] = _with(module, text, lambda: python(checkout, *test).returncode == 1)
    return found


def _with(path: Path, line: str, check: Callable[[], bool]) -> bool:
    """The result of a check while a line stands at the end of a file."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        return check()
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
