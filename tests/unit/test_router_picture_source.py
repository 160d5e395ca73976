"""Content parts of a chat message: what is a picture, where its bytes are, and which field is to blame if not."""

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import InvalidRequestError
from sluice.router.picture_source import (
    URL_CHARS_MAX,
    Detail,
    InlinePicture,
    LinkedPicture,
    PictureFormat,
    TextPart,
    content_parts,
    decode_inline,
    format_of,
)

WHERE = "messages[0].content"


def picture(url: object, **more: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def refusal(part: object) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        content_parts([{"type": "text", "text": "look"}, part], where=WHERE)
    return caught.value


def test_texts_and_pictures_keep_their_order_and_know_their_field() -> None:
    content = [
        {"type": "text", "text": "before"},
        picture("data:image/png;base64,QUJD", detail="low"),
        {"type": "text", "text": "after"},
        picture("https://images.example.org/cat.png"),
    ]
    assert content_parts(content, where=WHERE) == (
        TextPart("before"),
        InlinePicture(field=f"{WHERE}[1].image_url.url", payload="QUJD", detail=Detail.LOW),
        TextPart("after"),
        LinkedPicture(field=f"{WHERE}[3].image_url.url", url="https://images.example.org/cat.png"),
    )


def test_a_bare_url_is_taken_as_some_clients_send_it() -> None:
    (part,) = content_parts([{"type": "image_url", "image_url": "data:image/gif;base64,AA=="}], where=WHERE)
    assert isinstance(part, InlinePicture)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("text", ""),
        ({}, ".type"),
        ({"type": ["text"]}, ".type"),
        ({"type": "input_audio"}, ".type"),
        ({"type": "text", "text": 5}, ".text"),
        ({"type": "image_url"}, ".image_url"),
        ({"type": "image_url", "image_url": 7}, ".image_url"),
        (picture("data:image/png;base64,AA", detail="huge"), ".image_url.detail"),
        (picture("data:image/png;base64,AA", detail=3), ".image_url.detail"),
        (picture("data:image/png;base64,AA", size=3), ".image_url.'size'"),
        (picture(None), ".image_url.url"),
        (picture(""), ".image_url.url"),
        (picture("file:///etc/passwd"), ".image_url.url"),
        (picture("ftp://images.example.org/cat.png"), ".image_url.url"),
        (picture("//images.example.org/cat.png"), ".image_url.url"),
        (picture("data:image/png,AA"), ".image_url.url"),
        (picture("data:image/png;base64"), ".image_url.url"),
        (picture("data:text/html;base64,AA"), ".image_url.url"),
        (picture("data:" + "x" * 1000 + ";base64,AA"), ".image_url.url"),
        (picture("https://images.example.org/" + "x" * URL_CHARS_MAX), ".image_url.url"),
    ],
)
def test_a_bad_part_is_refused_by_its_field_with_a_remedy(part: object, field: str) -> None:
    error = refusal(part)
    assert error.field == f"{WHERE}[1]{field}"
    assert error.remedy
    assert len(str(error)) < 400, "a refusal never repeats what was sent"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "image_url", "url", "detail", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])},
    optional={"text": JSON, "image_url": st.text(max_size=40) | st.fixed_dictionaries({"url": JSON | st.text()})},
)


@given(st.lists(JSON | NEARLY, max_size=5))
def test_any_json_gives_parts_or_a_refusal_that_names_a_part(content: list[Any]) -> None:
    try:
        parts = content_parts(content, where=WHERE)
    except InvalidRequestError as error:
        is_named = error.field.startswith(f"{WHERE}[")
    else:
        is_named = len(parts) == len(content)
    assert is_named


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_base64_comes_back_padded_or_not_percent_encoded_or_not(data: bytes, is_padded: bool, is_escaped: bool) -> None:
    payload = base64.b64encode(data).decode()
    payload = payload if is_padded else payload.rstrip("=")
    payload = payload.replace("+", "%2B").replace("=", "%3D") if is_escaped else payload
    assert decode_inline(InlinePicture(field="url", payload=payload), file_bytes_max=200) == data


@given(st.text(max_size=80))
def test_a_broken_payload_is_refused_and_never_raises_anything_else(payload: str) -> None:
    data = b""
    with contextlib.suppress(InvalidRequestError):
        data = decode_inline(InlinePicture(field="url", payload=payload), file_bytes_max=40)
    assert len(data) <= 42


def test_a_payload_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InvalidRequestError, match="at most 30 bytes"):
        decode_inline(InlinePicture(field="url", payload="!" * 100), file_bytes_max=30)


def test_formats_are_told_by_the_first_bytes_not_by_the_name() -> None:
    assert format_of(b"\x89PNG\r\n\x1a\nrest") is PictureFormat.PNG
    assert format_of(b"\xff\xd8\xff\xe0") is PictureFormat.JPEG
    assert format_of(b"GIF89a") is PictureFormat.GIF
    assert format_of(b"RIFF\0\0\0\0WEBPVP8 ") is PictureFormat.WEBP
    assert format_of(b"BM....") is PictureFormat.BMP
    assert format_of(b"RIFF\0\0\0\0WAVE") is None
    assert format_of(b"<svg/>") is None
    assert format_of(b"") is None
