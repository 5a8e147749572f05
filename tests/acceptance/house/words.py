"""Line 2: names and sentences."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.house.checkout import ROOT, clone, python

DOCSTRING = '\n\ndef planted() -> None:\n    """{}"""\n'
COMMENT = "\n# {}\n"
CLASS = '\n\nclass Planted:\n    """A class.\n\n    {}\n    """\n'
ATTRIBUTE = '\n\nplanted = 1\n"""{}"""\n'
LOG = '\n\nlogging.warning("{}")\n'
ERROR = '\n\nraise ValueError("{}")\n'
HELP = '\n\nplanted = typer.Option(help="{}")\n'
TEXT = "\n\n{}\n"

PLANTED: tuple[tuple[str, str, str], ...] = (
    ("README.md", TEXT, "Open the page, see the classes, and what in the picture speaks for each."),
    ("docs/api.md", TEXT, "Without a key the address is limited. Who has a key is limited by it, once it is known."),
    ("docs/architecture.md", TEXT, "Requests are batched while the engine is busy, and nobody waits for a timer."),
    ("docs/deployment.md", TEXT, "The container serves with a read-only root and as nobody in particular."),
    ("docs/performance.md", TEXT, "What a request costs beside its image, and what was not done about it."),
    ("docs/benchmarks.md", TEXT, "For a ResNet-50 all processors compute the same batch."),
    ("docs/architecture.md", TEXT, "An activation map costs 160 µs a request."),
    ("service/http/disconnect.py", DOCSTRING, "What is not done when the client hangs up is given up."),
    ("service/http/v1/classify.py", DOCSTRING, "Who names no version is answered by the newest that is served."),
    ("service/core/rate_limit.py", COMMENT, "A token comes back once a second."),
    (
        "service/registry/registry.py",
        CLASS,
        "Versions are kept, and who asks for one of them is told why it is not served.",
    ),
    ("service/registry/registry.py", ATTRIBUTE, "What keeps the service from answering is listed."),
    ("service/engine/workers.py", COMMENT, "Threads that compute give way to the event loop."),
    ("service/engine/engine.py", DOCSTRING, "Load the executors as far as that is not said otherwise."),
    ("service/engine/batch_queue.py", CLASS, "A lone image is computed by all threads."),
    ("service/executors/base.py", ATTRIBUTE, "The buffer that is lent to a thread until it has run."),
    ("service/executors/openvino.py", COMMENT, "Two copies of the model share the weights."),
    ("service/executors/gpu/resize.cu", "\n// {}\n", "Rows beside the region are computed in vain."),
    ("service/inference/admission.py", DOCSTRING, "At most this many images are inside."),
    ("service/inference/pipeline.py", LOG, "the caller has gone, the images are not computed"),
    ("service/core/settings/__init__.py", ERROR, "more threads than there are processors in the machine"),
    ("service/page/index.html", "\n<p>{}</p>\n", "Drop a picture and see what in it speaks for the class."),
    ("service/page/app.js", '\nconst planted = "{}";\n', "Nobody is left who waits for this image."),
    ("service/page/style.css", "\n/* {} */\n", "Its presence is shown by a line."),
    ("service/cli/classify.py", HELP, "Processors that compute one image."),
    ("models/training/train.py", DOCSTRING, "Images are read from a folder a class."),
    ("models/artifact/manifest.py", CLASS, "The labels are set, as far as the files say it."),
    ("export/cli/build.py", HELP, "How long the patience lasts before a build ends."),
    ("export/build.py", LOG, "the status was noted when the build began"),
    ("Dockerfile", COMMENT, "Who needs less memory lowers the limits."),
    (".env.example", COMMENT, "Each thread has its seat, and stays on one processor."),
    ("tests/unit/test_priority.py", DOCSTRING, "Outputs are left out unless they are asked for."),
)
"""Where a sentence is added, around which text, and the sentence. Most are sentences of commit 00e1378."""

NAMES = {
    "service/engine/patience.py": "",
    "service/engine/engine.py": "class Ticket: ...",
    "service/registry/registry.py": "def give_way() -> None: ...",
    "service/core/settings/__init__.py": "MOST = 8",
    "tests/unit/test_priority.py": "def test_who_has_gone_is_not_computed() -> None: ...",
}
"""Names that are added to modules."""


def check() -> tuple[bool, str]:
    """The word test finds nothing here, and every planted sentence and name in a clone, with its file and line."""
    tests = python(ROOT, "-m", "pytest", "tests/unit/test_words.py", "-q", "-rxX")
    summary = tests.stdout.strip().splitlines()[-1]
    clean = tests.returncode == 0 and not re.search("xfailed|xpassed|skipped", summary)
    if not clean:
        print(tests.stdout)
    findings = python(ROOT, "-m", "tests.support.words").stdout.splitlines()
    with clone() as checkout:
        missed = []
        for path, around, sentence in PLANTED:
            if not _found(checkout, path, around.replace("{}", sentence), sentence):
                missed.append(f"{path}: {sentence}")
        for path, line in NAMES.items():
            if not _found(checkout, path, f"\n\n{line}\n", line):
                missed.append(f"{path}: {line}")
    for text in missed:
        print(f"  missed: {text}")
    return clean and not findings and not missed, (
        f"{summary}; {len(findings)} findings; {len(PLANTED)} sentences and {len(NAMES)} names planted, "
        f"{len(missed)} missed"
    )


def _found(checkout: Path, path: str, text: str, mark: str) -> bool:
    """Whether a text that is added to a file is found at its line."""
    file = checkout / path
    before = file.read_text(encoding="utf-8") if file.exists() else None
    after = (before or "") + text
    file.write_text(after, encoding="utf-8")
    line = next(number for number, each in enumerate(after.splitlines(), 1) if mark in each) if mark else 1
    try:
        return f"{path}:{line}" in _findings(checkout, path)
    finally:
        file.unlink() if before is None else file.write_text(before, encoding="utf-8")


def _findings(checkout: Path, *paths: str) -> set[str]:
    """FILE:LINE of what is found in a checkout."""
    done = python(checkout, "-m", "tests.support.words", *paths)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return {":".join(line.split(":", 2)[:2]) for line in done.stdout.splitlines() if line.count(":") > 1}
