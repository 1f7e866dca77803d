"""Edits of files, computed here: the client is sent whole files, which cannot fail to apply."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Longer files are not compared: it would take too long, and nobody reads such a diff.
_MAX_DIFF_LINES = 10_000
_FENCE = re.compile(r"\A\s*```[^\n`]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_FENCE_LINE = re.compile(r"^[ \t]*```([^\n]*)$", re.MULTILINE)
_LAZY = re.compile(
    r"^[ \t]*(?://|#|--|/\*|<!--|\{/\*|;|%)[ \t]*\.{3}.*\b(?:existing|rest|remaining|unchanged|same|previous)\b.*$",
    re.IGNORECASE | re.MULTILINE,
)


class EditError(Exception):
    """An edit cannot be made; the message is for the model."""


@dataclass(frozen=True, slots=True)
class Replacement:
    old: str
    new: str
    allow_multiple: bool = False


def replace_in(content: str | None, replacements: Sequence[Replacement]) -> tuple[str, list[str]]:
    """The content after the replacements, and what did not go as asked.

    Each is looked for as it is, then at another indentation, then with any white space. A file's line ends stay.

    Raises:
        EditError: There is no such file, or nothing was changed.
    """
    if content is None:
        raise EditError("The file does not exist, so that nothing in it can be replaced. Create it with write_file.")
    crlf = "\r\n" in content
    text = content.replace("\r\n", "\n")
    before = text
    problems: list[str] = []
    for replacement in replacements:
        try:
            text = _replaced(text, replacement)
        except EditError as error:
            problems.append(str(error))
    if text == before:
        raise EditError("\n\n".join(problems) or "The replacements change nothing.")
    return (text.replace("\n", "\r\n") if crlf else text), problems


def _replaced(text: str, replacement: Replacement) -> str:
    old, new = replacement.old.replace("\r\n", "\n"), replacement.new.replace("\r\n", "\n")
    if not old:
        raise EditError("The old string is empty: give the text to replace, or use write_file.")
    count = text.count(old)
    if count == 1 or (count and replacement.allow_multiple):
        return text.replace(old, new)
    if count:
        raise EditError(
            f"Found {count} occurrences of {_quoted(old)}. Give more of the text around it, or set allowMultiple."
        )
    shifted = _at_other_indentation(text, old, new, replacement.allow_multiple)
    if shifted is not None:
        return shifted
    loose = _with_any_space(text, old, new, replacement.allow_multiple)
    if loose is not None:
        return loose
    raise EditError(
        f"The old string {_quoted(old)} was not found in the file, so that it was not replaced. "
        "Read the file again and give the text exactly as it is there."
    )


def _at_other_indentation(text: str, old: str, new: str, allow_multiple: bool) -> str | None:
    """Replaces lines that are `old` but for a shift of all of them by the same indentation."""
    lines, wanted = text.split("\n"), old.strip("\n").split("\n")
    stripped = [line.strip() for line in lines]
    target = [line.strip() for line in wanted]
    if not any(target):
        return None
    places = [
        at
        for at in range(len(lines) - len(target) + 1)
        if stripped[at] == target[0]
        and stripped[at : at + len(target)] == target
        and _shift(lines[at : at + len(target)], wanted) is not None
    ]
    places = _apart(places, len(target))
    if not places or (len(places) > 1 and not allow_multiple):
        return None
    for at in reversed(places):
        shift = _shift(lines[at : at + len(target)], wanted)
        assert shift is not None
        lines[at : at + len(target)] = [_moved(line, shift) for line in new.strip("\n").split("\n")] if new else []
    return "\n".join(lines)


def _shift(found: Sequence[str], wanted: Sequence[str]) -> tuple[str, str] | None:
    """What indentation of `wanted` became which in `found`; None when the lines did not move together."""
    shifts: set[tuple[str, str]] = set()
    for has, asked in zip(found, wanted, strict=True):
        if not asked.strip():
            continue
        there, here = _indent(has), _indent(asked)
        common = 0
        while common < min(len(there), len(here)) and there[-1 - common] == here[-1 - common]:
            common += 1
        shifts.add((here[: len(here) - common], there[: len(there) - common]))
    if len(shifts) == 1:
        return shifts.pop()
    return None


def _moved(line: str, shift: tuple[str, str]) -> str:
    cut, added = shift
    if not line.strip():
        return line
    return added + (line[len(cut) :] if line.startswith(cut) else line.lstrip())


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _apart(places: Sequence[int], length: int) -> list[int]:
    """The places that do not overlap one before."""
    kept: list[int] = []
    for place in places:
        if not kept or place >= kept[-1] + length:
            kept.append(place)
    return kept


def _with_any_space(text: str, old: str, new: str, allow_multiple: bool) -> str | None:
    """Replaces what is `old` but for its white space. Linear in the text, whatever it holds."""
    signs = [(at, sign) for at, sign in enumerate(text) if not sign.isspace()]
    packed = "".join(sign for _, sign in signs)
    wanted = "".join(old.split())
    if not wanted:
        return None
    places: list[int] = []
    at = packed.find(wanted)
    while at >= 0:
        places.append(at)
        at = packed.find(wanted, at + len(wanted))
    if not places or (len(places) > 1 and not allow_multiple):
        return None
    pieces: list[str] = []
    end = 0
    for place in places:
        pieces += (text[end : signs[place][0]], new.strip())
        end = signs[place + len(wanted) - 1][0] + 1
    return "".join((*pieces, text[end:]))


def _quoted(text: str) -> str:
    return '"' + (text if len(text) <= 400 else text[:400] + "...") + '"'


def whole_file(before: str | None, content: str, *, shows_parts: bool = False) -> str:
    """What a file is to hold after `write_file`.

    Args:
        shows_parts: Whether it is about code, of which it may leave parts out.

    Raises:
        EditError: The content leaves parts out, or is what the file holds already.
    """
    fenced = _FENCE.match(content)
    if fenced is not None and not (before or "").lstrip().startswith("```"):
        within = _FENCE_LINE.search(fenced.group(1))
        # One without a language ends the first fence, which then is a part of the text and not around all of it.
        if within is None or within.group(1).strip():
            content = fenced.group(1)
    content = content.replace("\r\n", "\n")
    lazy = None if shows_parts else _LAZY.search(content)
    if lazy is not None and lazy.group(0) not in (before or ""):
        raise EditError(
            f"The content leaves out a part of the file ({_quoted(lazy.group(0).strip())}). "
            "Give the whole file, or change parts of it with str_replace."
        )
    if content and not content.endswith("\n"):
        content += "\n"
    if before is not None and "\r\n" in before:
        content = content.replace("\n", "\r\n")
    if content == before:
        raise EditError("The file holds this content already: nothing was changed.")
    return content


def unified_diff(path: str, before: str | None, after: str) -> str:
    """What changed, for the model to read; empty for a new file, whose content it has written itself."""
    if before is None:
        return ""
    old, new = before.splitlines(), after.splitlines()
    if max(len(old), len(new)) > _MAX_DIFF_LINES:
        return ""
    return "\n".join(list(difflib.unified_diff(old, new, path, path, lineterm="", n=3))[2:])
