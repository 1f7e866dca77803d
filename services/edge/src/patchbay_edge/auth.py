"""`/auth`: the operator's own sign-in of backends that take one (`credentials: signed_in`)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from patchbay.dispatch.callers import Identity
from patchbay.dispatch.transport import WorkerFailure
from patchbay.errors import AUTHENTICATION, NOT_FOUND, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.settings import KINDS, Backend
from patchbay.state.registry import WorkerRecord
from patchbay_edge.bodies import read_body
from patchbay_edge.conditions import condition, record_of
from patchbay_edge.operators import require_json, require_operator
from patchbay_edge.status import ask_worker
from patchbay_proto.v1.provider_pb2 import AccountStatus, LoginRequest, LoginResponse, LogoutRequest

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

log = structlog.get_logger(__name__)

# The worker starts a program, which asks the provider.
_TIMEOUT_SECONDS = 60.0
# Of a page that has a code in its address.
_PAGE_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


Body = TypeVar("Body", bound=msgspec.Struct)


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    backend: str
    login_id: str = ""
    code: str = ""
    device: bool = False
    account: str = ""


class _Import(msgspec.Struct, forbid_unknown_fields=True):
    backend: str
    sign_in: msgspec.Raw
    account: str = ""


class _Logout(msgspec.Struct, forbid_unknown_fields=True):
    backend: str
    account: str = ""


def auth_router(edge: Edge) -> APIRouter:
    """The endpoints, for operators only, and the one that a provider sends an operator's browser back to."""
    router = APIRouter()

    @router.get("/auth/status")
    async def status(request: Request) -> dict[str, object]:
        require_operator(edge.callers, request)
        accounts = await _accounts(edge)
        return {"backends": {name: _status(edge, one) | accounts.get(name, {}) for name, one in edge.backends.items()}}

    @router.post("/auth/login")
    async def login(request: Request) -> dict[str, object]:
        operator, body = await _asked(edge, request, _Login)
        backend = _backend(edge, body.backend)
        if body.login_id or body.code:
            worker, answer = await _finish(edge, backend, body)
        else:
            worker, answer = await _begin(
                edge, backend, LoginRequest(backend=backend.name, device=body.device, account=body.account)
            )
        if answer.HasField("error"):
            raise PatchbayError(answer.error)
        log.info(
            "login",
            backend=backend.name,
            worker_id=worker.id,
            key_id=operator.caller.key_id,
            step="end" if body.login_id else "begin",
            signed_in=answer.signed_in,
        )
        return _told(backend, worker, answer)

    @router.post("/auth/import")
    async def take(request: Request) -> dict[str, object]:
        operator, body = await _asked(edge, request, _Import)
        backend = _backend(edge, body.backend)
        sign_in = LoginRequest(backend=backend.name, sign_in=bytes(body.sign_in), account=body.account)
        worker, answer = await _begin(edge, backend, sign_in)
        if answer.HasField("error"):
            raise PatchbayError(answer.error)
        log.info("login", backend=backend.name, worker_id=worker.id, key_id=operator.caller.key_id, step="import")
        return _told(backend, worker, answer)

    @router.post("/auth/logout")
    async def logout(request: Request) -> dict[str, object]:
        operator, body = await _asked(edge, request, _Logout)
        backend = _backend(edge, body.backend)
        log.info("logout", backend=backend.name, key_id=operator.caller.key_id)
        return await _log_out(edge, backend, body.account)

    # The second one is where the issuer of ChatGPT sign-ins sends a browser, to port 1455 of its own machine.
    @router.get("/oauth/callback")
    @router.get("/auth/callback")
    async def callback(request: Request) -> PlainTextResponse:
        return await _callback(edge, request)

    return router


async def _asked(edge: Edge, request: Request, shape: type[Body]) -> tuple[Identity, Body]:
    """Who asks, an operator, and for what. Raises PatchbayError."""
    operator = require_operator(edge.callers, request)
    require_json(request)
    return operator, await read_body(request, shape)


def _told(backend: Backend, worker: WorkerRecord, answer: LoginResponse) -> dict[str, object]:
    told: dict[str, object] = {
        "backend": backend.name,
        "login_id": f"{worker.id}.{answer.login_id}" if answer.login_id else "",
        "url": answer.url,
        "detail": answer.detail,
        "signed_in": answer.signed_in,
    }
    return told | ({"user_code": answer.user_code} if answer.user_code else {})


async def _callback(edge: Edge, request: Request) -> PlainTextResponse:
    """Ends the login that the `state` names. Nobody but who began it knows that, so that no key is asked for here."""
    query = request.query_params
    backend_name, _, rest = query.get("state", "").partition(".")
    worker_id, _, login_id = rest.partition(".")
    backend = edge.backends.get(backend_name)
    if backend is None or not worker_id or not login_id:
        raise InvalidRequest("state: is not that of a login which was begun here", "state")
    if not query.get("code"):
        said = query.get("error", "no code came back")[:200]
        raise PatchbayError(make_error(AUTHENTICATION, f"the provider has refused the login: {said}"))
    login = _Login(backend=backend.name, login_id=f"{worker_id}.{login_id}", code=request.url.query)
    worker, answer = await _finish(edge, backend, login)
    if answer.HasField("error"):
        raise PatchbayError(answer.error)
    log.info("login", backend=backend.name, worker_id=worker.id, step="callback", signed_in=answer.signed_in)
    return PlainTextResponse(f"{answer.detail or 'signed in'}. You may close this page.\n", headers=_PAGE_HEADERS)


async def _accounts(edge: Edge) -> dict[str, dict[str, object]]:
    """The accounts behind each backend that has several, as its workers say now: `{"accounts": [...]}` by backend."""
    names = [backend.name for backend in edge.backends.values() if KINDS[backend.kind].signs_in]
    workers = [worker for worker in edge.directory.workers if any(record_of(worker, name) for name in names)]
    found: dict[str, dict[str, dict[str, object]]] = {}
    for answer in await asyncio.gather(*(ask_worker(edge, worker) for worker in workers)):
        for status in answer.backends if answer is not None else ():
            for account in status.accounts:
                # Replicas share them; what one does not know may be in a file on another one's machine.
                found.setdefault(status.name, {}).setdefault(account.name, _describe(account))
    return {name: {"accounts": list(accounts.values())} for name, accounts in found.items()}


def _describe(account: AccountStatus) -> dict[str, object]:
    return {
        "name": account.name,
        "plan": account.plan,
        "signed_in": account.signed_in,
        "detail": account.detail,
        "windows": [
            {
                "name": window.name,
                "used_percent": window.used_percent,
                "minutes": window.minutes,
                "resets_at": window.resets_at,
            }
            for window in account.windows
        ],
        "cooling_until": account.cooling_until,
    }


def _status(edge: Edge, backend: Backend) -> dict[str, object]:
    said = [(one, record_of(one, backend.name)) for one in edge.directory.for_backend(backend.name)]
    records = [(worker.id, record) for worker, record in said if record is not None]
    is_now = condition(backend, [record for _, record in records])
    return {
        "kind": backend.kind,
        "credentials": backend.credentials,
        "signed_in": is_now.signed_in,
        "detail": is_now.detail,
        "workers": [
            {"id": worker_id, "signed_in": record.signed_in, "detail": record.detail} for worker_id, record in records
        ],
    }


def _backend(edge: Edge, name: str) -> Backend:
    if not name:
        raise InvalidRequest("backend: is empty", "backend")
    backend = edge.backends.get(name)
    if backend is None:
        known = ", ".join(sorted(edge.backends)) or "none"
        message = f"there is no backend `{name}` (backends here: {known})"
        raise PatchbayError(make_error(NOT_FOUND, message, parameter="backend"))
    return backend


def _replicas(edge: Edge, backend: Backend) -> list[WorkerRecord]:
    replicas = edge.directory.for_backend(backend.name)
    if not replicas:
        message = f"no live worker serves the backend `{backend.name}`"
        raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=2))
    return replicas


async def _begin(edge: Edge, backend: Backend, request: LoginRequest) -> tuple[WorkerRecord, LoginResponse]:
    replicas = _replicas(edge, backend)
    # Each worker's machine may have a sign-in of its own: those come first that have none.
    without = [one for one in replicas if (record := record_of(one, backend.name)) and not record.signed_in]
    worker = random.choice(without or replicas)
    return worker, await edge.connections.get(worker.address).login(request, timeout=_TIMEOUT_SECONDS)


async def _finish(edge: Edge, backend: Backend, body: _Login) -> tuple[WorkerRecord, LoginResponse]:
    """Ends a login at the one worker that has begun it and waits for its code."""
    if not body.code.strip() and not body.device:
        raise InvalidRequest("code: is missing; it is what the page showed at the end", "code")
    worker_id, dot, login_id = body.login_id.partition(".")
    if not (worker_id and dot and login_id):
        raise InvalidRequest("login_id: must be the one that the login began with", "login_id")
    worker = next((one for one in edge.directory.workers if one.id == worker_id), None)
    if worker is None:
        raise _gone(backend, worker_id)
    request = LoginRequest(backend=backend.name, login_id=login_id, code=body.code.strip())
    try:
        return worker, await edge.connections.get(worker.address).login(request, timeout=_TIMEOUT_SECONDS)
    except WorkerFailure:
        raise _gone(backend, worker_id) from None


def _gone(backend: Backend, worker_id: str) -> PatchbayError:
    message = (
        f"the worker `{worker_id}`, where this login began, is gone or stopping, and the login with it: begin again, "
        f'with {{"backend": "{backend.name}"}}'
    )
    return PatchbayError(make_error(NOT_FOUND, message, http_status=410, parameter="login_id"))


async def _log_out(edge: Edge, backend: Backend, account: str) -> dict[str, object]:
    """Signs out everywhere: each worker's machine may have a sign-in of its own."""
    workers: list[dict[str, object]] = []
    failures: list[PatchbayError] = []
    # One after the other, since on one machine they share it.
    for worker in _replicas(edge, backend):
        request = LogoutRequest(backend=backend.name, account=account)
        try:
            answer = await edge.connections.get(worker.address).logout(request, timeout=_TIMEOUT_SECONDS)
            if answer.HasField("error"):
                raise PatchbayError(answer.error)
        except PatchbayError as error:
            failures.append(error)
        else:
            workers.append({"id": worker.id, "signed_in": answer.signed_in, "detail": answer.detail})
    if workers:
        # An account that replicas share is gone from all of them with the first.
        failures = [one for one in failures if one.error.code != NOT_FOUND]
    if failures:
        raise failures[0]
    return {
        "backend": backend.name,
        "signed_in": any(worker["signed_in"] for worker in workers),
        "detail": "; ".join(dict.fromkeys(str(worker["detail"]) for worker in workers if worker["detail"])),
        "workers": workers,
    }
