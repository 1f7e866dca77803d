"""A backend behind HTTP: a profile of one dialect, a credential and a transport, joined."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from patchbay.canonical import Chat, ChatEvent, Error, Head, Warning
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.native import read_head
from patchbay.errors import INVALID_REQUEST, UPSTREAM, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.upstream.credentials import auth_headers
from patchbay.upstream.estimate import estimate_tokens
from patchbay.upstream.http import MAX_ERROR_BYTES, HttpUpstream
from patchbay.upstream.profile import Profile
from patchbay.upstream.transport import Response, Upstream, read_all
from patchbay.worker.service import SignIn
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    Credential,
    Model,
)

Quirks = TypeVar("Quirks")

_FORWARDED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit-", "x-codex-")
_FORWARDED_NAMES = frozenset(
    {"retry-after", "retry-after-ms", "request-id", "x-request-id", "x-should-retry", "x-reasoning-included"}
)
_MAX_LIST_BYTES = 8 * 1024 * 1024
# The end of the year 9999, the last one that dates can be written for.
_LATEST_SECONDS = 253_402_300_799


class _ModelEntry(msgspec.Struct):
    id: str
    # OpenAI says `created` in seconds, Anthropic `created_at` in ISO 8601, others what they like.
    display_name: object = None
    created: object = None
    created_at: object = None


class _ModelList(msgspec.Struct):
    data: list[_ModelEntry]


class _TokenCount(msgspec.Struct):
    input_tokens: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it goes upstream, and how its answer is to be read."""

    body: bytes
    warnings: tuple[Warning, ...]
    options: ReadOptions


class HttpProvider(Generic[Quirks]):
    """Serves one backend of an HTTP upstream, or of what answers like one.

    Args:
        backend: The backend.
        profile: What its kind of upstream is like.
        upstream: What carries the requests; left out: HTTP.
    """

    def __init__(self, backend: Backend, profile: Profile[Quirks], upstream: Upstream | None = None) -> None:
        self.name = backend.name
        self.max_concurrency = backend.max_concurrency
        self._backend = backend
        self._profile = profile
        self._dialect = profile.dialect
        self._upstream = upstream or HttpUpstream(backend.base_url, backend.timeouts)
        self.sign_in: SignIn | None = None

    async def start(self) -> None:
        """Nothing goes on beside the requests."""

    def status(self) -> BackendStatus:
        return BackendStatus(
            name=self.name,
            kind=self._backend.kind,
            dialect=self._dialect.name if self._profile.native else "",
            signed_in=self._backend.signed_in,
            detail=self._backend.detail,
            credentials=self._backend.credentials,
        )

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        """The events of one answer, as the upstream's pieces arrive. Errors are events, the last ones."""
        try:
            prepared = self._prepare(request)
            headers = self._headers(request.headers, request.credential if request.HasField("credential") else None)
            async with (
                self._upstream.request(
                    "POST", self._profile.chat_path, headers=headers, body=prepared.body
                ) as response,
                aclosing(self._answer(response, prepared)) as events,
            ):
                async for some in events:
                    yield some
        except PatchbayError as error:
            yield [ChatEvent(error=error.error)]

    async def _answer(self, response: Response, prepared: Prepared) -> AsyncGenerator[list[ChatEvent], None]:
        first = [ChatEvent(head=_head(response)), *_warnings(prepared.warnings, response.warnings)]
        if response.status >= 300:
            yield [*first, ChatEvent(error=await self._read_error(response))]
            return
        yield first
        content_type = response.content_type or prepared.options.content_type
        reader = self._dialect.read_events(replace(prepared.options, content_type=content_type))
        async with aclosing(response.pieces()) as pieces:
            async for data in pieces:
                events = reader.feed(data)
                if events:
                    last = events[-1].WhichOneof("event")
                    if last == "finished":
                        response.finished()
                    yield events
                    if last == "error":
                        return
        events = reader.close()
        if events:
            yield events

    def _prepare(self, request: ChatRequest) -> Prepared:
        if request.WhichOneof("payload") == "native":
            return self._prepare_native(request)
        return self._prepare_chat(request.chat, request.model)

    def _prepare_chat(self, chat: Chat, model: str) -> Prepared:
        # The upstream always streams, whatever the client wants: the idle timer then sees that it is alive.
        chat.stream = True
        written = self._dialect.write_request(chat, model, self._profile.quirks)
        self._check_warnings(written.warnings)
        warnings = (*written.warnings, *written.notes)
        return Prepared(written.body, warnings, ReadOptions(names=written.names))

    def _prepare_native(self, request: ChatRequest) -> Prepared:
        native = request.native
        self._check_native(native.dialect)
        edit = self._dialect.edit_native(native.body, request.model or None, self._profile.quirks)
        if edit.is_unfit:
            model = request.model or read_head(native.body).model
            return self._prepare_chat(self._dialect.read_request(native.body), model)
        self._check_warnings(edit.warnings)
        return Prepared(edit.body, edit.warnings, ReadOptions(native=True, hide_usage=edit.hide_usage))

    def _check_warnings(self, warnings: Sequence[Warning]) -> None:
        if warnings and self._backend.strict_parameters:
            first = warnings[0]
            raise PatchbayError(
                make_error(INVALID_REQUEST, f"{first.parameter}: {first.message}", parameter=first.parameter)
            )

    def _check_native(self, dialect: str) -> None:
        if dialect != self._dialect.name or not self._profile.native:
            message = f"the backend `{self.name}` does not take {dialect} bodies"
            raise PatchbayError(make_error(INVALID_REQUEST, message))

    def _headers(self, forwarded: Mapping[str, str], caller: Credential | None) -> dict[str, str]:
        headers = {"content-type": "application/json", **self._profile.headers}
        headers |= {name: value for name, value in forwarded.items() if name in self._profile.forwarded_headers}
        headers |= {name.lower(): value.get_secret_value() for name, value in self._backend.headers.items()}
        return headers | auth_headers(self._backend, self._profile.key_header, caller)

    async def _read_error(self, response: Response) -> Error:
        # The status says most of it: a body that breaks off, or never ends, is not to hide it.
        response.finished()
        body = await read_all(response, MAX_ERROR_BYTES)
        return self._dialect.errors.read(response.status, response.headers, body)

    async def count_tokens(self, request: CountTokensRequest) -> CountTokensResponse:
        """The upstream's own count, or an estimate where it has no counter. An upstream's refusal is in `error`."""
        path = self._profile.count_tokens_path
        try:
            if path is None:
                return CountTokensResponse(input_tokens=estimate_tokens(self._canonical(request)), estimated=True)
            if request.WhichOneof("payload") == "native":
                self._check_native(request.native.dialect)
                model = request.model or None
                body = self._dialect.edit_native(request.native.body, model, self._profile.quirks).body
            else:
                body = self._count_body(request)
            headers = self._headers(request.headers, request.credential if request.HasField("credential") else None)
            async with self._upstream.request("POST", path, headers=headers, body=body) as response:
                if response.status >= 300:
                    return CountTokensResponse(error=await self._read_error(response))
                count = msgspec.json.decode(await read_all(response, _MAX_LIST_BYTES), type=_TokenCount)
                return CountTokensResponse(input_tokens=count.input_tokens)
        except PatchbayError as error:
            return CountTokensResponse(error=error.error)
        except msgspec.DecodeError:
            return CountTokensResponse(error=make_error(UPSTREAM, "the upstream's token count cannot be read"))

    def _count_body(self, request: CountTokensRequest) -> bytes:
        written = self._dialect.write_request(self._canonical(request), request.model, self._profile.quirks)
        fields = msgspec.json.decode(written.body, type=dict[str, msgspec.Raw])
        counted = self._profile.count_tokens_fields
        return msgspec.json.encode({name: value for name, value in fields.items() if name in counted})

    def _canonical(self, request: CountTokensRequest) -> Chat:
        if request.WhichOneof("payload") == "native":
            self._check_native(request.native.dialect)
            return self._dialect.read_request(request.native.body)
        return request.chat

    async def list_models(self, caller: Credential | None) -> list[Model]:
        """The configured models if there are any, else the upstream's list, else the profile's.

        Raises:
            PatchbayError: When the upstream refuses or cannot be reached.
        """
        configured = self._backend.models or ([self._backend.model] if self._backend.model else [])
        if configured or self._profile.models_path is None:
            return [self._model(_ModelEntry(id=name)) for name in configured or self._profile.models]
        headers = self._headers({}, caller)
        async with self._upstream.request("GET", self._profile.models_path, headers=headers) as response:
            if response.status >= 300:
                raise PatchbayError(await self._read_error(response))
            try:
                listed = msgspec.json.decode(await read_all(response, _MAX_LIST_BYTES), type=_ModelList)
            except msgspec.DecodeError as error:
                raise PatchbayError(make_error(UPSTREAM, "the upstream's model list cannot be read")) from error
        return [self._model(entry) for entry in listed.data]

    def _model(self, entry: _ModelEntry) -> Model:
        return Model(
            id=entry.id.removeprefix("models/"),
            display_name=entry.display_name if isinstance(entry.display_name, str) else "",
            created=_seconds(entry.created) or _seconds(entry.created_at),
            backend=self.name,
            owned_by=self._profile.owned_by,
        )

    async def aclose(self) -> None:
        await self._upstream.aclose()


def _warnings(*sources: Sequence[Warning]) -> list[ChatEvent]:
    return [ChatEvent(warning=warning) for source in sources for warning in source]


def _head(response: Response) -> Head:
    headers = {
        name: value
        for name, value in response.headers.items()
        if name in _FORWARDED_NAMES or name.startswith(_FORWARDED_PREFIXES)
    }
    return Head(status=response.status, headers=headers, content_type=response.content_type)


def _seconds(moment: object) -> int:
    """A moment as seconds since the epoch; 0 when it cannot be read as one."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment).timestamp()
        except (ValueError, OverflowError):
            return 0
    if not isinstance(moment, (int, float)):
        return 0
    return int(moment) if 0 < moment < _LATEST_SECONDS else 0
