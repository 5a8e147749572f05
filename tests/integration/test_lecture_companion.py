"""The list of slides on the page is that of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.studies import STUDIES
from models.studies.live import COMPUTE

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| \[(.+?)\]\((.+?)\.md\) \| (.+?) \| (.+?) \(\[picture\]\((?:full-strength/)?\2\.png\)\) \| (.+?) \|$",
    re.MULTILINE,
)
SLIDE = re.compile(
    r'<li data-study="(.+?)">\s*<h3>(.+?)</h3>\s*<p class="claim">(.+?)</p>\s*<p class="figure">(.+?)</p>\s*'
    r'<p class="more">(?:<a class="try" href="(.+?)">try it</a>|<code>(.+?)</code>)</p>'
)


@pytest.fixture
def documented() -> list[tuple[str, str, str, str, str]]:
    """Study, slide, claim, figure, and the fragment or command of each row in the documentation."""
    text = (ROOT / "docs" / "studies" / "README.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == len(re.findall(r"^\| \[", text, re.MULTILINE)), "a row has another form than the others"
    return [
        (study, slide, claim.replace("*", ""), figure, re.sub(r"^\[try it\]\(.*?/studies|\)$|`", "", more))
        for slide, study, claim, figure, more in rows
    ]


def test_page_has_the_slides_of_the_documentation(documented: list[tuple[str, str, str, str, str]]) -> None:
    page = (ROOT / "service" / "page" / "studies.html").read_text(encoding="utf-8")
    slides = [
        (study, slide, re.sub("</?em>", "", claim), figure, link or command)
        for study, slide, claim, figure, link, command in SLIDE.findall(page)
    ]
    assert slides == documented


def test_every_study_has_a_slide(documented: list[tuple[str, str, str, str, str]]) -> None:
    assert {row[0] for row in documented} >= STUDIES.keys()
    assert {row[0] for row in documented if row[4].startswith("#")} >= COMPUTE.keys()
