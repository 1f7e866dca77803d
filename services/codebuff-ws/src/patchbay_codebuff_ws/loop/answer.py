"""A model's answer, from its events to what it says, thinks and calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from patchbay.canonical import BlockStart, ChatEvent, Finished, Usage
from patchbay_codebuff_ws.ports import JsonObject


class Text:
    """A text that comes delta by delta; it is put together when it is read, so that a long one takes no longer."""

    __slots__ = ("_deltas",)

    def __init__(self, text: str = "") -> None:
        self._deltas = [text]

    @property
    def text(self) -> str:
        if len(self._deltas) > 1:
            self._deltas = ["".join(self._deltas)]
        return self._deltas[0]

    def add(self, delta: str) -> None:
        self._deltas.append(delta)

    def taken(self) -> str:
        """The text, which is empty from now on."""
        text = self.text
        self._deltas = [""]
        return text


class TextPiece(Text):
    """What the model says."""

    __slots__ = ()


class ThoughtPiece(Text):
    """`kept` is what the provider wants back with it: `signature`, `redacted`, or `dialect` and `json`."""

    __slots__ = ("kept",)

    def __init__(self, *, kept: dict[str, str] | None = None) -> None:
        super().__init__()
        self.kept = kept or {}


class ToolCall(Text):
    """`input` is None when `text`, what the model wrote, is no JSON object."""

    __slots__ = ("id", "name")

    def __init__(self, call_id: str, name: str, text: str = "") -> None:
        super().__init__(text)
        self.id = call_id
        self.name = name

    @property
    def input(self) -> JsonObject | None:
        try:
            value = msgspec.json.decode(self.text or "{}")
        except msgspec.DecodeError:
            return None
        return value if isinstance(value, dict) else None


Piece: TypeAlias = TextPiece | ThoughtPiece | ToolCall


@dataclass(slots=True)
class Answer:
    """What has come of an answer so far."""

    usage: Usage = field(default_factory=Usage)
    stop_reason: Finished.StopReason.ValueType = Finished.STOP_REASON_UNSPECIFIED
    _said: Text = field(default_factory=Text)
    _thought: Text = field(default_factory=Text)
    _pieces: dict[int, Piece] = field(default_factory=dict)
    _shown: set[int] = field(default_factory=set)
    _complete_texts: list[str] = field(default_factory=list)

    @classmethod
    def of_text(cls, text: str) -> Answer:
        """An answer that is one text."""
        return cls(_pieces={0: TextPiece(text)})

    @classmethod
    def of_call(cls, call: ToolCall) -> Answer:
        """An answer that is one tool call."""
        return cls(_pieces={0: call})

    def taken(self) -> tuple[str, str]:
        """Takes what was said and thought since the last time."""
        return self._said.taken(), self._thought.taken()

    def complete_texts(self, *, all_of_them: bool = False) -> list[str]:
        """Takes the texts that are complete; `all_of_them`: the answer is over."""
        if all_of_them:
            for index in sorted(self._pieces):
                self._complete(index)
        texts, self._complete_texts = self._complete_texts, []
        return texts

    def _complete(self, index: int) -> None:
        piece = self._pieces.get(index)
        if isinstance(piece, TextPiece) and piece.text.strip() and index not in self._shown:
            self._shown.add(index)
            self._complete_texts.append(piece.text)

    @property
    def pieces(self) -> list[Piece]:
        return [piece for _, piece in sorted(self._pieces.items())]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, TextPiece))

    @property
    def calls(self) -> list[ToolCall]:
        return [piece for piece in self.pieces if isinstance(piece, ToolCall)]

    def feed(self, event: ChatEvent) -> None:
        match event.WhichOneof("event"):
            case "block_start":
                self._pieces[event.block_start.index] = _begun(event.block_start)
            case "text_delta":
                piece = self._pieces.setdefault(event.text_delta.index, TextPiece())
                piece.add(event.text_delta.text)
                self._said.add(event.text_delta.text)
            case "thinking_delta":
                thought = self._pieces.setdefault(event.thinking_delta.index, ThoughtPiece())
                thought.add(event.thinking_delta.text)
                self._thought.add(event.thinking_delta.text)
            case "signature_delta":
                signed = self._pieces.setdefault(event.signature_delta.index, ThoughtPiece())
                if isinstance(signed, ThoughtPiece):
                    signed.kept["signature"] = signed.kept.get("signature", "") + event.signature_delta.signature
            case "tool_input_delta":
                call = self._pieces.get(event.tool_input_delta.index)
                if isinstance(call, ToolCall):
                    call.add(event.tool_input_delta.text)
            case "block_stop":
                self._complete(event.block_stop.index)
            case "usage":
                self.usage.MergeFrom(event.usage)
            case "finished":
                self.stop_reason = event.finished.stop_reason

    @property
    def input_tokens(self) -> int:
        return self.usage.input_tokens + self.usage.cache_read_tokens + self.usage.cache_write_tokens


def _begun(start: BlockStart) -> Piece:
    match start.WhichOneof("kind"):
        case "tool_use":
            return ToolCall(start.tool_use.id, start.tool_use.name)
        case "thinking":
            return ThoughtPiece()
        case "redacted_thinking":
            return ThoughtPiece(kept={"redacted": start.redacted_thinking.data})
        case "opaque":
            return ThoughtPiece(kept={"dialect": start.opaque.dialect, "json": start.opaque.json})
        case _:
            return TextPiece()
