"""Sentences and names follow docs/words.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import words
from tests.support.prose import Passage, markdown, passages

ROOMS = sorted(
    {
        "/".join(path.parts[: 2 if path.parts[0] in ("service", "models", "export", "tests", "docs") else 1])
        for path in (file.resolve().relative_to(words.ROOT) for file in words.files())
    }
)
"""What is checked, in pieces: a folder of a package, or one file."""


@pytest.mark.parametrize("room", ROOMS)
def test_words_and_names_are_the_fields_own(room: str) -> None:
    found = [finding for file in words.files([words.ROOT / room]) for finding in words.check(file)]
    assert not found, "\n" + "\n".join(map(str, found))


PLANTED = (
    "Who has a key is limited by it, once it is known.",
    "A request has a time limit. Who names no version is answered by the newest that is served.",
    "The answer is for who asks first.",
    "Requests are sorted, and who waits longest gets the next batch.",
    "What is over a rate is refused.",
    "Of what requests bring, the smallest images are decoded first.",
    "Drop an image, see the classes, and what in the picture supports each.",
    "Options are used as they are set, and what is not set is taken from the profile.",
    "Tensors are copied where what was allocated is in the way.",
    "That which was measured last is used.",
    "Those which are served are listed.",
    "The service adds 25 µs a request.",
    "One process answers 1,600 images/s, or 100 photographs a second.",
    "The repository is read once a second.",
    "It costs a process a core.",
    "Images lie in a folder a class.",
    "The preprocessing is set, as far as the files say it.",
    "Each executor takes all threads, where the option says it otherwise.",
    "As many batches are computed at a time as there are processors.",
    "Two copies of the model share the memory.",
    "A connection is closed when its patience ends.",
    "At most 64 requests are inside.",
    "The heat map shows the pixels and what they speak for.",
    "An image that comes alone is computed by all CPUs.",
    "The lone image gets every thread.",
    "Each thread takes its seat at the engine.",
    "The presence of the client is checked.",
    "The buffer is lent to the executor.",
    "The status is noted when the response starts.",
    "Outputs are computed only if they are asked for.",
    "Executors give way to the event loop.",
    "Threads stay on a CPU each.",
    "The container runs as nobody in particular.",
    "Requests whose caller has gone are skipped.",
    "Rows are computed in vain.",
    "The container restarts for want of memory.",
)


@pytest.mark.parametrize("sentence", PLANTED)
def test_planted_sentence_is_found(sentence: str) -> None:
    before = "The service answers requests."
    found = list(words.in_prose(Passage(7, f"{before}\n{sentence}")))
    assert found and {line for line, _, _ in found} == {8}


@pytest.mark.parametrize("sentence", PLANTED)
def test_planted_sentence_is_found_across_lines(sentence: str) -> None:
    assert list(words.in_prose(Passage(1, sentence.replace(" ", "\n"))))


@pytest.mark.parametrize(
    "sentence",
    [
        "A client who has an API key is limited per key.",
        "The message says what to write instead.",
        "It lists what the folder holds.",
        "Who may load models? Keys with the scope `admin`.",
        "An HTTP `Upgrade` is refused, and the response is copied to the device.",
        "In a second terminal, send a request.",
        "The preprocessor and the coprocessor stay as they are.",
        "The layer is fused inside the convolution.",
        "Give the image a second look: 3 ms in one batch, and a file in a folder.",
        "Set `--copies` and see <https://example.org/processor>.",
        "The license speaks of a copy of the file.",
        "It shows what was measured.",
    ],
)
def test_normal_sentence_is_not_found(sentence: str) -> None:
    text = "\n".join(passage.text for passage in markdown(sentence))
    assert not [found for found in words.in_prose(Passage(1, text))]


def test_names_are_found_with_their_kind(tmp_path: Path) -> None:
    module = tmp_path / "presence.py"
    module.write_text(
        "MOST = 8\n\n\nclass Ticket:\n    queue_size: int = 1\n\n    def give_way(self) -> None: ...\n\n\n"
        "def test_who_has_gone_is_not_computed() -> None: ...\n\n\n"
        "def patience() -> None: ...  # words: allow\n"
    )
    assert {(line, name) for line, name, _ in words.in_names(module)} == {
        (1, "module presence"),
        (1, "constant MOST"),
        (4, "class Ticket"),
        (5, "field queue_size"),
        (7, "function give_way"),
        (10, "function test_who_has_gone_is_not_computed"),
    }


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "Text.\n\n```\nthe processor\n```\n\n    the processor\n\n- `processor`\n- the processor\n", 10),
        ("module.py", '"""Text.\n\nMore text.\n\n- the processor\n"""\n\nX = "processor"\n', 5),
        ("module.py", "X = 1\n\nY = 2  # the processor\n", 3),
        ("module.py", 'def f(x: int) -> None:\n    """Text."""\n    raise ValueError(f"{x}: no such processor")\n', 3),
        ("page.html", "<p>\n<b title='the processor'>Text</b></p><script src='processor.js'></script>", 2),
        ("page.js", "const a = 1;\nconst b = `there is no processor for ${processor}`;\n", 2),
        ("page.css", "a {\n  /* the processor */\n}\n", 2),
        ("rules.yml", "expr: processor\nsummary: The processor is busy.\n", 2),
        ("Dockerfile", "FROM processor\n# the processor\n", 2),
        ("dashboard.json", '{\n"description": "The processor",\n"expr": "processor"}\n', 2),
    ],
)
def test_prose_of_a_file_is_checked_and_its_code_is_not(name: str, text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    found = [found for passage in passages(file) for found in words.in_prose(passage)]
    assert [where for where, _, _ in found] == [line]


def test_list_has_no_entry_twice_and_every_better_word() -> None:
    patterns = [rule.pattern.pattern for rule in words.rules()]
    assert len(patterns) == len(set(patterns))
    assert all(rule.better and rule.reason for rule in (*words.rules(), *words.name_table().values()))
