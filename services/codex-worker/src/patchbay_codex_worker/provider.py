"""A backend of kind `codex`: the Responses dialect, over HTTP, with the operator's ChatGPT accounts."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from patchbay.canonical import ChatEvent
from patchbay.dispatch.attempts import judge
from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings import Backend, Settings, SettingsError
from patchbay.upstream.http import HttpUpstream
from patchbay.upstream.profile import Profile
from patchbay.upstream.provider import HttpProvider, Prepared
from patchbay.upstream.transport import Response, read_all
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.accounts import make_pool
from patchbay_codex_worker.transport import SESSION_HEADER, USAGE_LIMIT, AccountResponse, AccountUpstream
from patchbay_proto.v1.provider_pb2 import BackendStatus, ChatRequest, Credential, Model

Quirks = TypeVar("Quirks")

_MAX_LIST_BYTES = 8 * 1024 * 1024


class _ModelInfo(msgspec.Struct):
    slug: str
    display_name: str | None = None
    visibility: str | None = None


class _Models(msgspec.Struct):
    models: list[msgspec.Raw]


_decode_info = msgspec.json.Decoder(_ModelInfo).decode


class _AtLimit(Exception):
    """The account that was asked is at its limit, and nothing of an answer has come; `events` say so."""

    def __init__(self, events: list[ChatEvent]) -> None:
        super().__init__()
        self.events = events


class CodexProvider(HttpProvider[Quirks]):
    """Serves one backend.

    Args:
        backend: Of kind `codex`.
        profile: What the ChatGPT backend is like.
        settings: The configuration.
        shared: What this worker's providers share.

    Raises:
        SettingsError: The file of `inject_instructions` cannot be read.
    """

    def __init__(self, backend: Backend, profile: Profile[Quirks], settings: Settings, shared: Shared) -> None:
        http = HttpUpstream(backend.base_url, backend.timeouts)
        self._pool, sign_in = make_pool(backend, settings, shared, upstream=http)
        upstream = AccountUpstream(self._pool, http)
        super().__init__(backend, profile, upstream)
        self.sign_in = sign_in
        assert backend.codex is not None
        self._instructions = _text_of(backend.name, backend.codex.inject_instructions)

    async def start(self) -> None:
        """Finds the accounts, and keeps an eye on them."""
        await self._pool.start()

    def status(self) -> BackendStatus:
        status = super().status()
        status.signed_in, status.detail = self._pool.signed_in, self._pool.detail
        status.accounts.extend(self._pool.statuses())
        return status

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        if SESSION_HEADER not in request.headers and request.session_id:
            # The same for a conversation wherever it is answered; the client's own name for it stays here.
            named = f"{request.caller.key_id}\0{request.session_id}"
            request.headers[SESSION_HEADER] = str(uuid.uuid5(uuid.NAMESPACE_OID, named))
        # Each account says once at most that it is at its limit: then it rests, and another one is asked.
        said: list[ChatEvent] = []
        for _ in range(len(self._pool.places()) + 1):
            try:
                async with aclosing(super().chat(request)) as answer:
                    async for events in answer:
                        yield events
            except _AtLimit as limit:
                said = limit.events
            else:
                return
        yield said

    async def _answer(self, response: Response, prepared: Prepared) -> AsyncGenerator[list[ChatEvent], None]:
        """As every answer, held back until it says something: until then another account's may take its place.

        Raises:
            _AtLimit: The account is at its limit, which the provider may say in an answer that seemed to begin well.
        """
        held: list[ChatEvent] = []
        begun = False
        async with aclosing(super()._answer(response, prepared)) as answer:
            async for events in answer:
                error = events[-1].error if events[-1].HasField("error") else None
                if error is not None and error.upstream_code == USAGE_LIMIT and response.status < 300:
                    assert isinstance(response, AccountResponse)
                    await response.account.limited(error)
                    if not begun and judge(events) is not True:
                        raise _AtLimit([*held, *events])
                if begun:
                    yield events
                    continue
                held += events
                if judge(events):
                    begun = True
                    yield held
        if not begun and held:
            yield held

    def _prepare(self, request: ChatRequest) -> Prepared:
        prepared = super()._prepare(request)
        return (
            replace(prepared, body=_begun_with(self._instructions, prepared.body)) if self._instructions else prepared
        )

    async def list_models(self, caller: Credential | None) -> list[Model]:
        """The configured models if there are any, else those the accounts' plan offers. Raises PatchbayError."""
        if self._backend.models or self._backend.model or self._profile.models_path is None:
            return await super().list_models(caller)
        headers = self._headers({}, caller)
        async with self._upstream.request("GET", self._profile.models_path, headers=headers) as response:
            if response.status >= 300:
                raise PatchbayError(await self._read_error(response))
            try:
                listed = msgspec.json.decode(await read_all(response, _MAX_LIST_BYTES), type=_Models).models
                models = [(raw, _decode_info(raw)) for raw in listed]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise PatchbayError(make_error(UPSTREAM, "the upstream's model list cannot be read")) from error
        return [self._listed(raw, info) for raw, info in models if info.visibility != "hide"]

    def _listed(self, raw: msgspec.Raw, info: _ModelInfo) -> Model:
        return Model(
            id=info.slug,
            display_name=info.display_name or "",
            backend=self.name,
            owned_by=self._profile.owned_by,
            codex_json=bytes(raw).decode(),
        )


def _text_of(backend: str, path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() if path is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SettingsError(f"backends.{backend}.inject_instructions: {path} cannot be read: {why}") from error


def _begun_with(text: str, body: bytes) -> bytes:
    """A request whose instructions begin with the operator's."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    own = msgspec.json.decode(fields.get("instructions", b"null"))
    whole = f"{text}\n\n{own}" if isinstance(own, str) and own else text
    fields["instructions"] = msgspec.Raw(msgspec.json.encode(whole))
    return msgspec.json.encode(fields)
