"""The size of JSON, and base64, each against an independent reference."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.content import base64_text
from service.http.content.json_text import JsonSize

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\\n/,:[{é😀'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a"\\:é'), inner),
)
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


@pytest.mark.slow
@settings(max_examples=50)
@given(VALUES, st.booleans(), st.data())
def test_size_counts_all_but_plain_characters_of_strings(value: object, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    outside = STRING.sub("", text)
    expected = len(outside) + 3 * len(re.findall(r"[\[{]", outside))
    for string in STRING.findall(text):
        plain = re.sub(r"\\.", "", string)
        expected += 2 * 8 + (len(string) - len(plain)) // 2 + len(re.sub(r"[\x00-\x7f]", "", plain).encode())
    content = text.encode()
    size = JsonSize()
    while content:
        length = data.draw(st.integers(1, len(content)))
        size.add(content[:length])
        content = content[length:]
    assert size.bytes == expected


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64_text, "_SLICE", 7)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("size", [*range(20), 1000])
def test_base64_in_slices_is_that_of_the_standard_library(size: int) -> None:
    data = bytes(value % 251 for value in range(size))
    assert base64_text.decode(base64.b64encode(data).decode()) == data
    assert base64_text.decode(base64.encodebytes(data)) == data


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    "text", ["a", "aGk", "####", "QQ==QQ==", "QUJDQUI=QUJD", "é", "QUI=" + "\n" * 50 + "x", "=" * 9]
)
def test_damaged_base64_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        base64_text.decode(text)
