"""Fetches linked pictures: within time and size, from allowed hosts and addresses only, redirects included.

A name is looked up once per hop and the connection goes to the very addresses that were checked, so that a
name that changes its mind in between (DNS rebinding) gains nothing. No cookies, no credentials, no proxies, no
decompression. Decides nothing about which hosts: see `link_rules.py`.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sluice.errors import InvalidRequestError, OverloadedError
from sluice.router.link_rules import Address, LinkRules, forbidden_address
from sluice.router.picture_source import LinkedPicture

CHUNK_BYTES: Final = 64 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "sluice"}

LookUp = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and a port to addresses, as text. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one fetch may cost, and how many run at once."""

    time_s: float
    redirects_max: int
    running_max: int
    waiting_max: int


class PictureFetcher:
    """Fetches for one router. Create it inside a running loop; close it in the same."""

    def __init__(self, rules: LinkRules, limits: FetchLimits, *, look_up: LookUp | None = None) -> None:
        self._rules = rules
        self._limits = limits
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(rules, look_up or _look_up),
            use_dns_cache=False,
            force_close=True,
            limit=limits.running_max,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=limits.time_s),
        )
        self._slots = asyncio.Semaphore(limits.running_max)
        self._asked = 0

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def fetch(self, picture: LinkedPicture, *, bytes_max: int) -> bytes:
        """The bytes behind a link. Raises InvalidRequestError for what the link is to blame for, OverloadedError."""
        url = self._rules.checked(picture.url, field=picture.field)
        if self._asked >= self._limits.running_max + self._limits.waiting_max:
            raise OverloadedError(f"{self._asked} pictures are being fetched, the limit", retry_after_s=1.0)
        self._asked += 1
        try:
            async with asyncio.timeout(self._limits.time_s), self._slots:
                return await self._follow(url, picture.field, bytes_max)
        except TimeoutError as error:
            problem = f"was not received within {self._limits.time_s:g} s"
            raise _refusal(picture.field, problem, "send the picture as a data URL") from error
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            problem = f"could not be fetched ({_brief(error)})"
            raise _refusal(picture.field, problem, "check the link, or send the picture as a data URL") from error
        finally:
            self._asked -= 1

    async def _follow(self, url: URL, field: str, bytes_max: int) -> bytes:
        for _ in range(self._limits.redirects_max + 1):
            try:
                async with self._session.get(url, headers=_HEADERS, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await _body(response, field, bytes_max)
                    target = _target(url, response.headers.get("Location", ""), field)
            except _ForbiddenAddressError as error:
                raise forbidden_address(field) from error
            url = self._rules.checked(target, field=field)
        problem = f"redirects more than {self._limits.redirects_max} times"
        raise _refusal(field, problem, "send the link it ends at, or the picture as a data URL")


def _target(url: URL, location: str, field: str) -> str:
    """Where a redirect leads, as text to be checked like any other link."""
    target = url.join(URL(location)) if location else url
    if not location or (url.scheme == "https" and target.scheme != "https"):
        raise _refusal(field, "redirects to nowhere or away from https", "send the link it ends at")
    return str(target)


async def _body(response: aiohttp.ClientResponse, field: str, bytes_max: int) -> bytes:
    if response.status != 200:
        raise _refusal(field, f"was answered with status {response.status}", "send a link that anyone may read")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _refusal(field, "was answered compressed though not asked to be", "send the picture as a data URL")
    too_large = f"holds more than {bytes_max} bytes"
    if (response.content_length or 0) > bytes_max:
        raise _refusal(field, too_large, "send a smaller picture")
    data = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        data += chunk
        if len(data) > bytes_max:
            raise _refusal(field, too_large, "send a smaller picture")
    return bytes(data)


class _ForbiddenAddressError(Exception):
    """None of a name's addresses may be connected to."""


class _CheckedResolver(AbstractResolver):
    """Gives a connection only addresses that may be reached. aiohttp connects to exactly what this returns."""

    def __init__(self, rules: LinkRules, look_up: LookUp) -> None:
        self._rules = rules
        self._look_up = look_up

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        """All reachable addresses of `host`. Raises _ForbiddenAddressError when there is none, OSError."""
        found = [_address(text) for text in await self._look_up(host, port)]
        allowed = [address for address in found if address is not None and self._rules.reaches(address)]
        if not allowed:
            raise _ForbiddenAddressError
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        """Holds nothing."""


def _address(text: str) -> Address | None:
    """None for a scoped (link-local) address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


async def _look_up(host: str, port: int) -> list[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def _refusal(field: str, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(field=field, problem=problem, remedy=remedy)
