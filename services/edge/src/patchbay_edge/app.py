"""The edge's ASGI application: the hot paths raw, everything else through FastAPI."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from patchbay.dispatch.callers import Callers
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import SDK_PREFIX, Router
from patchbay.dispatch.transport import Connections
from patchbay.errors import INTERNAL, PatchbayError, code_of_status, make_error
from patchbay.settings import Settings
from patchbay.state import keys
from patchbay.state.admission import Admission, Limits
from patchbay.state.codebuff_runs import CodebuffRuns
from patchbay.state.connection import connect
from patchbay.state.permissions import Permissions
from patchbay.state.registry import Announcer, Directory, EdgeRecord
from patchbay.state.responses import Responses
from patchbay.state.sealing import make_sealer
from patchbay.telemetry import metrics
from patchbay_edge import catalog, permissions
from patchbay_edge.auth import auth_router
from patchbay_edge.catalog import Catalog
from patchbay_edge.codebuff.chat import CodebuffChats
from patchbay_edge.codebuff.http import codebuff_router
from patchbay_edge.codebuff.socket import CodebuffSockets
from patchbay_edge.endpoints import API_PREFIX, CODEX_PREFIX, Endpoints, dialect_of
from patchbay_edge.exchange import Exchange, Receive, Scope, Send
from patchbay_edge.gateway import Gateway
from patchbay_edge.readiness import readiness
from patchbay_edge.responses.routes import responses_router
from patchbay_edge.responses.sockets import Sockets
from patchbay_edge.responses.turns import Turns
from patchbay_edge.status import status_router

log = structlog.get_logger(__name__)

VERSION = metadata.version("patchbay-edge")


class Edge:
    """Everything one edge process is made of."""

    def __init__(self, settings: Settings) -> None:
        timeout = settings.redis.timeout_seconds
        self.settings = settings
        # What ended the work beside the requests, and what to do then.
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.backends = settings.enabled_backends()
        self.redis = connect(settings.redis.connect_url(), timeout=timeout)
        self.directory = Directory(self.redis, timeout=timeout)
        self.connections = Connections()
        self.picker = Picker(self.directory, self.connections)
        self.router = Router(settings.enabled_routes(), self.backends, settings.default_backend)
        limits = Limits(
            requests_per_minute=settings.limits.requests_per_minute,
            concurrent_requests=settings.limits.concurrent_requests,
            max_connections=settings.limits.max_connections,
        )
        record = EdgeRecord(id=f"edge-{uuid.uuid4().hex[:12]}", version=VERSION, started_at=time.time())
        self.announcer = Announcer(self.redis, lambda: record, timeout=timeout)
        self.id = record.id
        self.permissions = Permissions(self.redis, timeout=timeout)
        self.admission = Admission(
            self.redis,
            replica_id=record.id,
            limits=limits,
            lease_seconds=settings.limits.lease_seconds,
            on_redis_down=settings.limits.on_redis_down,
            live_replicas=lambda: max(1, self.directory.edges),
            timeout=timeout,
        )
        self.callers = Callers(settings.security, limits)
        self.catalog = Catalog(self.router, self.backends, self.picker, self.connections)
        self.endpoints = Endpoints(route.prefix for route in settings.enabled_routes() if route.prefix)
        self.responses = Responses(
            self.redis,
            sealer=make_sealer(settings.security.sealing_keys()),
            ttl_seconds=settings.sessions.ttl_seconds,
            max_bytes=settings.sessions.max_bytes,
            timeout=timeout,
        )
        self.codebuff_runs = CodebuffRuns(self.redis, ttl_seconds=settings.codebuff.runs_ttl_seconds, timeout=timeout)
        self.codebuff_chats = CodebuffChats(settings.codebuff, self.codebuff_runs)
        self.gateway = Gateway(
            settings,
            callers=self.callers,
            admission=self.admission,
            router=self.router,
            picker=self.picker,
            connections=self.connections,
            turns=Turns(self.responses),
            codebuff=self.codebuff_chats,
        )
        self.sockets = Sockets(
            settings,
            endpoints=self.endpoints,
            callers=self.callers,
            admission=self.admission,
            gateway=self.gateway,
        )
        self.codebuff_admission = Admission(
            self.redis,
            replica_id=record.id,
            limits=Limits(
                concurrent_requests=settings.codebuff.max_connections_per_key,
                max_connections=settings.codebuff.max_connections,
            ),
            lease_seconds=settings.limits.lease_seconds,
            on_redis_down=settings.limits.on_redis_down,
            live_replicas=lambda: max(1, self.directory.edges),
            timeout=timeout,
            names=keys.CODEBUFF_SOCKETS,
        )
        self.codebuff_sockets = CodebuffSockets(
            settings,
            callers=self.callers,
            admission=self.codebuff_admission,
            directory=self.directory,
            connections=self.connections,
            draining=lambda: self.gateway.draining,
        )

    async def drain_sockets(self) -> None:
        """Closes every WebSocket as soon as nothing is under way in it."""
        await asyncio.gather(self.sockets.drain(), self.codebuff_sockets.drain(self.settings.server.drain_seconds))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs what goes on beside the requests."""
        await self.directory.refresh()
        metrics.REDIS_DOWN.set_function(lambda: self.admission.degraded or self.directory.stale)
        background = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("directory", self.directory.run()),
                ("admission", self.admission.run()),
                ("announcer", self.announcer.run()),
                ("codebuff-admission", self.codebuff_admission.run()),
                ("codebuff-chats", self.codebuff_chats.run()),
                ("codebuff-sockets", self.codebuff_sockets.run()),
            )
        ]
        for task in background:
            task.add_done_callback(self._on_background_end)
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await self.connections.aclose()
            await self.redis.aclose()

    def _on_background_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        # None of them ends by itself; without one of them an edge must not go on as if nothing were.
        self.failure = task.exception()
        log.critical("background_work_failed", work=task.get_name(), exc_info=self.failure)
        self.on_failure()


class Application:
    """Sends the hot paths to the gateway and everything else to FastAPI."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._rest = build_rest(edge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._edge.endpoints.find(scope["path"])
            if endpoint is not None:
                exchange = Exchange(scope, receive, send, request_id=f"req_{uuid.uuid4().hex}")
                await self._edge.gateway.serve(endpoint, exchange)
                return
        if scope["type"] == "websocket":
            if scope["path"] == self._edge.codebuff_sockets.path:
                await self._edge.codebuff_sockets.serve(scope, receive, send)
                return
            await self._edge.sockets.serve(scope, receive, send)
            return
        if scope["type"] == "http":
            scope["patchbay_request_id"] = request_id = f"req_{uuid.uuid4().hex}"
            send = _with_request_id(send, request_id)
        await self._rest(scope, receive, send)


def build_rest(edge: Edge) -> FastAPI:
    """Health, readiness, model lists, statuses, sign-in, and the errors of paths that nothing serves."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with edge.running():
            yield

    app = FastAPI(title="Patchbay", version=VERSION, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def root() -> dict[str, str]:
        return {"service": "patchbay", "version": VERSION}

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> JSONResponse:
        status, body = readiness(edge)
        return JSONResponse(body, status_code=status)

    for prefix in edge.endpoints.prefixes:
        _add_models(app, edge, prefix)
    app.include_router(responses_router(edge))
    app.include_router(status_router(edge))
    app.include_router(auth_router(edge))
    app.include_router(permissions.router(edge))
    app.include_router(codebuff_router(edge))

    @app.exception_handler(PatchbayError)
    async def on_patchbay_error(request: Request, error: PatchbayError) -> Response:
        return _error_response(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        status, headers = error.status_code, dict(error.headers or {})
        if status == 404 and edge.endpoints.find(request.url.path) is not None:
            # A POST to it goes to the gateway.
            status, headers = 405, {"allow": "POST"}
        message = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible here"}
        text = message.get(status, str(error.detail))
        failure = make_error(code_of_status(status), text, http_status=status)
        return _error_response(request, PatchbayError(failure), headers)

    @app.exception_handler(ClientDisconnect)
    async def on_client_gone(_: Request, __: Exception) -> Response:
        # It left before its request was whole, so that nobody reads this.
        metrics.EDGE_DISCONNECTS.inc()
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def on_exception(request: Request, _: Exception) -> Response:
        return _error_response(request, PatchbayError(make_error(INTERNAL, "internal error")))

    return app


def _add_models(app: FastAPI, edge: Edge, prefix: str) -> None:
    @app.get(f"{prefix}/v1/models")
    async def list_models(request: Request) -> dict[str, object]:
        identity = edge.callers.identify(request.headers)
        models = await edge.catalog.models(prefix, identity.credential)
        if "client_version" in request.query_params:
            return catalog.codex_list(models)
        anthropic = "anthropic-version" in request.headers
        return catalog.anthropic_list(models) if anthropic else catalog.openai_list(models)

    if prefix in (API_PREFIX, SDK_PREFIX, CODEX_PREFIX):
        app.get(f"{prefix}/models")(list_models)

    @app.get(f"{prefix}/v1/models/{{name:path}}")
    async def get_model(name: str, request: Request) -> dict[str, object]:
        identity = edge.callers.identify(request.headers)
        model = await edge.catalog.model(prefix, name, identity.credential)
        anthropic = "anthropic-version" in request.headers
        return catalog.anthropic_model(model) if anthropic else catalog.openai_model(model)


def _error_response(request: Request, failure: PatchbayError, headers: dict[str, str] | None = None) -> Response:
    dialect = dialect_of(request.url.path, request.headers.keys())
    written = dialect.errors.write(failure.error, request.scope.get("patchbay_request_id", ""))
    return Response(
        written.body,
        status_code=written.status,
        media_type=written.content_type,
        headers={**(headers or {}), **written.headers},
    )


def _with_request_id(send: Send, request_id: str) -> Send:
    ids = {name: request_id.encode() for name in (b"request-id", b"x-request-id", b"x-patchbay-request-id")}

    async def send_with_id(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            # A dialect's error brings one of them itself; no header is to be there twice.
            headers = dict(message.get("headers", ())) | ids  # type: ignore[call-overload]
            message = {**message, "headers": list(headers.items())}
        await send(message)

    return send_with_id  # type: ignore[return-value]
