"""Writes the conversation of a Messages API request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchbay.canonical import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, Chat, Message
from patchbay.dialects.anthropic._json import Fields, Object, add_missing, load_fields
from patchbay.dialects.anthropic._write_blocks import BlockWriter, Written, type_of
from patchbay.dialects.call_results import paired
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.tool_names import ToolNames
from patchbay.errors import InvalidRequest

_SYSTEM_ROLES = (ROLE_SYSTEM, ROLE_DEVELOPER)


@dataclass(slots=True)
class _Turn:
    role: str
    content: list[Written]
    extension: Fields

    @property
    def has_tool_result(self) -> bool:
        return any(type_of(block) == "tool_result" for block in self.content)


class MessageWriter:
    """Writes messages so that the API takes them, each at its place.

    - A system or developer message inside the conversation stays one where the model takes it and it stands where the
      API allows it: behind a user turn, with an assistant turn or nothing after it. Elsewhere it becomes a user message
      with the same text.
    - Tool results stand right behind their calls. Those in consecutive messages become one message, as the API wants
      all results of a turn together.
    - A message with nothing left to say is left out.
    """

    def __init__(self, warnings: Warnings, names: ToolNames, *, system_messages: bool) -> None:
        self._warnings = warnings
        self._blocks = BlockWriter(warnings, names)
        self._system_messages = system_messages
        self._turns: list[_Turn] = []

    def write(self, chat: Chat) -> list[Object]:
        """The messages of the conversation.

        Raises:
            InvalidRequest: There is nothing to send.
        """
        messages = list(paired(chat.messages))
        for index, message in enumerate(messages):
            self._write(message, messages[index + 1 : index + 2])
        if not self._turns:
            raise InvalidRequest("messages: at least one message is required", "messages")
        return [self._object(turn) for turn in self._turns]

    def system(self, chat: Chat) -> list[Written]:
        """The system prompt, which is text only."""
        written = self._blocks.blocks(chat.system)
        texts = [block for block in written if type_of(block) == "text"]
        if len(texts) < len(written):
            self._warnings.dropped("system", "may hold only text with this backend; the rest is not supported")
        return texts

    def _write(self, message: Message, following: Sequence[Message]) -> None:
        if message.HasField("name"):
            self._warnings.dropped("name")
        content = self._blocks.blocks(message.blocks)
        if not content:
            return
        extension = load_fields(self._warnings.own_extension(message.extensions)) if message.extensions else {}
        if message.role in _SYSTEM_ROLES:
            self._write_system(_Turn("system", content, extension), following, is_system=message.role == ROLE_SYSTEM)
            return
        turn = _Turn("assistant" if message.role == ROLE_ASSISTANT else "user", content, extension)
        if turn.role == "user" and turn.has_tool_result:
            self._write_results(turn)
        else:
            self._turns.append(turn)

    def _write_results(self, turn: _Turn) -> None:
        last = self._turns[-1] if self._turns else None
        together = last is not None and last.role == "user" and last.has_tool_result and not last.extension
        if together and last is not None and not turn.extension:
            last.content.extend(turn.content)
        else:
            self._turns.append(turn)

    def _write_system(self, turn: _Turn, following: Sequence[Message], *, is_system: bool) -> None:
        behind_user = bool(self._turns) and self._turns[-1].role == "user"
        before_assistant = not following or following[0].role == ROLE_ASSISTANT
        if self._system_messages and behind_user and before_assistant:
            self._turns.append(turn)
            return
        if is_system:
            self._warnings.add(
                "messages",
                "a system message inside the conversation is not supported here; it is sent as a user message",
            )
        turn.role = "user"
        self._turns.append(turn)

    @staticmethod
    def _object(turn: _Turn) -> Object:
        written: Object = {"role": turn.role, "content": turn.content}
        add_missing(written, turn.extension)
        return written
