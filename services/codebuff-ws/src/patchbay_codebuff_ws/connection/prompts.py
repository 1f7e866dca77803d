"""What a client asks, read from its frame; and how it is run to an end, which there is in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from patchbay.dispatch.callers import Callers, Identity
from patchbay.errors import InvalidRequest, PatchbayError
from patchbay_codebuff_ws.connection.project import Project, has_project, read_project
from patchbay_codebuff_ws.connection.prompt_client import Stop
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import Client, JsonObject, Loop, Prompt, PromptResult

log = structlog.get_logger(__name__)

_COST_MODES = frozenset({"lite", "normal", "max", "experimental", "ask"})
# What agents have to end by themselves, with what they have done so far, once they are to stop.
_GRACE_SECONDS = 2.0

SHUTTING_DOWN = "This service is being restarted and had no time to finish the answer. Send the prompt again."


class RunningClient(Client, Protocol):
    """A `Client`, seen from the side of its connection."""

    prompt_id: str
    stopping: asyncio.Event
    stop: Stop | None

    def cancel(self, why: Stop = Stop.CANCELLED) -> None: ...

    def before_end(self) -> None: ...

    def finished(self, result: PromptResult) -> str: ...

    def failed(self, message: str) -> str: ...

    def given_up(self, session_state: JsonObject) -> str: ...


def identify(callers: Callers, headers: Mapping[str, str], token: object) -> Identity:
    """Who asks: by the token in the frame, which comes in place of the header that carries one elsewhere.

    Raises:
        PatchbayError: Nobody who is known here.
    """
    if isinstance(token, str) and token:
        # As a header's text, which stands for the bytes sent.
        bearer = token.encode(errors="replace").decode("latin-1")
        headers = {**headers, "authorization": f"Bearer {bearer}"}
    return callers.identify(headers)


def read_prompt(
    action: JsonObject, *, kept: Project | None, identity: Identity, request_id: str
) -> tuple[Prompt, Mapping[str, str]]:
    """What a prompt's frame asks, and the contents of files that have come with its project.

    Args:
        kept: The project that the client told of before.

    Raises:
        InvalidRequest: Something in it is not what it must be.
    """
    session = _object(action, "sessionState") or {}
    files: Mapping[str, str] = {}
    if not has_project(session) and kept is not None:
        session, files = {**session, "fileContext": kept.context}, kept.files
    elif (project := read_project(session.get("fileContext"))) is not None and project.files:
        session, files = {**session, "fileContext": project.context}, project.files
    content = action.get("content")
    if content is not None and not isinstance(content, list):
        raise InvalidRequest("`content` must be a list of parts")
    text = action.get("prompt")
    if text is not None and not isinstance(text, str):
        raise InvalidRequest("`prompt` must be a text")
    cost_mode = text_of(action.get("costMode"))
    prompt = Prompt(
        prompt_id=text_of(action.get("promptId")),
        text=text or "",
        content=tuple(part for part in content or () if isinstance(part, dict)),
        params=_object(action, "promptParams"),
        agent_id=text_of(action.get("agentId")) or None,
        cost_mode=cost_mode if cost_mode in _COST_MODES else "normal",
        session_state=session,
        caller=identity.caller,
        owner=identity.owner,
        credential=identity.credential,
        request_id=request_id,
    )
    return prompt, files


def custom_tools(session_state: JsonObject) -> frozenset[str]:
    """The names of the tools that a client brings along."""
    context = session_state.get("fileContext")
    tools = context.get("customToolDefinitions") if isinstance(context, dict) else None
    return frozenset(tools) if isinstance(tools, dict) else frozenset()


async def run_to_end(loop: Loop, prompt: Prompt, client: RunningClient) -> tuple[str, str]:
    """Runs a prompt: how it ended, in a word, and the frame that says so. Raises nothing but cancellation."""
    running = asyncio.create_task(loop.run(prompt, client), name=f"prompt-{prompt.request_id}")
    stopping = asyncio.create_task(client.stopping.wait(), name="stopping")
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and client.stop is Stop.CANCELLED:
            await asyncio.wait((running,), timeout=_GRACE_SECONDS)
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.wait((running, stopping))
    if client.stop is Stop.SHUTDOWN and (running.cancelled() or running.exception() is not None):
        return "shutdown", client.failed(SHUTTING_DOWN)
    if running.cancelled() and client.stop is Stop.CANCELLED:
        return "given_up", client.given_up(prompt.session_state)
    try:
        return ("cancelled" if client.cancelled else "finished"), client.finished(running.result())
    except (Exception, asyncio.CancelledError) as error:
        if (known := _patchbay_error(error)) is not None:
            return "error", client.failed(known.error.message)
        log.error("prompt_crashed", request_id=prompt.request_id, exc_info=error)
        return "crashed", client.failed(f"The service failed; its log has the details under {prompt.request_id}.")


def _patchbay_error(error: BaseException) -> PatchbayError | None:
    """The error that a client may see, if there is one and it came alone or with others of its kind."""
    if isinstance(error, PatchbayError):
        return error
    if isinstance(error, BaseExceptionGroup):
        known = [_patchbay_error(one) for one in error.exceptions]
        return known[0] if all(one is not None for one in known) else None
    return None


def _object(action: Mapping[str, Any], name: str) -> JsonObject | None:
    value = action.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"`{name}` must be an object")
    return value
