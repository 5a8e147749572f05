"""Sizes, names and the layout of the code. Each exception has its reason, and must still be needed."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

from tools import structure

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "models", "export", "benchmarks", "clients")
MAX_MODULES_BESIDE_PACKAGES = 6
MAX_MODULES = 16
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60

LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
REPEATED_CLASSES: dict[str, str] = {}
"""By top-level package."""
VALUE_TYPES = {"NamedTuple", "Protocol", "TypedDict", "StrEnum", "IntEnum", "Enum", "Exception"}
"""Base classes that `service/messages` may use beside dataclasses."""


@cache
def modules(package: str) -> list[tuple[str, ast.Module]]:
    """The path and the syntax tree of each module of a package."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def test_service_has_few_modules_beside_its_packages() -> None:
    beside = [path.name for path in (ROOT / "service").glob("*.py") if path.name != "__init__.py"]
    assert len(beside) <= MAX_MODULES_BESIDE_PACKAGES, beside


def test_no_package_has_too_many_modules() -> None:
    counts = defaultdict[str, int](int)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            counts[path.parent.relative_to(ROOT).as_posix()] += path.name != "__init__.py"
    assert {package: count for package, count in counts.items() if count > MAX_MODULES} == {}


def test_no_module_is_too_long() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for package in ("service", "models", "export", "clients")
        for path in (ROOT / package).rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_MODULE_LINES
    }
    assert long == LONG_MODULES.keys()


def test_no_function_is_too_long() -> None:
    long = {
        f"{path}: {node.name}"
        for package in ("service", "models", "export", "clients")
        for path, tree in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > MAX_FUNCTION_LINES
    }
    assert long == LONG_FUNCTIONS.keys()


def test_one_module_imports_onnxruntime() -> None:
    """The module that turns its telemetry off first."""
    importing = {
        path
        for package in PACKAGES
        for path, tree in modules(package)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "onnxruntime" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxruntime")
    }
    assert importing == {"models/runtime/onnxruntime.py"}


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring included."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_class_name_is_used_twice_in_a_package() -> None:
    repeated = set()
    for package in PACKAGES:
        places = defaultdict[str, list[str]](list)
        for path, tree in modules(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(path)
        repeated |= {f"{package}: {name}" for name, paths in places.items() if len(paths) > 1}
    assert repeated == REPEATED_CLASSES.keys()


def test_messages_hold_values_and_interfaces_only() -> None:
    other = [
        f"{path}:{node.lineno}"
        for path, tree in modules("service/messages")
        if not path.endswith("wire.py")  # the encoding of the messages
        for node in tree.body
        if not _is_message(node)
    ]
    assert other == []


def _is_message(node: ast.stmt) -> bool:
    """Whether a statement of a module is an import, a docstring, an alias or constant, or a class of values."""
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
        return any("dataclass" in ast.unparse(each) for each in node.decorator_list) or bool(bases & VALUE_TYPES)
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    return isinstance(node, allowed) or ast.unparse(node).startswith("if TYPE_CHECKING:")


def test_drawing_in_the_documentation_is_up_to_date() -> None:
    document = structure.DOCUMENT.read_text(encoding="utf-8")
    assert structure.replace_drawing(document, structure.drawing()) == document, "run python -m tools.structure"
