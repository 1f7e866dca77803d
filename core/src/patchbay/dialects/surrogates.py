"""Mends JSON text that holds halves of UTF-16 surrogate pairs, or bytes that are no UTF-8.

Programs that cut strings by code unit or by byte leave them behind: a client that shortens a tool's output, a server
that cuts its text into pieces. No decoder takes them, and the rest of the text is worth having.
"""

from __future__ import annotations

import re

# An escaped backslash and a whole pair are passed over; what is captured is half of a pair.
_HALF = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_REPLACEMENT = b"\\ufffd"
_QUOTE = ord('"')


def mend_text(text: bytes) -> bytes:
    """The text with a replacement character in place of what is none."""
    return TextMender(is_piecewise=False).mend(text)


class TextMender:
    """Mends the pieces of one stream, in order.

    Args:
        is_piecewise: Whether a pair may be cut between two pieces; then it is put together again.
    """

    def __init__(self, *, is_piecewise: bool = True) -> None:
        self._is_piecewise = is_piecewise
        # The first half of a pair, at the end of a string.
        self._first = b""

    def mend(self, text: bytes) -> bytes:
        """The next piece, which is one JSON text."""
        if not text.isascii():
            text = text.decode(errors="replace").encode()
        if b"\\ud" in text or b"\\uD" in text:
            return _HALF.sub(self._replace, text)
        return text

    def _replace(self, match: re.Match[bytes]) -> bytes:
        half: bytes | None = match[1]
        if half is None:
            return match[0]
        text = match.string
        if half[3] in b"89abAB":
            if self._is_piecewise and match.end() < len(text) and text[match.end()] == _QUOTE:
                self._first = half
                return b""
        elif self._first and text[match.start() - 1] == _QUOTE:
            first, self._first = self._first, b""
            return first + half
        return _REPLACEMENT
