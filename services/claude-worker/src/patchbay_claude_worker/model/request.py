"""Turns a body of the Messages API into what the program is told.

The program builds a request of its own and lays `CLAUDE_CODE_EXTRA_BODY` over it
(https://code.claude.com/docs/en/settings#environment-variables): every field of the client's body but its model and
system prompt arrives upstream as the client wrote it, messages and tools too. So no history has to be played to the
program, no text of the client's is ever a prompt that it looks into for commands and file names, and tools are the
model's and the client's affair alone. The system prompt goes the program's own way, behind its own first block, which
is never replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from patchbay.canonical import Warning
from patchbay.dialects.hints import is_attribution
from patchbay.errors import InvalidRequest
from patchbay_claude_worker.cli.messages import NULL, apply_settings, initialize, user_message

# What the program sets itself.
_OWN_FIELDS = frozenset({"model", "system", "stream"})
# Takes the place of the client's prompt, which the messages of the body replace again.
_PROMPT = "-"
# What the program would take for its own first block, and put in its place.
_OWN_NAME = re.compile(r"You are (?:Claude Code|a Claude agent), .*")
# A request may have four cache marks, and the program sets two on its system prompt.
_MOST_MARKS_BESIDE_SYSTEM = 2

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _CacheControl(msgspec.Struct):
    ttl: str = "5m"


class _SystemBlock(msgspec.Struct):
    type: str = "text"
    text: str = ""
    cache_control: _CacheControl | None = None


_decode_system = msgspec.json.Decoder(str | list[_SystemBlock]).decode


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request, ready for a process.

    Attributes:
        lines: What to write to it.
        control_ids: The ids of the control requests among them, to be answered.
        stream: Whether the client wants a stream, and not one body.
        warnings: What the upstream will not get.
    """

    lines: tuple[bytes, ...]
    control_ids: tuple[str, ...]
    stream: bool
    warnings: tuple[Warning, ...] = ()


def model_request(body: bytes, *, betas: str, keeps_account: bool) -> ModelRequest:
    """Builds the lines for a process.

    Args:
        body: A request body of the Messages API.
        betas: The client's `anthropic-beta` header; empty for none.
        keeps_account: Whether the program's own `metadata`, which names the account that is signed in, stays.

    Raises:
        InvalidRequest: The body is not an object, or its system prompt no text.
    """
    try:
        fields = _decode_fields(body)
        model = msgspec.json.decode(fields.get("model", NULL), type=str)
        system, cache = _system(fields.get("system", NULL))
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request body cannot be read: {error}") from error
    extra = {name: value for name, value in fields.items() if name not in _OWN_FIELDS and bytes(value) != b"null"}
    warnings = []
    if keeps_account and extra.pop("metadata", None) is not None:
        warnings.append(
            Warning(parameter="metadata", message="is not sent; this backend names the account that is signed in")
        )
    environment = {"CLAUDE_CODE_EFFORT_LEVEL": "unset"}
    if "thinking" not in extra:
        if "top_p" in extra and "temperature" not in extra:
            # Told not to think, the program adds a temperature, and models refuse the two together.
            extra["thinking"] = msgspec.Raw(b'{"type":"disabled"}')
        else:
            environment["CLAUDE_CODE_DISABLE_THINKING"] = "1"
    if betas:
        environment["ANTHROPIC_BETAS"] = betas
    if cache and body.count(b'"cache_control"') - bytes(fields["system"]).count(b'"cache_control"') <= (
        _MOST_MARKS_BESIDE_SYSTEM
    ):
        environment["DISABLE_PROMPT_CACHING"] = ""
        if cache == "1h":
            # A mark for an hour may not come after a shorter one, and the client's may follow in its messages.
            environment["ENABLE_PROMPT_CACHING_1H"] = "1"
    environment["CLAUDE_CODE_EXTRA_BODY"] = msgspec.json.encode(extra).decode()
    ids = ("initialize", "settings")
    lines = (
        initialize(ids[0], systemPrompt=system),
        apply_settings(ids[1], model=model, environment=environment),
        user_message(_PROMPT),
    )
    stream = bytes(fields.get("stream", NULL)) == b"true"
    return ModelRequest(lines, ids, stream, tuple(warnings))


def _system(raw: msgspec.Raw) -> tuple[str, str]:
    """The system prompt as the program takes it, and how long the client wants it in the cache; empty: not at all."""
    if bytes(raw) == b"null":
        return "", ""
    system = _decode_system(raw)
    blocks = [_SystemBlock(text=system)] if isinstance(system, str) else system
    if any(block.type != "text" for block in blocks):
        raise InvalidRequest("system: may hold only text", "system")
    # One text, as the program would join them: of several it takes some for its own, by their words.
    text = "\n\n".join(text for block in blocks if (text := _without_attribution(block.text)))
    if _OWN_NAME.fullmatch(text):
        text = f"\n{text}"
    ttls = {block.cache_control.ttl for block in blocks if block.cache_control is not None}
    return text, "1h" if "1h" in ttls else next(iter(ttls), "")


def _without_attribution(text: str) -> str:
    """A text of the system prompt without Claude Code's line about itself: another program sends this request."""
    return text.partition("\n")[2].lstrip("\n") if is_attribution(text) else text


def betas_of(headers: Mapping[str, str]) -> str:
    """The client's own beta features, from the request's headers."""
    return headers.get("anthropic-beta", "")
