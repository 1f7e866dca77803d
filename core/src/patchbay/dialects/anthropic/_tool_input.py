"""Tool inputs as the JSON objects that the Messages API has them in.

OpenAI's `arguments` is a text that a model may get wrong, and its custom tools take any text. What is not an object
travels inside one, so that nothing is lost; no text at all, and `null`, is an empty object.
"""

from __future__ import annotations

import msgspec

from patchbay.dialects.anthropic._json import carried, dump, load_fields

# The field that holds arguments which are no object, and the one that holds the input of a custom tool.
_ARGUMENTS = "arguments"
_INPUT = "input"
_NULL = "null"


def tool_input(text: str) -> tuple[msgspec.Raw, bool]:
    """A whole input as an object, and whether the text was one."""
    if text.strip() in ("", _NULL):
        return msgspec.Raw(b"{}"), True
    try:
        load_fields(text)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(dump({_ARGUMENTS: text})), False
    return carried(text), True


def free_input(text: str) -> dict[str, object]:
    """The input of a custom tool as an object."""
    return {_INPUT: text}


class ToolInputWriter:
    """Writes one streamed input. What begins as an object is passed on as it is.

    Args:
        is_free: The input is the free text of a custom tool.
    """

    def __init__(self, *, is_free: bool) -> None:
        # What has come before its first character, or may still be nothing but `null`.
        self._held = ""
        self._decided = is_free
        self._wraps = is_free
        self._opening = f'{{"{_INPUT if is_free else _ARGUMENTS}":"'

    def start(self) -> str:
        """What there is to say at the start of the call."""
        return self._opening if self._wraps else ""

    def feed(self, text: str) -> str:
        """What there is to say for the next piece of the input."""
        if self._decided:
            return _escaped(text) if self._wraps else text
        text = self._held + text
        begun = text.lstrip()
        if _NULL.startswith(begun.rstrip()):
            self._held = text
            return ""
        self._decided = True
        self._wraps = not begun.startswith("{")
        return self._opening + _escaped(text) if self._wraps else text

    def stop(self) -> str:
        """What there is to say at the end of the call."""
        held = self._held.strip() if not self._decided else ""
        if held and held != _NULL:
            return self._opening + _escaped(self._held) + '"}'
        return '"}' if self._wraps else ""


def _escaped(text: str) -> str:
    return dump(text)[1:-1].decode()
