"""Line 5: committed code makes every figure, and every page says where it differs from the literature."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from models.studies import STUDIES
from models.studies.live import COMPUTE
from models.studies.study import draw

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "studies"
PAGE = ROOT / "service" / "page" / "studies.html"
DIFFERENCES = "## Where ours differs"
FEWEST_CHARACTERS = 100


def check() -> tuple[bool, str]:
    """Draw every figure again from its numbers, and read each page."""
    wrong = [f"{name}: {problem}" for name in STUDIES for problem in problems(name)]
    # Results of a study with other settings, such as `full-strength`.
    for numbers in sorted(DOCS.glob("*/*.json")):
        wrong += [f"{numbers.stem}: {problem}" for problem in differing(numbers.stem, numbers.parent)]
    for line in wrong:
        print(f"  {line}", flush=True)
    without_study = sorted({page.stem for page in DOCS.glob("*.md")} - STUDIES.keys() - {"README"})
    figures = sorted(path.name for path in DOCS.glob("*.png") if path.stem not in STUDIES)
    silent = widgets_without_differences()
    holds = not wrong and not without_study and not figures and not silent
    return holds, (
        f"{len(STUDIES)} studies, wrong: {len(wrong)}; pages without a study: {without_study or 'none'}; "
        f"figures that no study draws: {figures or 'none'}; {len(COMPUTE)} live studies, "
        f"not saying where they differ: {silent or 'none'}"
    )


def widgets_without_differences() -> list[str]:
    """Studies of the page that do not say where they differ from the literature."""
    page = PAGE.read_text(encoding="utf-8")
    sections = {study: page.partition(f'<section id="{study}"')[2].partition("</section>")[0] for study in COMPUTE}
    told = {study: re.search(r'<p class="differs">(.+?)</p>', text, re.DOTALL) for study, text in sections.items()}
    return [study for study, found in told.items() if found is None or len(found[1]) < FEWEST_CHARACTERS]


def problems(name: str) -> list[str]:
    """Sentences about a study's page in the documentation; none if all is there."""
    if not (DOCS / f"{name}.md").is_file():
        return ["it has no page in docs/studies"]
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    found = []
    if len(page.partition(DIFFERENCES)[2].partition("\n## ")[0].strip()) < FEWEST_CHARACTERS:
        found.append("the page does not say where it differs from the literature")
    if f"resnet-study {name}" not in page:
        found.append("the page has no command that makes the figure")
    if f"]({name}.png)" not in page:
        found.append("the page does not show the figure")
    return found + differing(name, DOCS)


def differing(name: str, folder: Path) -> list[str]:
    """Sentences about the files of a figure that differ from the drawing of its numbers; both are in `folder`."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        (again / f"{name}.json").write_bytes((folder / f"{name}.json").read_bytes())
        draw(STUDIES[name], again)
        for suffix in (".png", ".svg"):
            if (again / f"{name}{suffix}").read_bytes() != (folder / f"{name}{suffix}").read_bytes():
                found.append(f"the code does not draw the committed {folder.name}/{name}{suffix} from its numbers")
    return found
