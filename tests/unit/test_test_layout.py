"""Rules of the tests themselves: where they are, what they import, and that none waits for time to pass."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
FOLDERS = {"unit", "integration", "e2e", "gpu"}
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}


@cache
def sources(*folders: str) -> list[tuple[str, ast.Module]]:
    """Path below `tests` and syntax tree of each module in these folders, and of the root conftest."""
    paths = (TESTS / "conftest.py", *(path for folder in folders for path in sorted((TESTS / folder).rglob("*.py"))))
    return [(path.relative_to(TESTS).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the last part of the name that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def test_every_test_is_in_a_folder_that_marks_it() -> None:
    beside = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")} - FOLDERS
    assert beside == set()


def test_no_test_imports_another_test() -> None:
    """Shared code is in `tests/support`, or in a fixture."""
    found = [
        f"{path}: {name}"
        for path, tree in sources(*FOLDERS, "support", "acceptance")
        for name in imported(tree)
        if name.startswith("tests.")
        and not name.startswith("tests.support")
        and not (path.startswith("acceptance/") and name.startswith("tests.acceptance"))
    ]
    assert found == []


def test_the_root_conftest_needs_no_pytorch() -> None:
    code = "import sys, tests.conftest; print(*{'torch', 'onnx', 'openvino', 'export.build'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_no_test_sleeps() -> None:
    """`asyncio.sleep(0)` lets other tasks run, and takes no time."""
    found = [
        f"{path}:{call.lineno}"
        for path, tree in sources(*FOLDERS, "support")
        for name, call in calls(tree)
        if name == "sleep" and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)
    ]
    assert found == []


def test_no_test_is_in_a_busy_loop() -> None:
    """Tests wait for an event or a condition."""
    found = [
        f"{path}:{loop.lineno}"
        for path, tree in sources(*FOLDERS, "support")
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While)
        and all(ast.unparse(line) in ("pass", "await asyncio.sleep(0)") for line in loop.body)
    ]
    assert found == []


def test_no_assertion_reads_a_clock() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in sources(*FOLDERS, "support")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        and any(name in CLOCKS and ast.unparse(call.func) == f"time.{name}" for name, call in calls(node))
    ]
    assert found == []
