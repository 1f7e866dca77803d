"""One turn of an agent: a prompt goes to its process, what it does comes back, questions are asked on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import structlog

from patchbay.canonical import ChatEvent
from patchbay.errors import TIMEOUT, UPSTREAM, PatchbayError, make_error
from patchbay.settings import Timeouts
from patchbay.settings.claude_cli import MessageMode
from patchbay.state.permissions import Decision
from patchbay.upstream.silence import SilenceWatch
from patchbay_claude_worker.agent.answer import AgentAnswer
from patchbay_claude_worker.agent.prompt import Prompt
from patchbay_claude_worker.cli.messages import (
    Message,
    apply_settings,
    assistant_message,
    control_refusal,
    control_request,
    control_response,
    initialize,
    user_message,
)
from patchbay_claude_worker.cli.process import CliProcess, ProcessDied, ProcessHangs

log = structlog.get_logger(__name__)

Ask = Callable[[str, msgspec.Raw], Awaitable[Decision]]
"""Asks a person whether a tool may run: (its name, its input) -> the decision."""

Mirror = Callable[[Message], None]
"""Takes a piece of the transcript."""


class _CanUseTool(msgspec.Struct):
    subtype: str = ""
    tool_name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class AgentTurn:
    """One turn.

    Args:
        process: The agent's process, of which nothing else is asked meanwhile.
        ask: For tools that need a permission.
        mirror: For the transcript.
        timeouts: `first_byte` and `idle` bound how long the upstream may be silent; tools and people may take longer.
        silence: How long the program itself may take to answer, in seconds.

    Attributes:
        session_id: The agent's own id of the conversation, once it has said so.
    """

    def __init__(self, process: CliProcess, *, ask: Ask, mirror: Mirror, timeouts: Timeouts, silence: float) -> None:
        self._process = process
        self._ask = ask
        self._mirror = mirror
        self._timeouts = timeouts
        self._silence = silence
        self._questions: dict[str, asyncio.Task[None]] = {}
        self._begun = False
        self.session_id = ""

    async def prepare(self, prompt: Prompt, *, model: str) -> None:
        """Readies a process: tells it how to work, if it is new, and what was said before.

        Raises:
            ProcessDied, ProcessHangs: It does not take it.
            PatchbayError: It refuses it.
        """
        if not self._process.requests:
            system = {"appendSystemPrompt": prompt.system} if prompt.system else {}
            await self._request(lambda request_id: initialize(request_id, **system))
        await self._request(lambda request_id: apply_settings(request_id, model=model, environment=prompt.environment))
        for message in prompt.history:
            if message["role"] == "assistant":
                await self._process.send([assistant_message(message["content"], model=model)], seconds=self._silence)
            else:
                # Each one has an empty result of its own; the next line may not come before it.
                line = user_message(message["content"], should_query=False)
                await self._process.send([line], seconds=self._silence)
                await self._process.wait_for(self._is_result, seconds=self._silence)

    async def _request(self, line_of: Callable[[str], bytes]) -> None:
        """Sends a control request, and waits until it is granted."""
        request_id = self._process.next_id()
        await self._process.send([line_of(request_id)], seconds=self._silence)

        def is_answer(message: Message) -> bool:
            self._note(message)
            return message.response is not None and message.response.request_id == request_id

        response = (await self._process.wait_for(is_answer, seconds=self._silence)).response
        assert response is not None
        if response.subtype == "error":
            reason = f"the claude program refused its settings: {response.error}"
            raise PatchbayError(make_error(UPSTREAM, reason))

    def _is_result(self, message: Message) -> bool:
        self._note(message)
        return message.type == "result"

    def _note(self, message: Message) -> None:
        if message.type == "transcript_mirror":
            self._mirror(message)

    async def answer(self, prompt: Prompt, mode: MessageMode) -> AsyncGenerator[list[ChatEvent], None]:
        """Sends the prompt and gives the answer's events.

        Raises:
            ProcessDied, ProcessHangs: The process ends, or does not read.
            PatchbayError: TIMEOUT when the upstream is silent for too long.
        """
        self._process.requests += 1
        await self._process.send([user_message(prompt.content)], seconds=self._silence)
        answer = AgentAnswer(mode)
        try:
            with SilenceWatch(self._timeouts.first_byte) as watch:
                while not answer.ended:
                    messages = await self._read()
                    if not messages:
                        # It lives, and the upstream is as silent as before.
                        continue
                    events = self._take(messages, answer)
                    watch.pause()
                    if events:
                        watch.limit(self._timeouts.idle)
                    yield events
                    # A tool takes its time, and so do people.
                    if not answer.is_working and not self._questions:
                        watch.heard()
        except TimeoutError as error:
            raise PatchbayError(make_error(TIMEOUT, "the upstream did not answer in time")) from error
        finally:
            await self._withdraw()

    def _take(self, messages: list[Message], answer: AgentAnswer) -> list[ChatEvent]:
        """The events that messages are worth."""
        events: list[ChatEvent] = []
        for message in messages:
            # What comes before is left over from the turn before, and what comes after the end belongs to none.
            self._begun = self._begun or (message.type == "system" and message.subtype == "init")
            if self._begun and message.session_id:
                self.session_id = message.session_id
            self._serve(message)
            if self._begun and not answer.ended:
                events += answer.feed(message)
        return events

    async def _read(self) -> list[Message]:
        """The next messages; none when the program has only shown that it lives, which it is asked for when silent.

        Raises:
            ProcessHangs: It does not answer that either.
        """
        asked = ""
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    messages = await self._process.read()
            except TimeoutError as error:
                if asked:
                    raise ProcessHangs(f"the claude process did not answer for {self._silence:g} s") from error
                asked = self._process.next_id()
                await self._process.send([control_request(asked, "mcp_status")], seconds=self._silence)
                continue
            return [message for message in messages if message.response is None]

    def _serve(self, message: Message) -> None:
        """Takes what is not part of the answer: the transcript, and the program's own questions."""
        request_id = message.request_id or ""
        match message.type:
            case "transcript_mirror":
                self._mirror(message)
            case "control_request":
                task = asyncio.create_task(self._reply(request_id, message.request), name="agent-question")
                self._questions[request_id] = task
                task.add_done_callback(lambda _: self._questions.pop(request_id, None))
            case "control_cancel_request" if request_id in self._questions:
                self._questions[request_id].cancel()

    async def _reply(self, request_id: str, raw: msgspec.Raw) -> None:
        question = msgspec.json.decode(raw, type=_CanUseTool)
        if question.subtype == "can_use_tool":
            decision = await self._ask(question.tool_name, question.input)
            line = control_response(request_id, _permission(decision, question.input))
        else:
            line = control_refusal(request_id, f"{question.subtype} is not supported")
        try:
            await self._process.send([line], seconds=self._silence)
        except (ProcessDied, ProcessHangs) as error:
            # Whoever reads its answer hears of it too, or waits no longer than for an upstream.
            log.debug("nobody_to_answer", error=str(error))

    async def _withdraw(self) -> None:
        questions = list(self._questions.values())
        for task in questions:
            task.cancel()
        if questions:
            await asyncio.wait(questions)


def _permission(decision: Decision, asked: msgspec.Raw) -> dict[str, object]:
    """https://code.claude.com/docs/en/agent-sdk/permissions"""
    if decision.allowed:
        return {
            "behavior": "allow",
            "updatedInput": asked if decision.updated_input is None else decision.updated_input,
        }
    return {"behavior": "deny", "message": decision.reason or "The operator denied this."}
