"""Text from elsewhere, made safe to show on a terminal."""

from __future__ import annotations

import msgspec

_TAB = "    "


def printable(text: str) -> str:
    """The text in one line, with an escape such as `\\x1b` in place of everything that is not plainly visible.

    Terminals obey control characters, and invisible or direction-changing ones make a command look like another.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def json_lines(raw: bytes) -> list[str]:
    """A tool's input, a JSON object, as lines to read: its texts as they are, anything else as JSON."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return [printable(raw.decode(errors="replace"))]
    lines: list[str] = []
    for name, value in fields.items():
        lines += _field(printable(name), bytes(value))
    return lines or ["(no input)"]


def _field(name: str, value: bytes) -> list[str]:
    if value.startswith(b'"'):
        first, *more = msgspec.json.decode(value, type=str).split("\n")
        if not more:
            return [f"{name}: {printable(first)}"]
        return [f"{name}:", *(f"  | {printable(line.replace(chr(9), _TAB))}" for line in (first, *more))]
    first, *more = msgspec.json.format(value, indent=2).decode().split("\n")
    return [f"{name}: {printable(first)}", *(f"  {printable(line)}" for line in more)]


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
