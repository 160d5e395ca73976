"""Pictures of a request become bytes: from inside it, or from hosts that are allowed; from nowhere else.

A hostile server runs on this machine. Names are looked up in a table, so that no name leaves the test.
"""

import asyncio
import base64
import contextlib
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from sluice.config.router import PicturesConfig
from sluice.engine.vision.picture import PictureLimits, decode_picture
from sluice.errors import InvalidRequestError, OverloadedError
from sluice.router.picture_reader import PictureFile, PictureReader
from sluice.router.picture_source import (
    InlinePicture,
    LinkedPicture,
    PictureSource,
    content_parts,
)

FILE_BYTES_MAX = 20_000
FIELD = "messages[0].content[0].image_url.url"
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def png(seed: int = 0, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3)).save(file, "PNG")
    return file.getvalue()


def link(url: str) -> LinkedPicture:
    return LinkedPicture(field=FIELD, url=url)


class Server:
    """Answers by path, as rudely as asked. `seen` are the paths, `connections` how often it was connected to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.connections = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ")[1].decode()
            self.seen.append(path)
            await self._answer(path, writer)
            if path in {"/stall", "/drip", "/half"}:
                await reader.read()  # until the client has had enough
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        data = png()
        length = f"Content-Length: {len(data)}\r\n".encode()
        answers = {
            "/ok": b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + data,
            "/unsized": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data,
            "/half": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + data[:20],
            "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 19000\r\nConnection: close\r\n\r\n" + data,
            "/claims": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "/negative": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + data,
            "/endless": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x89PNG\r\n\x1a\n" + bytes(4 * FILE_BYTES_MAX),
            "/gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + length + b"\r\n" + data,
            "/missing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "/html": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "/empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "/noise": random.Random(3).randbytes(3000),
            "/headers": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
            "/status": b"HTTP/1.1 999999 What\r\n\r\n",
            "/cookie": b"HTTP/1.1 302 Found\r\nSet-Cookie: a=b\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
            "/loop": b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n",
            "/nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
            "/stall": b"",
            "/drip": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\x89",
        }
        if path.startswith("/to?"):
            head = f"HTTP/1.1 302 Found\r\nLocation: {path[4:]}\r\nContent-Length: 0\r\n\r\n"
            writer.write(head.encode())
        else:
            writer.write(answers.get(path, b""))
        await writer.drain()


class Names:
    """A name service that only the test knows. `asked` are the names looked up."""

    def __init__(self, table: dict[str, Sequence[str]]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        del port
        self.asked.append(host)
        if host not in self.table:
            raise OSError(f"no such name: {host}")
        return list(self.table[host])


@contextlib.asynccontextmanager
async def reading(server: Server, names: Names, *, fetch_s: float = 20.0, **more: int) -> AsyncIterator[PictureReader]:
    config = PicturesConfig(
        hosts=(f"pictures.test:{server.port}", f"inside.test:{server.port}", "127.0.0.1"),
        networks=("127.0.0.1/32",),
        file_bytes_max=FILE_BYTES_MAX,
        request_bytes_max=3 * FILE_BYTES_MAX,
        per_request_max=8,
        fetch_s=fetch_s,
        **more,  # type: ignore[arg-type]
    )
    reader = PictureReader(config, look_up=names.look_up)
    try:
        yield reader
    finally:
        await reader.close()


def names() -> Names:
    return Names({"pictures.test": ["127.0.0.1"], "inside.test": ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1"]})


async def refusal(reader: PictureReader, *sources: PictureSource) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        await reader.read(sources)
    assert caught.value.field == sources[-1].field
    assert caught.value.remedy
    return caught.value


async def test_pictures_come_back_in_order_whether_inline_or_linked() -> None:
    async with Server().running() as server, reading(server, names()) as reader:
        at = f"http://pictures.test:{server.port}"
        inline = InlinePicture(field="b", payload=base64.b64encode(png(1)).decode())
        files = await reader.read([link(f"{at}/ok"), inline, link(f"{at}/unsized"), link(f"{at}/cookie")])
        assert [file.data for file in files] == [png(), png(1), png(), png()]


@pytest.mark.parametrize(
    "path",
    [
        *("/short", "/claims", "/negative", "/endless", "/gzip", "/missing", "/html", "/empty", "/noise", "/headers"),
        *("/status", "/loop", "/nowhere", "/unknown"),
    ],
)
async def test_a_server_that_misbehaves_costs_one_refusal(path: str) -> None:
    async with Server().running() as server, reading(server, names()) as reader:
        await refusal(reader, link(f"http://pictures.test:{server.port}{path}"))
        assert len(server.seen) <= 4, "redirects are followed three times at most"


@pytest.mark.parametrize("path", ["/stall", "/drip", "/half"])
async def test_a_server_that_stalls_is_given_up_when_the_time_is_over(path: str) -> None:
    async with Server().running() as server, reading(server, names(), fetch_s=0.3) as reader:
        error = await refusal(reader, link(f"http://pictures.test:{server.port}{path}"))
        assert "was not received within 0.3 s" in str(error)


@pytest.mark.parametrize(
    "target",
    [
        "http://other.test/ok",
        "http://inside.test:{port}/ok",
        "http://127.0.0.1:{port}/ok",
        "http://pictures.test:1/ok",
        "file:///etc/passwd",
        "http://user:word@pictures.test:{port}/ok",
        "//other.test/ok",
    ],
)
async def test_a_redirect_off_the_list_is_not_followed(target: str) -> None:
    table = names()
    async with Server().running() as server, reading(server, table) as reader:
        at = f"http://pictures.test:{server.port}"
        await refusal(reader, link(f"{at}/to?{target.format(port=server.port)}"))
        assert len(server.seen) == 1
        assert set(table.asked) <= {"pictures.test", "inside.test"}


async def test_a_redirect_within_the_list_is_followed() -> None:
    async with Server().running() as server, reading(server, names()) as reader:
        at = f"http://pictures.test:{server.port}"
        (file,) = await reader.read([link(f"{at}/to?{at}/ok")])
        assert file.data == png()


async def test_a_listed_name_that_leads_inside_is_not_connected_to() -> None:
    async with Server().running() as server, reading(server, names()) as reader:
        error = await refusal(reader, link(f"http://inside.test:{server.port}/ok"))
        assert "not public" in str(error)
        assert server.connections == 0


async def test_a_name_is_looked_up_once_and_that_very_address_is_connected_to() -> None:
    """Guards against DNS rebinding: a second look-up could answer anything."""
    table = Names({"pictures.test": ["10.0.0.1", "127.0.0.1"]})

    async def changing(host: str, port: int) -> list[str]:
        found = await table.look_up(host, port)
        table.table["pictures.test"] = ["127.0.0.2"]
        return found

    async with Server().running() as server:
        config = PicturesConfig(hosts=(f"pictures.test:{server.port}",), networks=("127.0.0.1/32",))
        reader = PictureReader(config, look_up=changing)
        try:
            (file,) = await reader.read([link(f"http://pictures.test:{server.port}/ok")])
            assert file.data == png()
            assert table.asked == ["pictures.test"]
        finally:
            await reader.close()


async def test_without_a_list_no_name_is_even_looked_up() -> None:
    table = names()
    reader = PictureReader(PicturesConfig(), look_up=table.look_up)
    try:
        await refusal(reader, link("http://pictures.test/ok"))
        assert table.asked == []
    finally:
        await reader.close()


async def test_too_many_pictures_or_bytes_are_refused_by_the_picture_that_is_too_much() -> None:
    async with Server().running() as server, reading(server, names()) as reader:
        small = [InlinePicture(field=f"f{i}", payload=base64.b64encode(png(i)).decode()) for i in range(9)]
        with pytest.raises(InvalidRequestError, match="f8: is picture 9 of 9; send at most 8"):
            await reader.read(small)
        large = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(FILE_BYTES_MAX - 8)).decode()
        many = [InlinePicture(field=f"f{i}", payload=large) for i in range(4)]
        error = await refusal(reader, *many)
        assert "send at most 60000 in one request" in str(error)


async def test_fetches_beyond_the_limit_are_told_to_come_back() -> None:
    async with (
        Server().running() as server,
        reading(server, names(), fetches_max=1, fetches_waiting_max=1) as reader,
    ):
        at = f"http://pictures.test:{server.port}"
        held = [asyncio.create_task(reader.read([link(f"{at}/stall")])) for _ in range(2)]
        while not server.seen:
            await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await reader.read([link(f"{at}/ok")])
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        (file,) = await reader.read([link(f"{at}/ok")])
        assert file.data == png(), "a cancelled fetch gives its place back"


def hostile_part(rng: random.Random, port: int) -> object:
    """One content part that nobody should send."""
    at = f"http://pictures.test:{port}"
    paths = ("ok", "short", "claims", "endless", "gzip", "html", "noise", "headers", "loop", "status", "negative")
    targets = ("http://other.test/x", f"http://inside.test:{port}/ok", f"http://127.0.0.1:{port}/ok", "file:///x", at)
    links = (
        *(f"{at}/{rng.choice(paths)}", f"{at}/to?{rng.choice(targets)}", f"http://inside.test:{port}/ok"),
        *(
            f"http://127.0.0.1:{port}/ok",
            f"http://2130706433:{port}/ok",
            f"http://[::1]:{port}/ok",
            "http://other.test",
        ),
        *(
            f"http://pictures.test@other.test:{port}/",
            f"http://pictures.test:{port}@other.test/",
            "https://[",
            "http://",
        ),
    )
    data = bytearray(png(rng.randrange(5), side=rng.choice((1, 8, 40))))
    for _ in range(rng.choice((0, 1, 5, 40))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    encoded = base64.b64encode(data).decode()
    mangled = "".join(rng.choice((c, c, c, c, c, c, c, "!", "\u00e9", "%2")) for c in encoded[:200])
    kinds = ("image/png", "image/svg+xml", "text/html", "", "IMAGE/PNG")
    inline = f"data:{rng.choice(kinds)};base64,{rng.choice((encoded, encoded, encoded, mangled, '', '===='))}"
    url = rng.choice((rng.choice(links), inline, inline, rng.choice((None, 3, [], {}, "", "x" * 9000))))
    shape = rng.random()
    if shape < 0.9:
        return {"type": "image_url", "image_url": {"url": url}}
    return rng.choice(({"type": "image_url", "image_url": url}, {"type": url}, url, {"type": "image_url"}))


async def test_a_thousand_hostile_pictures_crash_nothing_leak_nothing_and_reach_nowhere() -> None:
    rng, table, limits = random.Random(6), names(), PictureLimits(file_bytes_max=FILE_BYTES_MAX, pixels_max=10_000)
    outcomes, fields = {"read": 0, "refused": 0}, set[str]()
    async with Server().running() as server, reading(server, table) as reader:
        await read_all(reader, [{"type": "text", "text": "warm"}], limits)
        files_before, tasks_before = open_files(), len(asyncio.all_tasks())
        for _ in range(1000):
            try:
                await read_all(reader, [hostile_part(rng, server.port)], limits)
                outcomes["read"] += 1
            except InvalidRequestError as error:
                fields.add(error.field)
                outcomes["refused"] += 1
        assert all(field.startswith("messages[0].content[0]") for field in fields)
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > tasks_before:
                await asyncio.sleep(0)
        assert set(table.asked) == {"pictures.test", "inside.test"}
        assert open_files() <= files_before + 2, outcomes
    assert outcomes["read"] > 20
    assert outcomes["refused"] > 500


async def read_all(reader: PictureReader, content: Sequence[object], limits: PictureLimits) -> tuple[PictureFile, ...]:
    """What the platform does with the pictures of a message, decoding included."""
    parts = content_parts(content, where="messages[0].content")
    files = await reader.read([part for part in parts if isinstance(part, InlinePicture | LinkedPicture)])
    for file in files:
        decode_picture(file.data, limits=limits, field=file.field)
    return files


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
