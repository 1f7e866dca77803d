"""Turns that go on from earlier responses: what was said before is put before what is said now.

Every backend gets the whole conversation, whichever edge and worker had the turn before. A backend that keeps responses
itself gets the very request, with its `previous_response_id`, when it has made that response, or when we do not know it
and it cannot be another caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from patchbay.dialects.openai_responses import RecordedResponse, echo_of
from patchbay.errors import CONTEXT_LENGTH, INVALID_REQUEST, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.state.connection import RedisUnavailable
from patchbay.state.responses import Context, Responses, TooLarge
from patchbay.telemetry import metrics
from patchbay_edge.responses.body import ResponsesBody
from patchbay_edge.responses.compaction import check_readable, is_trigger, opened, since_last, summary_request

# The kind of backend that keeps responses itself.
_KEEPER = "openai-responses"
# A summary is plain text, whatever the client wants its answers to be.
_SUMMARY_FIELDS = {"tool_choice": b'"none"', "text": b"null"}


class _Answer(msgspec.Struct):
    output: list[msgspec.Raw] = []


_decode_answer = msgspec.json.Decoder(_Answer).decode


@dataclass(slots=True)
class Memory:
    """The last response of one connection, which the connection alone can go on from.

    Attributes:
        max_bytes: The most that is remembered.
        response_id: Its id; empty: there is none to go on from.
        items: All that was said up to and with it, each item as JSON.
        stored: The same as it is stored; None: it is not.
    """

    max_bytes: int
    response_id: str = ""
    items: tuple[bytes, ...] = ()
    stored: Context | None = None

    def note(self, response_id: str, items: tuple[bytes, ...], stored: Context | None = None) -> None:
        """Replaces what is remembered. Of what is too much nothing is."""
        if sum(map(len, items)) > self.max_bytes:
            response_id, items, stored = "", (), None
        self.response_id, self.items, self.stored = response_id, items, stored


@dataclass(slots=True)
class Turn:
    """One request with what it goes on from.

    Attributes:
        items: The whole conversation, each item as JSON.
        keeps: Whether the answer is to be kept, for whom ever.
    """

    items: list[bytes]
    keeps: bool
    _stores: bool
    _owner: str
    _session: str
    _request: ResponsesBody
    # What it goes on from, as far as it is stored.
    _stored: Context | None
    # The items that are not stored yet, and those that were said before them.
    _brought: list[bytes]
    _before: tuple[bytes, ...]
    _unknown: str | None
    _responses: Responses
    _memory: Memory | None

    def body_for(self, backend: Backend) -> bytes:
        """The request for a backend that takes it as it is.

        Raises:
            PatchbayError: INVALID_REQUEST with OpenAI's own code when it goes on from a response that is not known.
        """
        if self._unknown is not None and not self._may_ask(backend):
            raise _not_found(self._unknown)
        goes_on = self._unknown is not None or self._is_kept_at(backend)
        return self._request.written(opened(self._request.items if goes_on else self.items), goes_on=goes_on)

    def translated(self) -> bytes:
        """The request for a backend of another dialect: where it asks for compaction, one for a summary.

        Raises:
            PatchbayError: As `body_for`, and INVALID_REQUEST for what another provider has compacted.
        """
        if self._unknown is not None:
            raise _not_found(self._unknown)
        items = opened(self.items)
        check_readable(items)
        if not self.compacts:
            return self._request.written(items, goes_on=False)
        return self._request.written(summary_request(items), goes_on=False, fields=_SUMMARY_FIELDS)

    @property
    def compacts(self) -> bool:
        """Whether it asks for compaction."""
        return bool(self._request.items) and is_trigger(self._request.items[-1])

    @property
    def echo(self) -> dict[str, bytes]:
        """What the Response repeats of the request."""
        return echo_of(self._request.body)

    def _may_ask(self, backend: Backend) -> bool:
        """Whether a backend may know a response that is not known here.

        On an account that callers share it would go on from any of theirs.
        """
        return backend.kind == _KEEPER and (not self._owner or backend.credentials == "pass_through")

    def _is_kept_at(self, backend: Backend) -> bool:
        stored = self._stored
        if stored is None or stored.response_id != self._request.previous_response_id:
            return False
        return stored.backend == backend.name

    async def keep(self, response: RecordedResponse, *, backend: Backend, native: bool) -> None:
        """Keeps the answer for the turns that go on from it. Without Redis the answer is given all the same.

        Args:
            response: The Response that the client gets.
            backend: What answered; `native`: in the Responses API.
        """
        if response.status == "failed" or not response.id:
            return
        try:
            answered = [bytes(item) for item in _decode_answer(response.json).output]
        except msgspec.DecodeError:
            # What is no list of items is nothing to go on from.
            metrics.EDGE_RESPONSES_NOT_KEPT.labels("unreadable").inc()
            return
        stored: Context | None = None
        if self._stores:
            kept_there = native and backend.kind == _KEEPER and self._request.store is not False
            stored = await self._store(response, answered, backend.name if kept_there else "")
        if self._memory is not None:
            self._memory.note(response.id, (*self._before, *self._brought, *answered), stored)

    def warm_up(self, response_id: str) -> None:
        """Has the connection go on from the request, which is not to be answered.

        Raises:
            PatchbayError: INVALID_REQUEST with OpenAI's own code when it goes on from a response that is not known.
        """
        if self._unknown is not None:
            raise _not_found(self._unknown)
        if self._memory is not None:
            self._memory.note(response_id, (*self._before, *self._brought))

    async def _store(self, response: RecordedResponse, answered: list[bytes], backend: str) -> Context | None:
        previous = self._stored
        if previous is not None and len(self._before) < len(previous.items):
            # It was compacted: what the compaction stands for is not carried along.
            previous = None
        stored: Context | None = None
        try:
            stored = await self._responses.save(
                self._owner,
                response.id,
                response=response.json,
                previous=previous,
                before=self._before,
                brought=self._brought,
                answered=answered,
                backend=backend,
            )
            if self._session:
                await self._responses.set_last(self._owner, self._session, response.id)
        except TooLarge:
            metrics.EDGE_RESPONSES_NOT_KEPT.labels("too_large").inc()
            await self._outgrow()
        except RedisUnavailable:
            metrics.EDGE_RESPONSES_NOT_KEPT.labels("redis_down").inc()
        return stored

    async def _outgrow(self) -> None:
        """Going on from an older turn, the session would lose this one without a word."""
        if not self._session:
            return
        try:
            await self._responses.outgrown(self._owner, self._session)
        except RedisUnavailable:
            metrics.EDGE_RESPONSES_NOT_KEPT.labels("redis_down").inc()


class Turns:
    """Begins turns."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses

    async def begin(
        self, request: ResponsesBody, *, owner: str, session: str = "", memory: Memory | None = None
    ) -> Turn:
        """A turn with what it goes on from.

        Args:
            owner: Whose the stored responses are (`Identity.owner`).
            session: The session that the client has named for us; empty: none.
            memory: The last response of the client's connection, where it has one for several turns.

        Raises:
            PatchbayError: UNAVAILABLE when Redis does not answer and the request cannot be understood without it,
                CONTEXT_LENGTH when the session has outgrown what is kept of one.
        """
        stored: Context | None = None
        said: tuple[bytes, ...] | None = None
        if memory is not None and memory.response_id and memory.response_id == request.previous_response_id:
            stored, said = memory.stored, memory.items
        else:
            stored = await self._stored(request, owner, session)
            said = stored.items if stored is not None else None
        items, brought = request.items, request.items
        if said is not None:
            said = since_last(said)
            repeated = request.repeated(said)
            if repeated:
                brought = request.items[repeated:]
            elif request.previous_response_id is None and request.is_whole_conversation(said):
                stored, said = None, None
            else:
                items = [*said, *request.items]
        stores = request.store is not False or bool(session)
        return Turn(
            items=items,
            keeps=stores or memory is not None,
            _stores=stores,
            _owner=owner,
            _session=session,
            _request=request,
            _stored=stored,
            _brought=brought,
            _before=said or (),
            _unknown=request.previous_response_id if said is None else None,
            _responses=self._responses,
            _memory=memory,
        )

    async def _stored(self, request: ResponsesBody, owner: str, session: str) -> Context | None:
        response_id = request.previous_response_id
        try:
            if response_id is None and session:
                response_id = await self._responses.last_of(owner, session)
            return await self._responses.load(owner, response_id) if response_id is not None else None
        except TooLarge as error:
            if request.is_whole_conversation(()):
                return None
            message = (
                "this session has grown larger than what is kept of one (sessions.max_bytes): begin another one, or "
                "send the whole conversation"
            )
            raise PatchbayError(make_error(CONTEXT_LENGTH, message)) from error
        except RedisUnavailable as error:
            if request.previous_response_id is None and request.is_whole_conversation(()):
                return None
            message = "what was said before is not at hand just now; try again"
            raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=1)) from error


def _not_found(response_id: str) -> PatchbayError:
    error = make_error(
        INVALID_REQUEST,
        f"Previous response with id '{response_id}' not found.",
        parameter="previous_response_id",
        upstream_code="previous_response_not_found",
    )
    return PatchbayError(error)
