"""The scripts in tools/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import count_lines, structure

SOURCE = '''"""Module docstring."""

import os  # a comment


# a comment


class Point:
    """Class docstring,

    of three lines.
    """

    x: int
    """Attribute docstring."""
    text = """two
lines"""


def function(
    argument: int,
) -> str:
    "docstring"
    return (
        "a"

        "b"
    )
'''


def test_count_leaves_out_blank_lines_comments_and_docstrings() -> None:
    # import, class, x, text (2), def (3), return (4): the blank line in the parentheses holds no token
    assert count_lines.count(SOURCE) == 12


def test_count_leaves_out_studies_and_tuning(tmp_path: Path) -> None:
    for name in ("models/a.py", "models/studies/b.py", "models/runtime/tuning.py", "models/runtime/c.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    counted = [path.relative_to(tmp_path).as_posix() for path in count_lines.modules(tmp_path, "models")]
    assert counted == ["models/a.py", "models/runtime/c.py"]
    assert count_lines.count_package(tmp_path, "models") == 2


ARROWS = {("top", "middle"): 2, ("middle", "bottom"): 1, ("top", "bottom"): 3, ("other", "bottom"): 1}


def test_levels_run_from_the_importing_part_down() -> None:
    levels = structure.find_levels(["bottom", "middle", "other", "top"], ARROWS)
    assert levels == [["top"], ["middle", "other"], ["bottom"]]


def test_circular_imports_have_no_levels() -> None:
    with pytest.raises(structure.CircularImport, match="bottom, middle"):
        structure.find_levels(["bottom", "middle"], {("middle", "bottom"): 1, ("bottom", "middle"): 1})


def test_chart_leaves_out_implied_arrows_and_table_has_all() -> None:
    drawn = structure.draw("package", ["bottom", "middle", "other", "top"], ARROWS)
    assert "part_top -->|2| part_middle" in drawn
    assert "part_top -->|3| part_bottom" not in drawn
    assert "| **top** |  | 2 |  | 3 |" in drawn
    assert "4 packages and modules on 3 levels, 4 arrows for 7 imports" in drawn


def test_drawing_replaces_what_is_between_the_marks() -> None:
    document = f"before\n{structure.BEGIN}\nold\n{structure.END}\nafter\n"
    assert structure.replace_drawing(document, "new") == document.replace("old", "new")
    with pytest.raises(ValueError, match="once each"):
        structure.replace_drawing("no marks", "new")
