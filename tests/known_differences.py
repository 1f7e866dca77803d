"""Where a request through a `claude` process differs upstream from what the client wrote. There is no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

IDENTITY = "You are a Claude agent, built on Anthropic's Claude Agent SDK."
# What the program adds to `anthropic-beta`, by the model.
PROGRAM_BETAS = {"claude-code-20250219", "effort-2025-11-24"}

_TAKES_TEMPERATURE = re.compile(r"claude-(3|(opus|sonnet|haiku)-4-[0-6]\b)")
_ATTRIBUTION = "x-anthropic-billing-header:"


@dataclass(frozen=True)
class Difference:
    """Something that reaches the upstream other than the client wrote it.

    Args:
        says: The words for it in the docs.
        apply: Changes a client's body into what is expected upstream.
    """

    says: str
    apply: Callable[[Body], None]


def _leave_out_nulls(body: Body) -> None:
    for name in [name for name, value in body.items() if value is None]:
        del body[name]


def _write_system(body: Body) -> None:
    system = body.get("system") or []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    marks = [block["cache_control"] for block in blocks if "cache_control" in block]
    elsewhere = json.dumps({**body, "system": None}).count('"cache_control"')
    mark: Body = {}
    if marks and elsewhere <= 2:
        mark = {"cache_control": next((each for each in marks if each.get("ttl") == "1h"), marks[0])}
    texts = [block["text"] for block in blocks if not block["text"].startswith(_ATTRIBUTION)]
    text = "\n\n".join(texts)
    if re.fullmatch("You are Claude Code, .*", text):
        text = f"\n{text}"
    body["system"] = [{"type": "text", "text": each, **mark} for each in (IDENTITY, text) if each]


def _add_sampling(body: Body) -> None:
    if "thinking" in body or "temperature" in body:
        return
    if "top_p" in body:
        body["thinking"] = {"type": "disabled"}
    elif _TAKES_TEMPERATURE.search(body["model"]):
        body["temperature"] = 1


def _move_output_format(body: Body) -> None:
    if "output_format" in body:
        body["output_config"] = {**body.get("output_config", {}), "format": body.pop("output_format")}


def _write_as_javascript(body: Body) -> None:
    body.update(_javascript(body))


def _javascript(value: Any) -> Any:
    if isinstance(value, dict):
        numbers = sorted((name for name in value if re.fullmatch("0|[1-9][0-9]*", name)), key=int)
        names = [*numbers, *(name for name in value if name not in numbers)]
        return {name: _javascript(value[name]) for name in names}
    if isinstance(value, list):
        return [_javascript(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


# All of them, each also in the docs. Nothing else may differ.
DIFFERENCES = (
    Difference("The upstream is always asked for a stream", lambda body: body.update(stream=True)),
    Difference("fields that are null are left out", _leave_out_nulls),
    Difference("the program's own line about itself", _write_system),
    Difference("`tools: []`", lambda body: body.update(tools=body.get("tools", []))),
    Difference("`metadata.user_id`", lambda body: body.update(metadata=body.get("metadata", _PROGRAMS_OWN))),
    Difference("`temperature: 1`", _add_sampling),
    Difference("`output_format`", _move_output_format),
    Difference("as JavaScript writes them", _write_as_javascript),
)
_PROGRAMS_OWN = "the program's own"


def expected_upstream(client: Body) -> Body:
    """What the upstream has to get of a client's body."""
    body: Body = json.loads(json.dumps(client))
    for difference in DIFFERENCES:
        difference.apply(body)
    return body


def seen_upstream(body: object) -> Body:
    """What the upstream got, without what no test can know."""
    assert isinstance(body, dict)
    seen: Body = dict(body)
    if re.fullmatch(r'\{"device_id":"[0-9a-f]{64}","account_uuid":"","session_id":"[0-9a-f-]{36}"\}', _user_of(seen)):
        seen["metadata"] = _PROGRAMS_OWN
    return seen


def _user_of(body: Body) -> str:
    user: str = body["metadata"].get("user_id", "")
    return user


def written(body: Body) -> dict[str, str]:
    """Each field as text, so that `1` and `1.0`, and the order of keys, make a difference."""
    return {name: json.dumps(value, indent=1, ensure_ascii=False) for name, value in body.items()}
