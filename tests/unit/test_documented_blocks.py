"""Every block of the documentation is in the list of tests/support/documented_blocks.py, and outputs are compared."""

from __future__ import annotations

import pytest

from tests.support.documentation import ROOT, NotRun, Reduced, blocks, commands, differences, documents, indented_blocks
from tests.support.documented_blocks import BLOCKS


@pytest.mark.parametrize("document", documents())
def test_each_block_is_in_the_list(document: str) -> None:
    if document.startswith("docs/gpu/"):
        pytest.skip("a report stays as it was measured")
    text = (ROOT / document).read_text()
    found, listed = blocks(text), BLOCKS.get(document, ())
    unlisted = [
        f"{document}:{block.line}: {block.text.splitlines()[0]}"
        for block, entry in zip(found, [*listed, *[None] * len(found)], strict=False)
        if entry is None or not block.text.startswith(entry.start)
    ]
    assert not unlisted
    assert len(listed) == len(found), "blocks in the list that the document does not have"
    assert not indented_blocks(text), f"{document}: a block is fenced, or no test sees it"


def test_the_list_has_no_other_documents() -> None:
    assert set(BLOCKS) <= set(documents())


def test_each_block_with_a_treatment_has_a_reason_and_its_replacements() -> None:
    for document, listed in BLOCKS.items():
        for block, entry in zip(blocks((ROOT / document).read_text()), listed, strict=True):
            if isinstance(entry, NotRun | Reduced):
                assert entry.reason
            if isinstance(entry, Reduced) and not document.startswith("docs/studies/"):
                assert all(printed in block.text for printed in entry.replace), (document, entry)


def test_commands_continue_after_a_backslash_or_a_pipe() -> None:
    assert commands("a \\\n  b |\n  c\nd\n") == ["a b | c", "d"]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ('{"label": "boot", "probability": 0.98}', '{"label": "boot", "probability": 0.984}'),
        ('{"timing": {"total_ms": 1.5}}', '{"timing": {"total_ms": 300.0}}'),
        ("│ boot │ 98.59% │", "│ boot  │  98.61% │"),
        ("logit error 7.2e-06", "logit error 1.4e-05"),
        ("{'label': '…', 'index': …}", "{'label': 'boot', 'index': 9}"),
    ],
)
def test_outputs_agree(expected: str, printed: str) -> None:
    assert not differences(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ('{"label": "boot", "probability": 0.98}', '{"label": "boot", "probability": 0.9}'),
        ('{"label": "boot"}', '{"label": "shoe"}'),
        ('{"label": "boot"}', '{"label": "boot", "index": 9}'),
        ('{"timing": {"total_ms": 1.5}}', '{"timing": {"queue_ms": 1.5}}'),
        ("│ boot │ 98.59% │", "│ boot │ 91.59% │"),
        ("9 of 9 additions", "8 of 9 additions"),
        ("9 of 9 additions", "9 of 9 additions and more"),
    ],
)
def test_outputs_differ(expected: str, printed: str) -> None:
    assert differences(expected, printed)
