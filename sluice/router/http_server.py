"""The HTTP front: OpenAI's API, health and metrics, on aiohttp.

Reads a request, hands its Wishes to intake and its Job to the dispatcher, writes what comes
out. A client that goes away cancels its handler, and the handler releases the request
everywhere. The only place where HTTP sees an unexpected exception: it becomes a 500.
Next: `openai_schema.py`, `openai_replies.py`, `intake.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from sluice.clock import wall_ns
from sluice.domain.ids import RequestId
from sluice.errors import BodyTooLargeError, DeadlineError, InvalidRequestError, SluiceError, UnknownModelError
from sluice.router import event_ids, openai_errors, openai_replies, openai_schema
from sluice.router.dispatcher import Dispatcher
from sluice.router.intake import Intake, Wishes
from sluice.router.job import Job
from sluice.router.openai_replies import Endpoint, ReplyWriter, UsageEvent
from sluice.router.openai_schema import ChatBody, CompletionBody, GenerationBody
from sluice.router.output import Delivery
from sluice.router.request import Request
from sluice.telemetry import metrics_server
from sluice.text.tokenizer import Tokenizer

TENANT_CHARS_MAX: Final = 256
BODY_TIMEOUT_S: Final = 60.0
_JSON: Final = "application/json"
_REQUEST: Final = web.RequestKey("request", RequestId)  # of an exchange: the id its client sees
_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class HttpServer:
    """The routes of one router."""

    def __init__(self, *, intake: Intake, dispatcher: Dispatcher, tokenizer: Tokenizer, body_bytes_max: int) -> None:
        self._intake = intake
        self._dispatcher = dispatcher
        self._tokenizer = tokenizer
        self._body_bytes_max = body_bytes_max
        self._created_s = wall_ns() // 1_000_000_000

    def application(self) -> web.Application:
        """The aiohttp application; run it with `handler_cancellation=True`."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=self._body_bytes_max)
        app.on_response_prepare.append(self._send_clients_elsewhere)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model}", self._model)
        metrics_server.add_observation_routes(
            app,
            exposition=self._dispatcher.observer.metrics.exposition,
            unhealthy=tuple,
            unready=self._dispatcher.door.unready,
        )
        return app

    async def _send_clients_elsewhere(self, _: web.Request, response: web.StreamResponse) -> None:
        """Of a router that leaves: who has kept a connection gets this answer, and the next from another router."""
        if self._dispatcher.door.is_leaving:
            response.force_close()
            response.headers["Connection"] = "close"

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        with contextlib.ExitStack() as held:
            request, writer = await self._begin_completions(http, held)
            return await self._answer(http, request, writer)

    async def _begin_completions(self, http: web.Request, held: contextlib.ExitStack) -> tuple[Request, ReplyWriter]:
        with self._dispatcher.observer.refusals():
            body = openai_schema.parse(await self._read(http), CompletionBody)
            wishes = openai_schema.completion_wishes(
                body, tenant=_tenant(http), timeout_s=_timeout_s(http), traceparent=_traceparent(http)
            )
            job = await self._intake.job(_resumed(http, body, wishes), held)
            http[_REQUEST] = job.request
            writer = self._writer(job, body, Endpoint.COMPLETIONS, echo=self._echo(wishes) if body.echo else ())
            copies = await self._dispatcher.copies_of(job)
            return self._dispatcher.submit(job, _delivery(body), copies), writer

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        with contextlib.ExitStack() as held:
            request, writer = await self._begin_chat(http, held)
            return await self._answer(http, request, writer)

    async def _begin_chat(self, http: web.Request, held: contextlib.ExitStack) -> tuple[Request, ReplyWriter]:
        with self._dispatcher.observer.refusals():
            body = openai_schema.parse(await self._read(http), ChatBody)
            wishes = openai_schema.chat_wishes(
                body, tenant=_tenant(http), timeout_s=_timeout_s(http), traceparent=_traceparent(http)
            )
            job = await self._intake.job(_resumed(http, body, wishes), held)
            http[_REQUEST] = job.request
            writer = self._writer(job, body, Endpoint.CHAT, echo=())
            copies = await self._dispatcher.copies_of(job)
            return self._dispatcher.submit(job, _delivery(body), copies), writer

    def _writer(self, job: Job, body: GenerationBody, endpoint: Endpoint, *, echo: tuple[str, ...]) -> ReplyWriter:
        return ReplyWriter(
            job,
            endpoint,
            model=self._intake.model,
            tokenizer=self._tokenizer,
            usage_event=_usage_event(body),
            echo=echo,
        )

    async def _answer(self, http: web.Request, request: Request, writer: ReplyWriter) -> web.StreamResponse:
        try:
            # Errors before the first token still get their own status code.
            pieces = await request.outbox.take()
            if not request.outbox.is_streaming:
                return web.Response(body=writer.body(pieces), headers=_named(http), content_type=_JSON)
            response = web.StreamResponse(headers=_STREAM_HEADERS | _named(http))
            await response.prepare(http)
            while pieces:
                data = writer.events(pieces)
                if data:
                    await response.write(data)
                try:
                    pieces = await request.outbox.take()
                except SluiceError as error:
                    await response.write(openai_replies.error_event(openai_errors.body_of(error)))
                    return response
            await response.write(writer.last_events())
            return response
        except ConnectionError:
            return response  # the client is gone; nobody reads what is returned
        finally:
            self._dispatcher.release(request)

    async def _models(self, _: web.Request) -> web.Response:
        context_tokens = self._tokenizer.context_tokens
        body = openai_replies.model_list(self._intake.model, created_s=self._created_s, context_tokens=context_tokens)
        return web.Response(body=body, content_type=_JSON)

    async def _model(self, http: web.Request) -> web.Response:
        asked = http.match_info["model"]
        if asked != self._intake.model:
            raise UnknownModelError(model=asked, served=(self._intake.model,))
        context_tokens = self._tokenizer.context_tokens
        body = openai_replies.one_model(asked, created_s=self._created_s, context_tokens=context_tokens)
        return web.Response(body=body, content_type=_JSON)

    async def _read(self, http: web.Request) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise BodyTooLargeError(bytes_max=self._body_bytes_max) from error
        except TimeoutError as error:
            raise DeadlineError(f"body: not received within {BODY_TIMEOUT_S:g} s; send it faster") from error

    def _echo(self, wishes: Wishes) -> tuple[str, ...]:
        return tuple(
            prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
            for prompt in wishes.prompts
            if isinstance(prompt, str | tuple)
        )


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except SluiceError as error:
        return web.Response(
            status=openai_errors.status_of(error),
            body=openai_errors.body_of(error),
            headers=openai_errors.headers_of(error) | _named(request),
            content_type=_JSON,
        )
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}; see GET /v1/models and the API reference"
        body = openai_errors.error_body(message, kind="invalid_request_error", code="unknown_url")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.Response(status=error.status, body=body, headers=headers, content_type=_JSON)
    except Exception:  # noqa: BLE001 - the HTTP edge answers whatever happens
        _log.exception("%s %s failed", request.method, request.path)
        body = openai_errors.error_body("an internal error; see the router's log", kind="server_error")
        return web.Response(status=500, body=body, content_type=_JSON)


def _named(http: web.Request) -> dict[str, str]:
    """Which request an answer is of, a refusal included: `sluice explain` knows it by this name."""
    return {"x-request-id": http[_REQUEST]} if _REQUEST in http else {}


def _resumed(http: web.Request, body: GenerationBody, wishes: Wishes) -> Wishes:
    """With a Last-Event-ID: the earlier request that broke off there. Raises InvalidRequestError."""
    last = http.headers.get("last-event-id")
    if last is None:
        return wishes
    if not body.stream:
        remedy = "set stream to true or remove it"
        raise InvalidRequestError(field="last-event-id", problem="is given without stream", remedy=remedy)
    request, next_index = event_ids.parse(last)
    return replace(wishes, request=request, next_index=next_index)


def _usage_event(body: GenerationBody) -> UsageEvent:
    options = body.stream_options
    return UsageEvent.SEND if options is not None and options.include_usage else UsageEvent.OMIT


def _delivery(body: GenerationBody) -> Delivery:
    return Delivery.EACH_STEP if body.stream else Delivery.AT_END


def _traceparent(http: web.Request) -> str:
    return http.headers.get("traceparent", "")


def _tenant(http: web.Request) -> str:
    tenant = http.headers.get("x-sluice-tenant", "")
    if len(tenant) > TENANT_CHARS_MAX:
        remedy = f"send at most {TENANT_CHARS_MAX}"
        raise InvalidRequestError(field="x-sluice-tenant", problem=f"has {len(tenant)} characters", remedy=remedy)
    return tenant


def _timeout_s(http: web.Request) -> float | None:
    text = http.headers.get("x-sluice-timeout-s")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        remedy = "send a positive number of seconds"
        raise InvalidRequestError(field="x-sluice-timeout-s", problem="is not a number", remedy=remedy) from error
