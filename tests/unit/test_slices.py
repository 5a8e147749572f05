"""A large response in slices has the bytes of the response as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import UnprocessableImage
from service.http.v1 import schemas
from service.inference.results import Classification, ImageInfo, ImageResult, Prediction, Timing

TEXT = st.text(max_size=10) | st.just('"predictions":[]')
PREDICTIONS = st.builds(
    Prediction,
    label=TEXT,
    index=st.integers(0, 999),
    probability=st.floats(0, 1),
    cam=st.none() | st.just([[0.5, 1.0], [2.0, -1.0]]),
    cam_png=st.none() | st.binary(max_size=10),
)
RESULTS = st.one_of(
    st.builds(ImageResult, error=st.just(UnprocessableImage("not an image"))),
    st.builds(
        ImageResult,
        predictions=st.lists(PREDICTIONS, max_size=3).map(lambda items: items * 50),
        image=st.none() | st.just(ImageInfo(width=1, height=2, format="PNG", region=(0.0, 0.0, 1.0, 2.0))),
        embedding=st.none() | st.just([0.25, 1e-9]),
    ),
)
TIMING = Timing(decode_ms=0.1, queue_ms=0.2, inference_ms=0.3, batch_size=4, total_ms=0.7)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(RESULTS, max_size=3), TEXT)
def test_slices_have_the_bytes_of_the_whole(results: list[ImageResult], name: str) -> None:
    answer = Classification(model=name, version="1", results=results, timing=TIMING)
    assert b"".join(schemas.encode_slices(answer)) == schemas.encode(answer)
    for index, result in enumerate(results):
        sliced = b"".join(schemas.encode_line_slices(result, index, name, "1"))
        assert sliced == schemas.encode_line(result, index, name, "1")
