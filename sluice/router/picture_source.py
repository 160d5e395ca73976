"""Reads a chat message's content parts: which are text, which are pictures, and where a picture's bytes are.

A picture is inline (a data URL) or a link. Only the shape is checked here, field by field; nothing is
decoded or fetched. Source: https://platform.openai.com/docs/guides/images-vision.
Next: `picture_reader.py`, which turns sources into bytes.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from sluice.errors import InvalidRequestError

URL_CHARS_MAX: Final = 8192
"""Of a link; data URLs are bounded by the picture's size instead."""

_MEDIA_TYPE_CHARS_MAX: Final = 256
_EXAMPLE: Final = 'send {"type": "image_url", "image_url": {"url": ...}} or {"type": "text", "text": ...}'


class Detail(Enum):
    """How closely the client wishes a picture to be looked at."""

    AUTO = "auto"
    LOW = "low"
    HIGH = "high"


class PictureFormat(Enum):
    """A kind of image file, by its media type."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    WEBP = "image/webp"
    GIF = "image/gif"
    BMP = "image/bmp"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InlinePicture:
    """A picture inside the request. `payload` is the base64 text of its data URL; `field` names it in errors."""

    field: str
    payload: str
    detail: Detail = Detail.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedPicture:
    """A picture somewhere on the network. Nothing about `url` is checked but its length and scheme."""

    field: str
    url: str
    detail: Detail = Detail.AUTO


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawPicture:
    """A picture sent as the bytes of its file."""

    field: str
    data: bytes
    detail: Detail = Detail.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedPicture:
    """A picture sent before, by the name of its file (BLAKE2b-128 of its bytes)."""

    field: str
    name: bytes


PictureSource: TypeAlias = InlinePicture | LinkedPicture | RawPicture
ContentPart: TypeAlias = TextPart | PictureSource | RememberedPicture


def content_parts(content: Sequence[object], *, where: str) -> tuple[ContentPart, ...]:
    """The parts of one message's `content`, in order. `where` is its field, as in `messages[0].content`.

    Raises InvalidRequestError naming the first bad field and the remedy.
    """
    return tuple(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: object, where: str) -> ContentPart:
    if not isinstance(part, dict):
        raise _refusal(where, "is not an object", _EXAMPLE)
    match part.get("type"):
        case "text":
            if not isinstance(part.get("text"), str):
                raise _refusal(f"{where}.text", "is missing or not a string", "send a string")
            return TextPart(part["text"])
        case "image_url":
            return _picture(part.get("image_url"), f"{where}.image_url")
        case kind:
            problem = f"{_brief(kind)} is content this model cannot take"
            raise _refusal(f"{where}.type", problem, "send text or image_url")


def _picture(given: object, where: str) -> PictureSource:
    # Some clients send the URL bare; the object is what is documented.
    given = {"url": given} if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise _refusal(where, "is missing or not an object", _EXAMPLE)
    for field in given.keys() - {"url", "detail"}:
        raise _refusal(f"{where}.{_brief(field)}", "is not known", "send url and, if you like, detail")
    detail = _detail(given, where)
    url = given.get("url")
    field = f"{where}.url"
    if not isinstance(url, str) or not url:
        raise _refusal(field, "is missing or not a string", "send a data URL or a link")
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return InlinePicture(field=field, payload=_payload(url, field), detail=detail)
    if scheme.startswith(("http://", "https://")):
        if len(url) > URL_CHARS_MAX:
            raise _refusal(
                field, f"has {len(url)} characters", f"send at most {URL_CHARS_MAX}, or the picture as a data URL"
            )
        return LinkedPicture(field=field, url=url, detail=detail)
    remedy = "send data:image/png;base64,... or an http(s) link"
    raise _refusal(field, f"{_brief(url)} is neither a data URL nor a link", remedy)


def _detail(given: Mapping[str, object], where: str) -> Detail:
    wish = given.get("detail")
    if wish is None:
        return Detail.AUTO
    known = {detail.value: detail for detail in Detail}
    if not isinstance(wish, str) or wish not in known:
        raise _refusal(f"{where}.detail", f"is {_brief(wish)}", f"send one of {', '.join(known)}")
    return known[wish]


def _payload(url: str, field: str) -> str:
    """The base64 text of a data URL (RFC 2397)."""
    head, comma, payload = url[5 : 5 + _MEDIA_TYPE_CHARS_MAX].partition(",")
    media_type, *parameters = head.lower().split(";")
    if not comma or "base64" not in (parameter.strip() for parameter in parameters):
        raise _refusal(field, "is a data URL that is not base64", "send data:image/png;base64,...")
    if not media_type.strip().startswith("image/"):
        raise _refusal(field, f"is a data URL of the type {_brief(media_type)}", "send one of an image/ type")
    del payload  # cut short
    return url[5 + len(head) + 1 :]


def decode_inline(picture: InlinePicture, *, file_bytes_max: int) -> bytes:
    """The bytes of a picture's file. Raises InvalidRequestError. Costs time with size: call it off the event loop."""
    payload = picture.payload
    if len(payload) * 3 // 4 > file_bytes_max + 2:
        problem = f"holds about {len(payload) * 3 // 4} bytes"
        raise _refusal(picture.field, problem, f"send a picture of at most {file_bytes_max} bytes")
    try:
        raw = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        raw += b"=" * (-len(raw) % 4)  # padding is often left out
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _refusal(picture.field, "is a data URL whose base64 is broken", "encode the file again") from error


def format_of(data: bytes) -> PictureFormat | None:
    """What a file's first bytes say it is; None for anything that is no picture we know."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PictureFormat.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return PictureFormat.JPEG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return PictureFormat.GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return PictureFormat.WEBP
    return PictureFormat.BMP if data.startswith(b"BM") else None


def _brief(value: object) -> str:
    """A client's value, short enough for a message."""
    return repr(value[:40] if isinstance(value, str) else type(value).__name__)


def _refusal(field: str, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(field=field, problem=problem, remedy=remedy)
