"""The HTTP of an endpoint: routes, keys, limits, errors in OpenAI's shape, health and metrics.

    app = make(service, api_key="")
    uvicorn.Server(uvicorn.Config(app)).run()

| path | what |
|---|---|
| `/v1/models`, `/v1/models/{id}` | the names that requests may ask for |
| `/v1/chat/completions`, `/v1/completions` | answers |
| `/health`, `/metrics` | whether it lives; counts as Prometheus reads them |
| `/` | a page to talk with two models side by side |
"""

import asyncio
import contextlib
import functools
import hmac
import importlib.resources
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ftjax.serve import exposition, fields
from ftjax.serve.fields import Refusal
from ftjax.serve.service import Service

# The page brings all it needs; whatever else a text might smuggle in is not loaded.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
STARTED = int(time.time())


def make(service: Service, *, api_key: str = "") -> Starlette:
    """Make the ASGI application; it starts the engines and ends them, as its server does.

    api_key: what `/v1` asks of its clients as a bearer token; empty for none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app):
        loop = asyncio.get_running_loop()
        deliver = functools.partial(loop.call_soon_threadsafe, service.deliver)
        for engine in service.engines:
            engine.start(deliver)
        yield
        for engine in service.engines:
            await asyncio.to_thread(engine.close, timeout_s=0)

    def guarded(path: str, handler, method: str = "GET") -> Route:
        endpoint = functools.partial(_guarded, service, api_key, path, handler)
        return Route(path, endpoint, methods=[method])

    routes = [
        Route("/", _page), Route("/health", functools.partial(_health, service)),
        Route("/metrics", functools.partial(_metrics, service)),
        guarded("/v1/models", _models), guarded("/v1/models/{name:path}", _model),
        guarded("/v1/chat/completions", _chat, "POST"),
        guarded("/v1/completions", _completion, "POST"),
    ]  # fmt: skip
    handlers = {Refusal: _refused, HTTPException: _http_error}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


async def _guarded(
    service: Service, api_key: str, path: str, handler: Callable, request: Request
) -> Response:
    """Answer a client that has the key, and count the answer."""
    try:
        _check_key(request, api_key)
        response = await handler(service, request)
    except Refusal as refusal:
        service.answered[path, refusal.status] += 1
        raise
    service.answered[path, 200] += 1
    return response


def _check_key(request: Request, api_key: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if api_key and not hmac.compare_digest(given.encode(), api_key.encode()):
        raise Refusal(
            "authorization: got no valid key; expected `Authorization: Bearer KEY`", status=401,
            code="invalid_api_key", headers={"www-authenticate": "Bearer"},
        )  # fmt: skip


async def _page(request: Request) -> Response:
    page = importlib.resources.files("ftjax.serve").joinpath("chat.html").read_text("utf-8")
    return HTMLResponse(page, headers={"content-security-policy": POLICY})


async def _health(service: Service, request: Request) -> Response:
    dead = sum(not engine.is_alive for engine in service.engines)
    if dead:
        return JSONResponse({"status": f"{dead} queues have ended"}, status_code=503)
    return JSONResponse({"status": "ok"})


async def _metrics(service: Service, request: Request) -> Response:
    return PlainTextResponse(exposition.text(service), media_type=exposition.TYPE)


def _described(service: Service, name: str) -> dict:
    return dict(
        id=name, object="model", created=STARTED, owned_by="ftjax",
        max_model_len=service.length,
        # For the page: whether a prompt of this run is a text or a conversation.
        prompt_form="chat" if service.form.wraps else "text",
        has_chat_template=service.form.template is not None,
    )  # fmt: skip


async def _models(service: Service, request: Request) -> Response:
    data = [_described(service, name) for name in service.models]
    return JSONResponse({"object": "list", "data": data})


async def _model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    service.model(name)
    return JSONResponse(_described(service, name))


async def _chat(service: Service, request: Request) -> Response:
    return await _answer("chat", service, request)


async def _completion(service: Service, request: Request) -> Response:
    return await _answer("completion", service, request)


async def _answer(kind: str, service: Service, request: Request) -> Response:
    body = await _body(service, request)
    return await service.answer(kind, fields.parse(body), size=len(body))


async def _body(service: Service, request: Request) -> bytes:
    # A page of another site can send any text without asking, but not JSON as such.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(f"content-type: got {kind!r}; expected application/json", status=415)
    parts, size = [], 0
    try:
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > service.max_body:
                raise Refusal(
                    f"body: got more than {service.max_body} bytes; expected less; shorten it",
                    status=413, headers={"connection": "close"},
                )  # fmt: skip
    except ClientDisconnect:
        raise Refusal("body: got a part of it", status=400) from None
    return b"".join(parts)


async def _refused(request: Request, refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, status_code=refusal.status, headers=refusal.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Answer a path that is not there, or a method that it has not."""
    refusal = Refusal(f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(refusal.body, status_code=error.status_code, headers=error.headers)
